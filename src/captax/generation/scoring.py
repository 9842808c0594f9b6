"""Scores of given captions: each is read in one pass, nothing is decoded."""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from captax.generation.constraints import Constraints, Rules
from captax.generation.decoding import Decoding, Strategy
from captax.generation.loop import at_the_end, constrainer
from captax.models.encoders import Features
from captax.models.prompt import Prompt


@runtime_checkable
class Predicting(Protocol):
    """What scoring needs from a model."""

    def predict(
        self, features: Any, prompt: Prompt, tokens: Int[Array, "batch time"]
    ) -> Float[Array, "batch time vocab"]:
        """Logits that predict each of `tokens`, from the prompt and the tokens before it."""


def score(
    model: Predicting,
    features: Features,
    prompt: Prompt,
    tokens: Int[Array, "batch time"],
    lengths: Int[Array, " batch"],
    strategy: Strategy,
    *,
    eos_id: int | tuple[int, ...],
    limits: Int[Array, " batch"],
    constraints: Constraints | Rules | None = None,
) -> Float[Array, " batch"]:
    """The scores that `strategy` would give to captions if it had chosen them.

    Row `i` of `tokens` holds the `lengths[i]` tokens of a caption, without its prompt; the rest is
    padding. `limits` are the largest numbers of tokens in decoding. A token that a constraint
    forbids has the score that it would have without constraints.
    """
    eos = (eos_id,) if isinstance(eos_id, int) else eos_id
    first = prompt.tokens.shape[1]
    limit = first + limits[:, None]
    constrain = constrainer(constraints, prompt.filled, first, limit, eos)
    decoding = Decoding(first, limit, eos, constrain)
    logits = model.predict(features, prompt, tokens)
    history = jnp.concatenate([at_the_end(prompt), tokens], axis=1)[:, None]

    def of(place: Int[Array, ""]) -> Float[Array, " batch"]:
        here = logits[:, place].astype(jnp.float32)
        said = tokens[:, place][:, None]
        given = strategy.logprobs(decoding, here[:, None], history, first + place)[:, 0]
        given, free = (
            jnp.take_along_axis(x, said, -1)[:, 0] for x in (given, jax.nn.log_softmax(here))
        )
        return jnp.where(place < lengths, jnp.where(jnp.isneginf(given), free, given), 0)

    totals = jax.lax.map(of, jnp.arange(tokens.shape[1])).sum(0)
    return totals / lengths.astype(jnp.float32) ** strategy.length_penalty
