"""Filters of sampling: pure functions of scores, equal to transformers' logits warpers.

Scores are logits `[... vocab]`; a token that is filtered out gets minus infinity.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Scores = Float[Array, "*rows vocab"]
Number = Float[Any, ""] | float
Count = Int[Any, ""] | int

# Finding the `top_k` most probable tokens takes this many and leaves the rest of them out, so that
# one program serves many values of `top_k`. For more, all tokens are sorted.
TOP_SIZES = (64, 512)
ALL = -1


def looked_at(count: int, mass: float, share: float | None) -> int:
    """How many of the most probable tokens the filters must see: none, a few or `ALL`."""
    if mass == 1 and not share:
        return 0 if count == 0 else next((size for size in TOP_SIZES if count <= size), ALL)
    return ALL


def keep_probable(scores: Scores, count: Count, mass: Number, share: Number, seen: int) -> Scores:
    """Apply `top_k`, `top_p` and `min_p` in the order of transformers; `seen` is `looked_at`."""
    if seen == 0:
        return scores
    if seen != ALL:
        return top_k(scores, count, seen)
    return min_p(top_p(scores, count, mass), share)


def top_k(scores: Scores, count: Count, seen: int) -> Scores:
    """Keep the `count` most probable tokens, and those as probable as the last of them.

    `count` is at most `seen`.
    """
    best = jax.lax.top_k(scores, min(seen, scores.shape[-1]))[0]
    least = best[..., jnp.minimum(count, best.shape[-1]) - 1]
    return jnp.where(scores < least[..., None], -jnp.inf, scores)


def top_p(scores: Scores, count: Count, mass: Number) -> Scores:
    """Keep the fewest tokens, most probable first, that hold at least this share of probability.

    Of these, the `count` most probable ones are kept, or all of them if it is 0. Holtzman et al.
    (https://arxiv.org/abs/1904.09751).
    """
    vocab = scores.shape[-1]
    order = scores.argsort(-1)
    ascending = jnp.take_along_axis(scores, order, -1)
    kept = jnp.where(count == 0, vocab, jnp.minimum(count, vocab))
    ascending = jnp.where(ascending < ascending[..., vocab - kept][..., None], -jnp.inf, ascending)
    left_out = (jax.nn.softmax(ascending).cumsum(-1) <= 1 - mass) & (mass < 1)
    left_out = left_out.at[..., -1].set(False)
    ascending = jnp.where(left_out, -jnp.inf, ascending)
    return jnp.put_along_axis(scores, order, ascending, -1, inplace=False)


def min_p(scores: Scores, share: Number) -> Scores:
    """Keep tokens at least this share as probable as the most probable.

    Nguyen et al. (https://arxiv.org/abs/2407.01082).
    """
    probabilities = jax.nn.softmax(scores)
    least = share * probabilities.max(-1, keepdims=True)
    return jnp.where(probabilities < least, -jnp.inf, scores)
