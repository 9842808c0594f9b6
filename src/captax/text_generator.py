"""Text to text: an encoder-decoder that rewrites texts, or a language model that continues them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from captax.generation import GenerationConfig, Sequences
from captax.generator import Generated, Generator, padded, seeds_of
from captax.models.decoders import TextDecoder
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import Features, TextBatch
from captax.text import Tokenizer

# Texts are padded up to a multiple of this, so that a handful of programs serves all lengths.
LENGTH_STEP = 64
SOURCE_TOKENIZER = "source_tokenizer"


class TextGenerator(Generator):
    """Texts in, texts out."""

    def __init__(
        self,
        model: EncoderDecoder | TextDecoder,
        tokenizer: Tokenizer,
        generation: GenerationConfig | None = None,
        *,
        source_tokenizer: Tokenizer | None = None,
    ):
        """`source_tokenizer` reads the texts given, where it is another than writes the answers."""
        super().__init__(model, tokenizer, generation)
        self.source_tokenizer = source_tokenizer or tokenizer

    def generate(
        self,
        texts: str | Sequence[str],
        *,
        seed: int | Sequence[int] = 0,
        batch_size: int = 32,
        **options: Any,
    ) -> list[Generated]:
        """Rewrite one text or several, or continue them where the model only continues, in order.

        A text longer than the encoder reads is cut at its end; an answer to a language model's
        prompt begins with the prompt. `seed` and `options` are as for `Captioner.caption`.
        """
        several = [texts] if isinstance(texts, str) else list(texts)
        config = self._config(options)
        seeds = seeds_of(seed, range(len(several)))
        rewrites = isinstance(self.model, EncoderDecoder)
        if rewrites:
            longest = self.model.encoder.max_positions
            read = self.source_tokenizer.encode_template(several, max_length=longest)
        else:
            read = [ids or [self._start(config)] for ids in self.tokenizer.encode_plain(several)]
        # Texts of like length together, so that little of a batch is padding.
        order = sorted(range(len(read)), key=lambda i: len(read[i]))
        found: dict[int, Generated] = {}
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            rows = padded(len(chosen), batch_size)
            sources = [read[i] for i in chosen]
            prompts = [[self._start(config)] for _ in chosen] if rewrites else sources
            inputs = self._text(sources, rows) if rewrites else None
            drawn = [seeds[i] for i in chosen]
            said = jax.device_get(self._dispatch(inputs, prompts, rows, config, drawn))
            for row, i in enumerate(chosen):
                prompt = [] if rewrites else sources[row]
                found[i] = Generated(*self._texts(prompt, _row(said, row), config.eos_ids))
        return [found[i] for i in range(len(several))]

    def _text(self, sources: Sequence[Sequence[int]], rows: int) -> TextBatch:
        longest = max(map(len, sources))
        time = min(-(-longest // LENGTH_STEP) * LENGTH_STEP, self.model.encoder.max_positions)
        tokens = np.zeros((rows, time), np.int32)
        mask = np.zeros(tokens.shape, bool)
        mask[:, 0] = True  # rows that hold no text still attend to something
        for row, source in enumerate(sources):
            tokens[row, : len(source)] = source
            mask[row, : len(source)] = True
        return TextBatch(tokens, mask)

    def _encode(self, model: Any, inputs: TextBatch | None) -> Features | None:
        return None if inputs is None else model.encode(inputs)

    def save(self, directory: str | Path, *, dtype: str = "float32", card: str = "") -> None:
        """Write a checkpoint directory that `captax.load` reads, replacing what is there."""

        def write(folder: Path) -> None:
            if self.source_tokenizer is not self.tokenizer:
                self.source_tokenizer.save(folder / SOURCE_TOKENIZER)

        self._save(directory, write, dtype=dtype, card=card)


def _row(sequences: Sequences, row: int) -> Sequences:
    return jax.tree.map(lambda array: array[row], sequences)
