"""The decoding loop: encode once, then one token a step for all rows until all have ended.

It knows only `begin`, `advance` and the cache's `repeat` and `reorder`, so it decodes every family
alike. Everything here runs inside one jitted program.
"""

from typing import Any, Protocol, runtime_checkable

from flax import struct
from jaxtyping import Array, Float, Int

from captax.generation.strategies import GenerationError, Strategy
from captax.models.decoders import Cache
from captax.models.encoders import Features


@struct.dataclass
class Sequences:
    """What was decoded, best first.

    `tokens` are without the prompt; each ends with eos (unless `length` was the most allowed) and
    then pad. `scores` are log-probabilities summed over `lengths` tokens and divided by
    `lengths ** length_penalty`. Arrays of JAX, or of NumPy once fetched from the device.
    """

    tokens: Int[Any, "*batch beams time"]
    lengths: Int[Any, "*batch beams"]
    scores: Float[Any, "*batch beams"]


@runtime_checkable
class Captioning(Protocol):
    """What the loop asks of a model."""

    def begin(
        self, features: Any, prompt: Int[Array, "batch time"], capacity: int
    ) -> tuple[Float[Array, "batch vocab"], Cache]:
        """Logits after the prompt, and the cache."""

    def advance(
        self, tokens: Int[Array, " rows"], cache: Cache
    ) -> tuple[Float[Array, "rows vocab"], Cache]:
        """Logits after one more token."""


def generate(
    model: Captioning,
    features: Features | None,
    prompt: Int[Array, "batch time"],
    strategy: Strategy,
    *,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
) -> Sequences:
    """Decode at most `max_new_tokens` tokens (eos included) after each prompt.

    Raises `GenerationError` when that is less than one.
    """
    if max_new_tokens < 1:
        raise GenerationError(f"max_new_tokens is {max_new_tokens}: give 1 or more")
    # The last token is never fed back, so the cache needs no place for it.
    capacity = prompt.shape[1] + max_new_tokens - 1
    logits, cache = model.begin(features, prompt, capacity)
    tokens, scores = strategy.run(
        model.advance, logits, cache, max_new_tokens=max_new_tokens, eos_id=eos_id, pad_id=pad_id
    )
    ends = tokens == eos_id
    lengths = ((ends.cumsum(-1) - ends) == 0).sum(-1)
    return Sequences(tokens=tokens, lengths=lengths, scores=scores)
