"""What captioners and text generators share: a model that writes, its tokenizer, its options."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from captax.checkpoints.directory import CONFIG, read_json, save_model, write_directory
from captax.checkpoints.state import parameters, rebuilder
from captax.generation import GenerationConfig, Sequences, generate
from captax.models.registry import model_config
from captax.text import Tokenizer

GENERATION = "generation_config.json"
CARD = "README.md"

# One compiled program a size: what is left of a batch is padded up to the next.
BATCH_SIZES = (1, 8, 32)


@dataclasses.dataclass(frozen=True)
class Alternative:
    """Another text that was considered."""

    text: str
    score: float


@dataclasses.dataclass(frozen=True)
class Generated:
    """A text that a model wrote.

    `score` is the log-probability of `tokens` (eos included) divided by their number to the power
    of the length penalty: 0 is certainty. `alternatives` holds every text returned, the chosen
    one first.
    """

    text: str
    score: float
    tokens: tuple[int, ...]
    alternatives: tuple[Alternative, ...]

    def __str__(self) -> str:
        return self.text


class Generator:
    """A model that writes, its tokenizer, and how it decodes unless a call says otherwise."""

    def __init__(
        self, model: Any, tokenizer: Tokenizer, generation: GenerationConfig | None = None
    ):
        self.model = model
        self.tokenizer = tokenizer
        generation = generation or GenerationConfig()
        self.generation = dataclasses.replace(
            generation,
            decoder_start_token_id=_first(generation.decoder_start_token_id, tokenizer, "start_id"),
            eos_token_id=_first(generation.eos_token_id, tokenizer, "eos_id"),
            pad_token_id=_first(generation.pad_token_id, tokenizer, "pad_id"),
        )
        self._parameters = parameters(model)
        self._rebuild = rebuilder(model)
        self._programs: dict[GenerationConfig, Callable[..., Sequences]] = {}

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Text of token sequences."""
        return [self.tokenizer.decode(row) for row in tokens]

    def _encode(self, model: Any, inputs: Any) -> Any:
        """What the decoder reads of a batch of inputs."""
        raise NotImplementedError

    def _dispatch(
        self, inputs: Any, prompt: Int[np.ndarray, "batch time"], config: GenerationConfig
    ) -> Sequences:
        """Decode a batch, without waiting for the device."""
        if config not in self._programs:
            self._programs[config] = self._program(config)
        return self._programs[config](self._parameters, inputs, prompt.astype(np.int32))

    def _program(self, config: GenerationConfig) -> Callable[..., Sequences]:
        """The jitted program from parameters, inputs and prompt to sequences."""
        eos, pad = config.eos_token_id, config.pad_token_id
        assert eos is not None and pad is not None

        def program(parameters: dict[str, jax.Array], inputs: Any, prompt: jax.Array) -> Sequences:
            model = self._rebuild(parameters)
            return generate(
                model,
                self._encode(model, inputs),
                prompt,
                config.strategy,
                max_new_tokens=config.max_new_tokens,
                eos_id=eos,
                pad_id=pad,
            )

        return jax.jit(program)

    def _texts(
        self, prompt: Sequence[int], found: Sequences
    ) -> tuple[str, float, tuple[int, ...], tuple[Alternative, ...]]:
        """The fields of `Generated`, of one input's row; texts begin with what was prompted."""
        rows = zip(found.tokens, found.lengths, strict=True)
        said = [tuple(map(int, row[:length])) for row, length in rows]
        eos = self.generation.eos_token_id
        texts = self.decode([[*prompt, *(row[:-1] if row[-1:] == (eos,) else row)] for row in said])
        scores = [float(score) for score in found.scores]
        return texts[0], scores[0], said[0], tuple(map(Alternative, texts, scores))

    def _save(
        self,
        directory: str | Path,
        extras: Callable[[Path], None],
        *,
        dtype: str,
        card: str,
    ) -> None:
        def write(folder: Path) -> None:
            save_model(folder, self.model, dtype=dtype)
            self.tokenizer.save(folder)
            contents = json.dumps(self.generation.write(), indent=2)
            (folder / GENERATION).write_text(contents + "\n")
            extras(folder)
            if card:
                (folder / CARD).write_text(card)

        write_directory(Path(directory), write)


def read_generation(directory: Path, model: Any) -> GenerationConfig:
    """The decoding options that a checkpoint directory holds."""
    path = directory / GENERATION
    # Before they had a file of their own, transformers kept them in the model's config.
    stored = read_json(path if path.is_file() else directory / CONFIG)
    return GenerationConfig.read(stored, model_config(model).roles())


def padded(size: int, batch_size: int) -> int:
    """The number of rows that a batch of `size` is filled up to."""
    return min(each for each in (*BATCH_SIZES, batch_size) if each >= size)


def _first(index: int | None, tokenizer: Tokenizer, role: str) -> int:
    return getattr(tokenizer, role) if index is None else index
