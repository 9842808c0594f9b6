"""Scores of given captions: each is read in one pass, nothing is decoded."""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from captax.generation.constraints import Constraints, Rules
from captax.generation.decoding import Decoding, Strategy
from captax.generation.loop import constrainer
from captax.models.encoders import Features


@runtime_checkable
class Reading(Protocol):
    """What scoring needs from a model."""

    def read(
        self, features: Any, tokens: Int[Array, "batch time"]
    ) -> Float[Array, "batch time vocab"]:
        """Logits after every token."""


def score(
    model: Reading,
    features: Features,
    tokens: Int[Array, "batch time"],
    prompts: Int[Array, " batch"],
    lengths: Int[Array, " batch"],
    strategy: Strategy,
    *,
    eos_id: int | tuple[int, ...],
    limits: Int[Array, " batch"],
    constraints: Constraints | Rules | None = None,
) -> Float[Array, " batch"]:
    """The scores that `strategy` would give to captions if it had chosen them.

    Row `i` of `tokens` holds `lengths[i]` tokens, of which the first `prompts[i]` are the prompt;
    the rest is padding. `limits` mean the same as in decoding. A token that a constraint forbids
    has the score that it would have without constraints.
    """
    eos = (eos_id,) if isinstance(eos_id, int) else eos_id
    first, limit = prompts[:, None], limits[:, None]
    decoding = Decoding(first, limit, eos, constrainer(constraints, 0, first, limit, eos))
    logits = model.read(features, tokens[:, :-1])

    def of(position: Int[Array, ""]) -> Float[Array, " batch"]:
        here = logits[:, position - 1].astype(jnp.float32)
        said = tokens[:, position][:, None]
        given = strategy.logprobs(decoding, here[:, None], tokens[:, None], position)[:, 0]
        given, free = (
            jnp.take_along_axis(x, said, -1)[:, 0] for x in (given, jax.nn.log_softmax(here))
        )
        inside = (position >= prompts) & (position < lengths)
        return jnp.where(inside, jnp.where(jnp.isneginf(given), free, given), 0)

    totals = jax.lax.map(of, jnp.arange(1, tokens.shape[1])).sum(0)
    return totals / (lengths - prompts).astype(jnp.float32) ** strategy.length_penalty
