"""CLIPScore and RefCLIPScore, computed from a CLIP's embeddings.

Hessel, Holtzman, Forbes, Le Bras and Choi, "CLIPScore: A Reference-free Evaluation Metric for Image
Captioning", EMNLP 2021. Papers use OpenAI's ViT-B/32; values of another CLIP are not comparable.
`captax.pipelines.matcher.Matcher.clip_score` computes them for pictures and captions.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from captax.errors import CaptaxError

PROMPT = "A photo depicts "
"""The prompt before each caption, and each reference, when it is embedded."""

WEIGHT = 2.5
"""The factor of the cosine; with it, scores fill most of [0, 1]."""


def clip_score(
    images: Float[np.ndarray, "images width"], captions: Float[np.ndarray, "images width"]
) -> Float[np.ndarray, " images"]:
    """2.5 times the cosine of each image's and its caption's embedding; 0 if that is negative."""
    return WEIGHT * np.maximum(_cosines(images, captions), 0)


def ref_clip_score(
    images: Float[np.ndarray, "images width"],
    captions: Float[np.ndarray, "images width"],
    references: Sequence[Float[np.ndarray, "_ width"]],
) -> Float[np.ndarray, " images"]:
    """The harmonic mean of CLIPScore and the caption's largest cosine with a reference.

    The score is 0 if CLIPScore is 0 or no cosine is positive.

    Args:
        images: the embedding of each image.
        captions: the embedding of each image's caption.
        references: for each image, the embeddings of its references.

    Raises:
        CaptaxError: an image has no reference.
    """
    if missing := [place for place, found in enumerate(references) if not len(found)]:
        raise CaptaxError(
            f"image number {missing[0] + 1} has no reference: RefCLIPScore needs at least one"
        )
    counts = [len(found) for found in references]
    repeated = np.repeat(captions, counts, axis=0)
    cosines = _cosines(repeated, np.concatenate(references)) if counts else np.zeros(0)
    starts = np.cumsum([0, *counts[:-1]])
    nearest = np.maximum(np.maximum.reduceat(cosines, starts) if counts else cosines, 0)
    score = clip_score(images, captions)
    total = score + nearest
    return np.divide(2 * score * nearest, total, out=np.zeros_like(total), where=total > 0)


def _cosines(
    first: Float[np.ndarray, "rows width"], second: Float[np.ndarray, "rows width"]
) -> Float[np.ndarray, " rows"]:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.einsum("ij,ij->i", first, second) / lengths
