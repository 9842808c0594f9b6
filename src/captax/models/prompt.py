"""What a text decoder reads before it writes."""

from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int


@struct.dataclass
class Prompt:
    """Prompts of any lengths, filled up on the right with any token.

    The first `lengths[i]` tokens of row `i` count, one or more; without `lengths`, all do. Where
    `pictures` is true, a token only keeps the place of a token of the picture, in order. If an
    encoder reads what is asked, that is the `question`, and the decoder reads the tokens alone.
    `positions` are those on several axes, if tokens are not just counted. The arrays may be
    NumPy's; inside a compiled program they are JAX's.
    """

    tokens: Int[Any, "batch time"]
    lengths: Int[Any, " batch"] | None = None
    pictures: Bool[Any, "batch time"] | None = None
    question: "Prompt | None" = None
    positions: Int[Any, "axes batch time"] | None = None

    @property
    def filled(self) -> Any:
        """How many places each row is filled up by: a column, or 0 for all."""
        return 0 if self.lengths is None else self.tokens.shape[1] - self.lengths[:, None]

    @property
    def real(self) -> Bool[Array, "batch time"]:
        """False where a row is filled up."""
        batch, time = self.tokens.shape
        lengths = jnp.full(batch, time) if self.lengths is None else jnp.asarray(self.lengths)
        return jnp.arange(time) < lengths[:, None]

    @property
    def next_position(self) -> Int[Array, "#batch"]:
        """The position of the first token that follows each prompt."""
        if self.positions is not None:
            # A video may reach further in time, but counting goes on from the last token.
            last = self.real.sum(1, keepdims=True) - 1
            return jnp.take_along_axis(self.positions.max(0), last, axis=1)[:, 0] + 1
        return jnp.full(1, self.tokens.shape[1]) if self.lengths is None else self.lengths


def splice(
    embeddings: Float[Array, "batch time width"],
    features: Float[Array, "batch places width"],
    pictures: Bool[Array, "batch time"],
) -> Float[Array, "batch time width"]:
    """Embeddings of a prompt with the tokens of its pictures in their places, in order.

    A picture may have more tokens than its prompt has places, which are those of padding.
    """
    found = _in_order(features, pictures)
    return jnp.where(pictures[..., None], found.astype(embeddings.dtype), embeddings)


def spread(
    features: Float[Array, "batch places width"], pictures: Bool[Array, "batch time"]
) -> Float[Array, "batch time width"]:
    """The tokens of a prompt's pictures in their places, and zeros in all others."""
    return jnp.where(pictures[..., None], _in_order(features, pictures), 0)


def _in_order(features: Array, pictures: Array) -> Array:
    order = jnp.clip(jnp.cumsum(pictures, axis=1) - 1, 0, features.shape[1] - 1)
    return jnp.take_along_axis(features, order[..., None], axis=1)
