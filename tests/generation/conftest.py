"""A language small enough to be followed by hand."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from captax.generation import Constraints, Prompts, Sequences, Strategy, generate
from captax.models.encoders import Features
from captax.models.prompt import Prompt

VOCAB, PAD, START, EOS = 9, 0, 1, 2


@struct.dataclass
class History:
    """What the model keeps of a row: its picture, and a trace of all that was said."""

    pictures: jax.Array
    trace: jax.Array

    def reorder(self, rows: jax.Array) -> "History":
        return dataclasses.replace(self, trace=self.trace[rows])


@dataclasses.dataclass(frozen=True)
class Chain:
    """A model whose logits are linear in a fading trace of the tokens, by a matrix a picture."""

    pictures: np.ndarray | None = None

    def begin(self, features: Any, prompt: Prompt, new_tokens: int, beams: int) -> Any:
        pictures, tokens = features.tokens, jnp.asarray(prompt.tokens)
        history = History(pictures, jnp.zeros(pictures.shape[:2]))
        logits, history = self.advance(tokens[:, 0], history)
        for i, token in enumerate(tokens.T[1:], 1):
            read = self.advance(token, history)
            if prompt.lengths is None:
                logits, history = read
                continue
            # What comes after `lengths` tokens is padding.

            def keep(new: Any, old: Any, counts: Any = i < prompt.lengths) -> Any:
                return jnp.where(counts.reshape(-1, *[1] * (old.ndim - 1)), new, old)

            logits, history = jax.tree.map(keep, read, (logits, history))
        return logits, jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), history)

    def advance(self, tokens: Any, cache: Any) -> Any:
        trace = 0.5 * cache.trace + jax.nn.one_hot(tokens, VOCAB)
        logits = jnp.einsum("rvw,rw->rv", cache.pictures, trace)
        return logits, dataclasses.replace(cache, trace=trace)

    def logits(self, picture: int, tokens: Sequence[int]) -> np.ndarray:
        """Of what follows, in NumPy."""
        trace = np.zeros(VOCAB)
        for token in tokens:
            trace = 0.5 * trace + np.eye(VOCAB)[token]
        return self.pictures[picture].astype(float) @ trace

    def logprobs(self, picture: int, tokens: Sequence[int]) -> np.ndarray:
        logits = self.logits(picture, tokens)
        return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()

    def decode(
        self,
        strategy: Strategy,
        *,
        prompts: Sequence[Sequence[int]] | None = None,
        steps: int = 6,
        pictures: Sequence[int] | None = None,
        **options: Any,
    ) -> Sequences:
        """Captions of all pictures, or of some, after prompts of any lengths."""
        chosen = list(range(len(self.pictures)) if pictures is None else pictures)
        prompt: Any = jnp.full((len(chosen), 1), START)
        if prompts is not None:
            lengths = np.array([len(each) for each in prompts], np.int32)
            tokens = np.full((len(prompts), lengths.max()), 7, np.int32)
            for row, each in enumerate(prompts):
                tokens[row, : len(each)] = each
            prompt = Prompts(Prompt(tokens, lengths), np.full_like(lengths, steps), steps)
        known = ("eos_id", "pad_id", "constraints", "end_loops")
        static = {"eos_id": EOS, "pad_id": PAD, "constraints": Constraints()}
        static |= {key: options.pop(key) for key in known if key in options}
        run = program(strategy, max_new_tokens=steps, **static)
        features = Features(jnp.asarray(self.pictures[chosen]), grid=(3, 3))
        return jax.device_get(run(features, prompt, options))


@functools.cache
def program(strategy: Strategy, **static: Any) -> Callable[..., Sequences]:
    """Compiled once for all the tests that ask for the same."""

    def run(features: Features, prompt: Any, options: dict[str, Any]) -> Sequences:
        return generate(Chain(), features, prompt, strategy, **static, **options)

    return jax.jit(run)


@pytest.fixture(scope="session")
def make_chain() -> Callable[[int], Chain]:
    def make(pictures: int) -> Chain:
        rng = np.random.default_rng(3)
        tables = 1.3 * rng.standard_normal((pictures, VOCAB, VOCAB))
        tables[:, PAD] = -20  # never said
        return Chain(tables.astype(np.float32))

    return make


@pytest.fixture(scope="session")
def chain(make_chain: Callable[[int], Chain]) -> Chain:
    """Of eight pictures."""
    return make_chain(8)
