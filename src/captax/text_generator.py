"""Text to text: an encoder-decoder that rewrites texts, or a language model that continues them."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from captax.generation import GenerationConfig, Sequences
from captax.generator import Generated, Generator, padded
from captax.models.decoders import TextDecoder
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import Features, Text
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
        self, texts: str | Sequence[str], *, batch_size: int = 32, **options: Any
    ) -> list[Generated]:
        """Rewrite one text or several, or continue them where the model only continues, in order.

        A text longer than the encoder reads is cut at its end; an answer to a language model's
        prompt begins with the prompt. `options` are fields of `GenerationConfig`.
        """
        several = [texts] if isinstance(texts, str) else list(texts)
        config = self.generation.replace(**options)
        if isinstance(self.model, EncoderDecoder):
            return self._rewrite(several, batch_size, config)
        return self._continue(several, batch_size, config)

    def _rewrite(
        self, texts: Sequence[str], batch_size: int, config: GenerationConfig
    ) -> list[Generated]:
        longest = self.model.encoder.max_positions
        sources = self.source_tokenizer.encode_template(texts, max_length=longest)
        # Texts of like length together, so that little of a batch is padding.
        order = sorted(range(len(texts)), key=lambda i: len(sources[i]))
        found: dict[int, Generated] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            longest_here = max(len(sources[i]) for i in chosen)
            time = min(-(-longest_here // LENGTH_STEP) * LENGTH_STEP, longest)
            tokens = np.zeros((padded(len(chosen), batch_size), time), np.int32)
            mask = np.zeros(tokens.shape, bool)
            mask[:, 0] = True  # rows that hold no text still attend to something
            for row, i in enumerate(chosen):
                tokens[row, : len(sources[i])] = sources[i]
                mask[row, : len(sources[i])] = True
            prompt = np.full((len(tokens), 1), _start(config))
            said = jax.device_get(self._dispatch(Text(tokens, mask), prompt, config))
            for row, i in enumerate(chosen):
                found[i] = Generated(*self._texts([], _row(said, row)))
        return [found[i] for i in range(len(texts))]

    def _continue(
        self, texts: Sequence[str], batch_size: int, config: GenerationConfig
    ) -> list[Generated]:
        # A prompt cannot be padded: only those of one length share a batch.
        by_length: dict[int, list[int]] = defaultdict(list)
        prompts = [ids or [_start(config)] for ids in self.tokenizer.encode_plain(texts)]
        for i, ids in enumerate(prompts):
            by_length[len(ids)].append(i)
        found: dict[int, Generated] = {}
        for alike in by_length.values():
            for start in range(0, len(alike), batch_size):
                chosen = alike[start : start + batch_size]
                rows = [prompts[i] for i in chosen]
                rows += [rows[-1]] * (padded(len(rows), batch_size) - len(rows))
                said = jax.device_get(self._dispatch(None, np.array(rows), config))
                for row, i in enumerate(chosen):
                    found[i] = Generated(*self._texts(prompts[i], _row(said, row)))
        return [found[i] for i in range(len(texts))]

    def _encode(self, model: Any, inputs: Text | None) -> Features | None:
        return None if inputs is None else model.encode(inputs)

    def save(self, directory: str | Path, *, dtype: str = "float32", card: str = "") -> None:
        """Write a checkpoint directory that `captax.load` reads, replacing what is there."""

        def write(folder: Path) -> None:
            if self.source_tokenizer is not self.tokenizer:
                self.source_tokenizer.save(folder / SOURCE_TOKENIZER)

        self._save(directory, write, dtype=dtype, card=card)


def _start(config: GenerationConfig) -> int:
    assert config.decoder_start_token_id is not None  # the generator has seen to it
    return config.decoder_start_token_id


def _row(sequences: Sequences, row: int) -> Sequences:
    return jax.tree.map(lambda array: array[row], sequences)
