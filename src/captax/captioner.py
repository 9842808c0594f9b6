"""The captioner: a model with all it needs to turn pictures into captions."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from captax.generation import GenerationConfig, Sequences
from captax.generator import Generated, Generator
from captax.images import ImageError, ImageProcessor, ImageSource
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import Features
from captax.models.layers import map_pictures
from captax.streaming import several, stream_pictures
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
        captions = []
        options = {"prompt": prompt, "batch_size": batch_size, **options}
        for caption in self.stream(several(images), **options):
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
        said = self.tokenizer.encode_plain([prompt])[0]
        begin = np.array([config.decoder_start_token_id, *said])

        def write(pixels: Float[np.ndarray, "batch height width 3"]) -> Sequences:
            return self._dispatch(pixels, np.tile(begin, (len(pixels), 1)), config)

        for found in stream_pictures(images, self.processor, write, batch_size=batch_size):
            if isinstance(found, ImageError):
                yield found
            else:
                yield Caption(*self._texts(said, found))

    def _encode(
        self, model: EncoderDecoder, inputs: Float[jax.Array, "batch height width 3"]
    ) -> Features:
        return map_pictures(model.encode, inputs)

    def save(self, directory: str | Path, *, dtype: str = "float32", card: str = "") -> None:
        """Write a checkpoint directory that `captax.load` reads, replacing what is there."""

        def write(folder: Path) -> None:
            config = json.dumps(self.processor.to_config(), indent=2)
            (folder / PROCESSOR).write_text(config + "\n")

        self._save(directory, write, dtype=dtype, card=card)
