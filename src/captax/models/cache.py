"""Keys and values, and the cache in which decoding keeps those of earlier tokens.

Legend: `batch` images, `rows` = batch x beams, `places` attended to, `heads`, `head` = width of one
head.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

# Keys and values to attend to. One signature may hold those of captions and those of pictures, so
# sizes that differ between the two have no name.
KeysValues = tuple[Float[Array, "_ heads _ head"], Float[Array, "_ heads _ head"]]
# Keys and values of earlier tokens, with room for more. Each token's place has an entry per beam.
Past = KeysValues
# A number or, in programs for any size, one of JAX's symbolic dimensions.
Size = int | Any


@struct.dataclass
class Cache:
    """What decoding needs to know about earlier tokens and about the picture, layer by layer.

    `past` holds the keys and values of self-attention [batch heads places head]. There is room for
    `capacity` tokens, and `length` of them are filled. Each token has one place for every beam of
    the picture. `context` holds the keys and values of the picture [batch heads patches head], once
    for all its beams. `mask` is true where the context may be seen.

    When beams branch, their keys and values are not copied. For each beam and place, `ancestry`
    says which beam wrote the keys and values that this beam uses.
    """

    past: tuple[Past, ...]
    context: tuple[KeysValues, ...] | None
    mask: Bool[Array, "batch 1 patches"] | None
    length: Int[Array, ""]
    ancestry: Int[Array, "batch beams capacity"]

    def reorder(self, rows: Int[Array, " rows"]) -> "Cache":
        """The cache in which row `i` continues row `rows[i]`, a row of the same picture."""
        flat = self.ancestry.reshape(len(rows), -1)
        return dataclasses.replace(self, ancestry=flat[rows].reshape(self.ancestry.shape))

    def repeat(self, times: int) -> "Cache":
        """The cache with every row repeated `times`. Pictures stay shared.

        The copies of a row are next to each other. A cache can be repeated only once.
        """
        past = jax.tree.map(lambda array: jnp.repeat(array, times, axis=2), self.past)
        batch, _, capacity = self.ancestry.shape
        ancestry = jnp.broadcast_to(jnp.arange(times)[:, None], (batch, times, capacity))
        return dataclasses.replace(self, past=past, ancestry=ancestry)

    def visible(
        self, time: Size, window: int | None = None
    ) -> Bool[Array, "#batch queries places"]:
        """Which places of the past the next `time` tokens see: earlier ones and their own.

        With a `window` they are at most that many.
        """
        batch, beams, capacity = self.ancestry.shape
        positions = self.length + jnp.arange(time)
        before = jnp.arange(capacity) <= positions[:, None]  # [time capacity]
        if window is not None:
            before &= jnp.arange(capacity) > positions[:, None] - window
        if beams == 1:
            return before[None]
        beam = jnp.arange(beams)
        # Each beam sees its own new tokens; old entries of `ancestry` do not count there.
        filled = (jnp.arange(capacity) < self.length)[:, None]
        own = (self.ancestry[..., None] == beam) & filled
        new = (beam == beam[:, None, None]) & ~filled
        mask = (own | new)[:, :, None] & before[..., None]  # [batch beams time capacity beams]
        return mask.reshape(batch, beams * time, capacity * beams)

    def extended(self, past: tuple[Past, ...], time: Size) -> "Cache":
        """The cache after `time` more tokens in each row."""
        places = jnp.arange(self.ancestry.shape[2])
        written = (places >= self.length) & (places < self.length + time)
        own = jnp.arange(self.ancestry.shape[1])[:, None]
        ancestry = jnp.where(written, own, self.ancestry)
        return dataclasses.replace(self, past=past, ancestry=ancestry, length=self.length + time)


def write_cache(past: Past, new: KeysValues, length: Int[Array, ""]) -> Past:
    """Write keys and values of new tokens, one row for each beam, after the first `length`."""

    def write(old: Array, new: Array) -> Array:
        batch, heads, _, head = old.shape
        beams = new.shape[0] // batch
        # [rows heads time head] -> [batch heads time beams head]
        new = new.reshape(batch, beams, heads, -1, head).transpose(0, 2, 3, 1, 4)
        new = new.reshape(batch, heads, -1, head).astype(old.dtype)
        return jax.lax.dynamic_update_slice_in_dim(old, new, length * beams, axis=2)

    return write(past[0], new[0]), write(past[1], new[1])
