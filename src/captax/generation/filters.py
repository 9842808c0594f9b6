"""Filters of sampling: pure functions of scores, equal to transformers' logits warpers.

Scores are logits `[... vocab]`; a token that is filtered out gets minus infinity.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scores = Float[Array, "*rows vocab"]


def top_k(scores: Scores, count: int) -> Scores:
    """Keep the `count` most probable tokens, and those as probable as the last of them."""
    least = jax.lax.top_k(scores, min(count, scores.shape[-1]))[0][..., -1:]
    return jnp.where(scores < least, -jnp.inf, scores)


def top_p(scores: Scores, mass: float) -> Scores:
    """Keep the fewest tokens, most probable first, that hold at least this share of probability.

    Holtzman et al. (https://arxiv.org/abs/1904.09751).
    """
    order = scores.argsort(-1)
    ascending = jnp.take_along_axis(scores, order, -1)
    left_out = jax.nn.softmax(ascending).cumsum(-1) <= 1 - mass
    left_out = left_out.at[..., -1].set(False)
    ascending = jnp.where(left_out, -jnp.inf, ascending)
    return jnp.put_along_axis(scores, order, ascending, -1, inplace=False)


def min_p(scores: Scores, share: float) -> Scores:
    """Keep tokens at least this share as probable as the most probable.

    Nguyen et al. (https://arxiv.org/abs/2407.01082).
    """
    probabilities = jax.nn.softmax(scores)
    least = share * probabilities.max(-1, keepdims=True)
    return jnp.where(probabilities < least, -jnp.inf, scores)
