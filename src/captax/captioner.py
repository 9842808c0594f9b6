"""The captioner: a model with all it needs to turn pictures into captions."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image

from captax.data import load_images
from captax.generation import GenerationConfig, Sequences
from captax.generator import Generated, Generator, padded
from captax.images import ImageError, ImageProcessor, ImageSource
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import Features
from captax.models.layers import map_pictures
from captax.text import Tokenizer

PROCESSOR = "preprocessor_config.json"


@dataclasses.dataclass(frozen=True)
class Caption(Generated):
    """What was said of a picture."""


class Captioner(Generator):
    """Pictures in, captions out."""

    def __init__(
        self,
        model: EncoderDecoder,
        processor: ImageProcessor,
        tokenizer: Tokenizer,
        generation: GenerationConfig | None = None,
    ):
        super().__init__(model, tokenizer, generation)
        self.processor = processor

    def caption(
        self,
        images: ImageSource | Sequence[ImageSource],
        *,
        prompt: str = "",
        batch_size: int = 32,
        **options: Any,
    ) -> list[Caption]:
        """Caption one picture or several, given as paths, bytes, PIL images or arrays, in order.

        Captions go on from `prompt`, which they begin with. `options` are fields of
        `GenerationConfig`, such as `num_beams=3, max_new_tokens=20`. Raises `ImageError` for the
        first picture that cannot be read; `stream` goes on past it.
        """
        one = isinstance(images, str | bytes | PathLike | Image.Image)
        one = one or (isinstance(images, np.ndarray) and images.ndim < 4)
        several = cast("Sequence[ImageSource]", [images] if one else images)
        captions = []
        for caption in self.stream(several, prompt=prompt, batch_size=batch_size, **options):
            if isinstance(caption, ImageError):
                raise caption
            captions.append(caption)
        return captions

    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        prompt: str = "",
        batch_size: int = 32,
        **options: Any,
    ) -> Iterator[Caption | ImageError]:
        """Caption pictures as they come, in order; the error in place of one that cannot be read.

        Pictures are decoded in threads while the model works on those before them.
        """
        config = self.generation.replace(**options)
        begin = [config.decoder_start_token_id, *self.tokenizer.encode_plain([prompt])[0]]
        start = np.array(begin)
        pictures = load_images(images, self.processor, threads=2, ahead=3 * batch_size)
        waiting: list[tuple[list[np.ndarray | ImageError], Sequences | None]] = []
        for batch in _batches(pictures, batch_size):
            good = [pixels for pixels in batch if not isinstance(pixels, ImageError)]
            found = None
            if good:
                # Dispatched without waiting: the device works while the next batch is read.
                pixels = _filled(np.stack(good), padded(len(good), batch_size))
                prompts = np.broadcast_to(start, (len(pixels), len(start)))
                found = self._dispatch(pixels, prompts, config)
            waiting.append((batch, found))
            if len(waiting) > 1:
                yield from self._collect(*waiting.pop(0), start[1:])
        for batch, sequences in waiting:
            yield from self._collect(batch, sequences, start[1:])

    def _encode(
        self, model: EncoderDecoder, inputs: Float[jax.Array, "batch height width 3"]
    ) -> Features:
        return map_pictures(model.encode, inputs)

    def _collect(
        self,
        batch: list[np.ndarray | ImageError],
        sequences: Sequences | None,
        prompt: np.ndarray,
    ) -> Iterator[Caption | ImageError]:
        row = 0
        found = None if sequences is None else jax.device_get(sequences)
        for pixels in batch:
            if isinstance(pixels, ImageError):
                yield pixels
            else:
                assert found is not None
                said = (found.tokens[row], found.lengths[row], found.scores[row])
                yield Caption(*self._texts(prompt.tolist(), *said))
                row += 1

    def save(self, directory: str | Path, *, dtype: str = "float32", card: str = "") -> None:
        """Write a checkpoint directory that `captax.load` reads, replacing what is there."""

        def write(folder: Path) -> None:
            config = json.dumps(self.processor.to_config(), indent=2)
            (folder / PROCESSOR).write_text(config + "\n")

        self._save(directory, write, dtype=dtype, card=card)


def _filled(
    pixels: Float[np.ndarray, "batch height width 3"], size: int
) -> Float[np.ndarray, "size height width 3"]:
    filled = np.zeros((size, *pixels.shape[1:]), np.float32)
    filled[: len(pixels)] = pixels
    return filled


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
