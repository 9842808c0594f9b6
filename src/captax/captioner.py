"""The captioner: a model with all it needs to turn pictures into captions."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from captax.checkpoints.directory import load_model, read_json, save_model, write_directory
from captax.checkpoints.state import CheckpointError, parameters, rebuilder
from captax.data import load_images
from captax.generation import Beam, GenerationError, Greedy, Sequences, Strategy, generate
from captax.images import ImageError, ImageProcessor, ImageSource
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.layers import map_pictures
from captax.text import Tokenizer

PROCESSOR = "preprocessor_config.json"
GENERATION = "generation_config.json"
CARD = "README.md"

# One compiled program a size: what is left of a folder is padded up to the next.
BATCH_SIZES = (1, 8, 32)


@dataclasses.dataclass(frozen=True)
class Alternative:
    """Another caption that was considered."""

    text: str
    score: float


@dataclasses.dataclass(frozen=True)
class Caption:
    """What was said of a picture.

    `score` is the log-probability of `tokens` (eos included) divided by their number to the power
    of the length penalty: 0 is certainty. `alternatives` holds every caption returned, the chosen
    one first.
    """

    text: str
    score: float
    tokens: tuple[int, ...]
    alternatives: tuple[Alternative, ...]

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """How captions are decoded unless the call says otherwise."""

    num_beams: int = 3
    max_new_tokens: int = 20
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    num_return_sequences: int = 1

    @property
    def strategy(self) -> Strategy:
        """Greedy for one beam, else beam search."""
        if self.num_beams == 1 and self.num_return_sequences == 1:
            return Greedy(length_penalty=self.length_penalty)
        return Beam(
            num_beams=self.num_beams,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
            num_return_sequences=self.num_return_sequences,
        )


class Captioner:
    """Pictures in, captions out."""

    def __init__(
        self,
        model: EncoderDecoder,
        processor: ImageProcessor,
        tokenizer: Tokenizer,
        generation: GenerationConfig | None = None,
    ):
        self.model = model
        self.processor = processor
        self.tokenizer = tokenizer
        self.generation = generation or GenerationConfig()
        self._parameters = parameters(model)
        self._rebuild = rebuilder(model)
        self._programs: dict[GenerationConfig, Callable[..., Sequences]] = {}

    def caption(
        self,
        images: ImageSource | Sequence[ImageSource],
        *,
        batch_size: int = 32,
        **options: Any,
    ) -> list[Caption]:
        """Caption one picture or several, given as paths, bytes, PIL images or arrays, in order.

        `options` are fields of `GenerationConfig`, such as `num_beams=3, max_new_tokens=20`.
        Raises `ImageError` for the first picture that cannot be read; `stream` goes on past it.
        """
        one = isinstance(images, str | bytes | PathLike | Image.Image)
        one = one or (isinstance(images, np.ndarray) and images.ndim < 4)
        several = cast("Sequence[ImageSource]", [images] if one else images)
        captions = []
        for caption in self.stream(several, batch_size=batch_size, **options):
            if isinstance(caption, ImageError):
                raise caption
            captions.append(caption)
        return captions

    def stream(
        self, images: Iterable[ImageSource], *, batch_size: int = 32, **options: Any
    ) -> Iterator[Caption | ImageError]:
        """Caption pictures as they come, in order; the error in place of one that cannot be read.

        Pictures are decoded in threads while the model works on those before them.
        """
        config = self._config(options)
        pictures = load_images(images, self.processor, threads=2, ahead=3 * batch_size)
        waiting: list[tuple[list[np.ndarray | ImageError], Sequences | None]] = []
        for batch in _batches(pictures, batch_size):
            good = [pixels for pixels in batch if not isinstance(pixels, ImageError)]
            # Dispatched without waiting: the device works while the next batch is read.
            found = self._dispatch(np.stack(good), config, batch_size) if good else None
            waiting.append((batch, found))
            if len(waiting) > 1:
                yield from self._collect(*waiting.pop(0))
        for batch, sequences in waiting:
            yield from self._collect(batch, sequences)

    def _config(self, options: dict[str, Any]) -> GenerationConfig:
        known = [field.name for field in dataclasses.fields(GenerationConfig)]
        unknown = sorted(options.keys() - set(known))
        if unknown:
            raise GenerationError(f"unknown options {unknown}; known are {', '.join(known)}")
        wanted = options.get("num_return_sequences")
        if wanted is not None and wanted > options.get("num_beams", self.generation.num_beams):
            options = {**options, "num_beams": wanted}
        return dataclasses.replace(self.generation, **options)

    def _dispatch(
        self,
        pixels: Float[np.ndarray, "batch height width 3"],
        config: GenerationConfig,
        batch_size: int,
    ) -> Sequences:
        size = min(size for size in (*BATCH_SIZES, batch_size) if size >= len(pixels))
        padded = np.zeros((size, *pixels.shape[1:]), np.float32)
        padded[: len(pixels)] = pixels
        if config not in self._programs:
            self._programs[config] = self._program(config)
        return self._programs[config](self._parameters, padded)

    def _program(self, config: GenerationConfig) -> Callable[..., Sequences]:
        """The jitted program from parameters and pixels to sequences."""
        tokenizer, rebuild = self.tokenizer, self._rebuild

        def program(
            parameters: dict[str, jax.Array], pixels: Float[jax.Array, "batch height width 3"]
        ) -> Sequences:
            model = rebuild(parameters)
            return generate(
                model,
                map_pictures(model.encode, pixels),
                jnp.full((pixels.shape[0], 1), tokenizer.start_id),
                config.strategy,
                max_new_tokens=config.max_new_tokens,
                eos_id=tokenizer.eos_id,
                pad_id=tokenizer.pad_id,
            )

        return jax.jit(program)

    def _collect(
        self, batch: list[np.ndarray | ImageError], sequences: Sequences | None
    ) -> Iterator[Caption | ImageError]:
        row = 0
        found = None if sequences is None else jax.device_get(sequences)
        for pixels in batch:
            if isinstance(pixels, ImageError):
                yield pixels
            else:
                assert found is not None
                yield self._caption(found.tokens[row], found.lengths[row], found.scores[row])
                row += 1

    def _caption(
        self,
        tokens: Int[np.ndarray, "beams time"],
        lengths: Int[np.ndarray, " beams"],
        scores: Float[np.ndarray, " beams"],
    ) -> Caption:
        said = [tuple(map(int, row[:n])) for row, n in zip(tokens, lengths, strict=True)]
        texts = self.decode(said)
        return Caption(
            text=texts[0],
            score=float(scores[0]),
            tokens=said[0],
            alternatives=tuple(map(Alternative, texts, map(float, scores))),
        )

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Text of token sequences."""
        return [self.tokenizer.decode(row) for row in tokens]

    def save(self, directory: str | Path, *, dtype: str = "float32", card: str = "") -> None:
        """Write a checkpoint directory that `captax.load` reads, replacing what is there."""

        def write(folder: Path) -> None:
            save_model(folder, self.model, dtype=dtype)
            self.tokenizer.save(folder)
            config, generation = self.processor.to_config(), dataclasses.asdict(self.generation)
            (folder / PROCESSOR).write_text(json.dumps(config, indent=2) + "\n")
            (folder / GENERATION).write_text(json.dumps(generation, indent=2) + "\n")
            if card:
                (folder / CARD).write_text(card)

        write_directory(Path(directory), write)


def load(directory: str | Path | None = None) -> Captioner:
    """Load a captioner from a checkpoint directory; with no argument, the one that is built in."""
    if directory is None:
        directory = Path(str(resources.files("captax") / "assets" / "flickr8k-lite"))
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint directory")
    model = load_model(directory)
    if not isinstance(model, EncoderDecoder):
        raise CheckpointError(f"{directory}: holds a {type(model).__name__}, which cannot caption")
    return Captioner(
        model,
        ImageProcessor.from_config(read_json(directory / PROCESSOR)),
        Tokenizer.load(directory),
        _generation_config(directory / GENERATION),
    )


def _generation_config(path: Path) -> GenerationConfig:
    if not path.exists():
        return GenerationConfig()
    known = {field.name for field in dataclasses.fields(GenerationConfig)}
    return GenerationConfig(**{k: v for k, v in read_json(path).items() if k in known})


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
