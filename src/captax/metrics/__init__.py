"""The field's caption metrics, as the COCO caption evaluation computes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from captax.errors import CaptaxError
from captax.metrics.bleu import NO_BLEU_STATISTICS, bleu_statistics
from captax.metrics.cider import CiderD
from captax.metrics.meteor import MeteorUnavailableError, meteor_available
from captax.metrics.meteor import meteor as compute_meteor
from captax.metrics.ptb import ptb_tokenize
from captax.metrics.rouge import rouge_l

__all__ = [
    "CiderD",
    "MeteorUnavailableError",
    "Scores",
    "meteor_available",
    "ptb_tokenize",
    "score",
]


@dataclass(frozen=True)
class Scores:
    """What `score` found: metric -> value for the corpus, and image id -> metric -> value.

    Metrics are "BLEU-1" to "BLEU-4", "ROUGE-L", "CIDEr-D" and, where asked for, "METEOR"; values
    are as the COCO caption evaluation prints them: up to 1, and up to 10 for CIDEr-D. The corpus'
    ROUGE-L and CIDEr-D are means over the images; its BLEU and METEOR are not.
    """

    corpus: dict[str, float]
    per_image: dict[str, dict[str, float]]


def score(
    hypotheses: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    meteor: bool = False,
) -> Scores:
    """Score one caption an image against its reference captions: image id -> raw text in both.

    Equal to https://github.com/tylin/coco-caption on the same captions. CIDEr-D's document
    frequencies are those of these references, so that a single image's is 0.

    Raises:
        CaptaxError: the ids differ, an image has no reference, or there is no image.
        MeteorUnavailableError: `meteor` is asked for and Java or pycocoevalcap is missing.
    """
    _check(hypotheses, references)
    hypothesis_tokens = {image: ptb_tokenize(text) for image, text in hypotheses.items()}
    reference_tokens = {
        image: [ptb_tokenize(text) for text in references[image]] for image in hypotheses
    }
    # The evaluation's BLEU and CIDEr-D also split at the no-break space of "1\xa01/2".
    hypothesis_words = {image: _words(tokens) for image, tokens in hypothesis_tokens.items()}
    reference_words = {
        image: [_words(tokens) for tokens in captions]
        for image, captions in reference_tokens.items()
    }

    bleu_total = NO_BLEU_STATISTICS
    per_image: dict[str, dict[str, float]] = {}
    cider, ciders = CiderD(reference_words).score(hypothesis_words)
    for image, image_cider in zip(hypotheses, ciders.tolist(), strict=True):
        statistics = bleu_statistics(hypothesis_words[image], reference_words[image])
        bleu_total += statistics
        per_image[image] = {
            **_bleu(statistics.scores()),
            "ROUGE-L": rouge_l(hypothesis_tokens[image], reference_tokens[image]),
            "CIDEr-D": image_cider,
        }
    corpus = _bleu(bleu_total.scores())
    corpus["ROUGE-L"] = sum(image["ROUGE-L"] for image in per_image.values()) / len(per_image)
    corpus["CIDEr-D"] = cider
    if meteor:
        corpus["METEOR"], meteors = compute_meteor(hypothesis_tokens, reference_tokens)
        for image, image_meteor in zip(hypotheses, meteors.tolist(), strict=True):
            per_image[image]["METEOR"] = image_meteor
    return Scores(corpus, per_image)


def _words(tokens: Sequence[str]) -> list[str]:
    return " ".join(tokens).split()


def _bleu(scores: Sequence[float]) -> dict[str, float]:
    return {f"BLEU-{order}": value for order, value in enumerate(scores, 1)}


def _check(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    if not hypotheses:
        raise CaptaxError("there is no hypothesis to score: give at least one image")
    for image in hypotheses:
        if image not in references:
            raise CaptaxError(
                f"image {image!r} has a hypothesis but no references: add them or leave it out"
            )
        if isinstance(references[image], str):
            raise CaptaxError(f"image {image!r}: references must be a list of captions, not a text")
        if not references[image]:
            raise CaptaxError(f"image {image!r} has an empty list of references: give at least one")
    for image in references:
        if image not in hypotheses:
            raise CaptaxError(
                f"image {image!r} has references but no hypothesis: caption it or leave it out"
            )
