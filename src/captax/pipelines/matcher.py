"""The matcher: a CLIP or SigLIP that tells which text fits which picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from captax.checkpoints.directory import CARD, save_model, write_directory
from captax.checkpoints.state import rebuilder
from captax.errors import CaptaxError
from captax.generation.programs import Programs, padded
from captax.images import ImageError, ImageProcessor, ImageSource
from captax.metrics.clip_score import PROMPT, clip_score, ref_clip_score
from captax.models.arithmetic import map_pictures
from captax.models.clip import Clip
from captax.models.encoders import TextBatch
from captax.models.two_towers import TwoTowers
from captax.pipelines.replicas import Replicated
from captax.pipelines.streaming import several, stream_pictures
from captax.text import Tokenizer


class Matcher(Replicated):
    """Tells how well pictures and texts fit each other."""

    def __init__(self, model: TwoTowers, processor: ImageProcessor, tokenizer: Tokenizer):
        self.model = model
        self.processor = processor
        self.tokenizer = tokenizer
        rebuild = rebuilder(model)

        def unit(x: jax.Array) -> jax.Array:
            x = x.astype(jnp.float32)
            return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

        self._see = lambda p, x: unit(map_pictures(rebuild(p).embed_images, x))
        self._read = lambda p, x: unit(rebuild(p).embed_texts(x))
        self._programs = Programs()

    def match(
        self, images: ImageSource | Sequence[ImageSource], texts: str | Sequence[str]
    ) -> Float[np.ndarray, "images texts"]:
        """For each picture, the probabilities of the texts.

        A CLIP's probabilities of a picture add up to 1: they hold given that one of the texts
        describes it. A SigLIP says of each text alone whether it describes the picture.
        """
        texts = [texts] if isinstance(texts, str) else texts
        cosines = self.embed_images(images) @ self.embed_texts(texts).T
        return np.array(self.model.probabilities(jnp.asarray(cosines)))

    def embed_images(
        self, images: ImageSource | Sequence[ImageSource], *, batch_size: int = 32
    ) -> Float[np.ndarray, "images projection"]:
        """A vector of length 1 for each picture; its product with a text's vector is the cosine.

        Raises `ImageError` for the first picture that cannot be read.
        """

        def see(pixels: Float[np.ndarray, "batch height width 3"]) -> Any:
            return self._programs.run("see", lambda: self._see, self._weights(), pixels)

        vectors = []
        pictures = several(images)
        how = {"batch_size": batch_size, "at_once": self.at_once}
        for found in stream_pictures(pictures, self.processor, see, **how):
            if isinstance(found, ImageError):
                raise found
            vectors.append(found)
        return np.stack(vectors)

    def embed_texts(
        self, texts: Sequence[str], *, batch_size: int = 32
    ) -> Float[np.ndarray, "texts projection"]:
        """A vector of length 1 for each text; a text that is too long for the model is cut."""
        time = self.model.text.max_positions
        end, reads_padding = self.tokenizer.eos_id, self.model.text.reads_padding
        sources = [[*body[: time - 1], end] for body in self._bodies(texts)]
        fill = self.tokenizer.pad_id if reads_padding else end
        vectors = [np.zeros((0, self.model.vector_width), np.float32)]
        for start in range(0, len(sources), batch_size):
            rows = sources[start : start + batch_size]
            size = padded(len(rows), batch_size)
            # Without `reads_padding`, tokens after a text's end have no effect: the model is causal
            # and pools at the end.
            tokens = np.full((size, time), fill, np.int32)
            mask = np.full((size, time), reads_padding)
            mask[:, 0] = True
            for i, row in enumerate(rows):
                tokens[i, : len(row)], mask[i, : len(row)] = row, True
            given = self._weights(), TextBatch(tokens, mask)
            found = np.asarray(self._programs.run("read", lambda: self._read, *given))
            vectors.append(found[: len(rows)])
        return np.concatenate(vectors)

    def are_cut(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is too long for the model, whose `embed_texts` reads its beginning."""
        return [len(body) >= self.model.text.max_positions for body in self._bodies(texts)]

    def _bodies(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text without the one at the end."""
        if self.model.text.has_start:
            return [row[:-1] for row in self.tokenizer.encode(texts)]
        return self.tokenizer.encode_plain(texts)

    def clip_score(
        self,
        images: ImageSource | Sequence[ImageSource],
        captions: str | Sequence[str],
        references: Sequence[Sequence[str]] | None = None,
    ) -> Float[np.ndarray, " images"]:
        """CLIPScore of each image's caption, or RefCLIPScore if `references` are given.

        Raises:
            CaptaxError: the model is not a CLIP; the numbers of images, captions and lists of
                references differ; or an image has no reference.
            ImageError: a picture cannot be read; the error names the first.
        """
        if not isinstance(self.model, Clip):
            # The cosines of other models have another range than CLIPScore's weight is for.
            raise CaptaxError(
                f"the model is a {type(self.model).__name__}, but CLIPScore needs a CLIP"
            )
        pictures = several(images)
        captions = [captions] if isinstance(captions, str) else captions
        if any(isinstance(texts, str) for texts in references or ()):
            raise CaptaxError("references must be a list of texts for each image, not a text")
        for what, found in (("captions", captions), ("lists of references", references)):
            if found is not None and len(found) != len(pictures):
                raise CaptaxError(
                    f"{len(found)} {what} for {len(pictures)} images: give one for each"
                )
        seen = self.embed_images(pictures)
        said = self.embed_texts([PROMPT + caption for caption in captions])
        if references is None:
            return clip_score(seen, said)
        counts = [len(texts) for texts in references]
        told = self.embed_texts([PROMPT + text for texts in references for text in texts])
        return ref_clip_score(seen, said, np.split(told, np.cumsum(counts[:-1])))

    def save(self, directory: str | Path, *, dtype: str | None = None, card: str = "") -> None:
        """Write a checkpoint directory that `captax.load` and transformers read."""

        def write(folder: Path) -> None:
            save_model(folder, self.model, dtype=dtype)
            self.tokenizer.save(folder)
            self.processor.save(folder)
            if card:
                (folder / CARD).write_text(card)

        write_directory(Path(directory), write)
