"""Text to text: an encoder-decoder that rewrites texts, or a language model that continues them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from captax.data import batched
from captax.generation import GenerationConfig, GenerationError, Sequences
from captax.generation.programs import padded, seeds_of
from captax.generation.result import Generated
from captax.models.decoders import TextDecoder
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import Features, TextBatch
from captax.pipelines.generator import Generator
from captax.pipelines.replicas import EACH, started
from captax.text import Tokenizer
from captax.text.prompt_format import format_of

# Texts are padded to a multiple of this, so that a few compiled programs serve all lengths.
LENGTH_STEP = 64
SOURCE_TOKENIZER = "source_tokenizer"


class TextGenerator(Generator):
    """Rewrites or continues texts."""

    def __init__(
        self,
        model: EncoderDecoder | TextDecoder,
        tokenizer: Tokenizer,
        generation: GenerationConfig | None = None,
        *,
        source_tokenizer: Tokenizer | None = None,
    ):
        """`source_tokenizer` reads the texts; by default it is `tokenizer`, the writer's."""
        super().__init__(model, tokenizer, generation)
        self.source_tokenizer = source_tokenizer or tokenizer
        rewrites = isinstance(model, EncoderDecoder)
        self.prompt_format = None if rewrites else format_of(tokenizer.chat_template)

    def generate(
        self,
        texts: str | Sequence[str],
        *,
        system: str = "",
        raw: bool = False,
        seed: int | Sequence[int] = 0,
        batch_size: int = 32,
        **options: Any,
    ) -> list[Generated]:
        """Rewrite one text or several, in order; a language model answers or continues them.

        A text that is too long for the encoder is cut at its end. A language model with a
        `prompt_format` answers each text, after a `system` text if there is one. Without it, or if
        the texts are `raw`, it continues them, and what it writes begins with its text. `seed` and
        `options` are those of `Captioner.caption`.
        """
        several = [texts] if isinstance(texts, str) else list(texts)
        config = self._config(options)
        seeds = seeds_of(seed, range(len(several)))
        rewrites = isinstance(self.model, EncoderDecoder)
        asks = self.prompt_format is not None and not raw
        if system and not asks:
            raise GenerationError(
                "`system` is for models that are asked, in a prompt format of their own; leave it "
                "out"
            )
        if rewrites:
            longest = self.model.encoder.max_positions
            read = self.source_tokenizer.encode_template(several, max_length=longest)
        elif asks:
            told = [self._asked(text, system) for text in several]
            read = self.tokenizer.encode_special(told)
        else:
            # Some models begin every text with a token of its own, which their template adds.
            begins = self.tokenizer.encode_template([""])[0]
            begins = begins if len(begins) == 1 else []
            plain = [[*begins, *ids] for ids in self.tokenizer.encode_plain(several)]
            read = [ids or [self._start(config)] for ids in plain]
        # Texts of similar length share a batch, so that it needs little padding.
        order = sorted(range(len(read)), key=lambda i: len(read[i]))
        found: dict[int, Generated] = {}

        def write(chosen: list[int]) -> Sequences:
            rows = padded(len(chosen), batch_size)
            sources = [read[i] for i in chosen]
            prompts = [[self._start(config)] for _ in chosen] if rewrites else sources
            inputs = self._text(sources, rows) if rewrites else None
            return self._dispatch(inputs, prompts, rows, config, [seeds[i] for i in chosen])

        waiting: list[tuple[list[int], Callable[[], Sequences]]] = []

        def wait() -> None:
            chosen, result = waiting.pop(0)
            said = result()
            for row, i in enumerate(chosen):
                prompt = [] if rewrites or asks else read[i]
                found[i] = Generated(**self._texts(prompt, _row(said, row), config))

        with started(self.at_once) as start:
            for chosen in batched(order, batch_size):
                waiting.append((chosen, start(write, chosen)))
                if len(waiting) == EACH * self.at_once:
                    wait()
            while waiting:
                wait()
        return [found[i] for i in range(len(several))]

    def _asked(self, text: str, system: str) -> str:
        """A user's text in the model's prompt format."""
        assert self.prompt_format is not None
        self._refuse_special([text, system])
        return self.prompt_format.text(text, system=system or None)

    def _text(self, sources: Sequence[Sequence[int]], rows: int) -> TextBatch:
        longest = max(map(len, sources))
        time = min(-(-longest // LENGTH_STEP) * LENGTH_STEP, self.model.encoder.max_positions)
        tokens = np.zeros((rows, time), np.int32)
        mask = np.zeros(tokens.shape, bool)
        mask[:, 0] = True  # rows without a text must attend to something
        for row, source in enumerate(sources):
            tokens[row, : len(source)] = source
            mask[row, : len(source)] = True
        return TextBatch(tokens, mask)

    def encode(self, model: Any, inputs: TextBatch | None) -> Features | None:
        return None if inputs is None else model.encode(inputs)

    def save(self, directory: str | Path, *, dtype: str | None = None, card: str = "") -> None:
        """Write a checkpoint directory that `captax.load` reads; an older one is replaced."""

        def write(folder: Path) -> None:
            if self.source_tokenizer is not self.tokenizer:
                self.source_tokenizer.save(folder / SOURCE_TOKENIZER)

        self._save(directory, write, dtype=dtype, card=card)


def _row(sequences: Sequences, row: int) -> Sequences:
    return jax.tree.map(lambda array: array[row], sequences)
