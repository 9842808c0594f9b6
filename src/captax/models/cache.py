"""Keys and values, and the cache in which decoding keeps them for the tokens before.

Legend: `batch` images, `rows` = batch x beams, `places` what is attended to, `heads`, `head` =
width of one head.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

# Keys and values of what is attended to. One signature may hold keys and values of captions and of
# pictures, so sizes that differ have no name.
KeysValues = tuple[Float[Array, "_ heads _ head"], Float[Array, "_ heads _ head"]]
# Keys and values of the tokens before, with room for more: place by place, each beam by beam.
Past = KeysValues
# A number or, in programs for any size, one of JAX's symbolic dimensions.
Size = int | Any


@struct.dataclass
class Cache:
    """What decoding needs to know about the tokens before and about the picture, layer by layer.

    `past` holds self-attention's keys and values [batch heads places head]. There is room for
    `capacity` tokens, `length` are filled, and each holds one place for every beam of the picture.
    `context` holds the picture's [batch heads patches head], once, however many beams share it.
    `mask` is true where the context may be seen.

    Beams that branch do not copy their pasts: what each wrote stays in its place, and `ancestry`
    tells for every beam and place which beam wrote what it continues.
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
        """The cache with `times` copies of every row, side by side, which share their picture.

        A cache can be repeated only once.
        """
        past = jax.tree.map(lambda array: jnp.repeat(array, times, axis=2), self.past)
        batch, _, capacity = self.ancestry.shape
        ancestry = jnp.broadcast_to(jnp.arange(times)[:, None], (batch, times, capacity))
        return dataclasses.replace(self, past=past, ancestry=ancestry)

    def visible(self, time: Size) -> Bool[Array, "#batch queries places"]:
        """Which places of the past the next `time` tokens see: those before them, and their own."""
        batch, beams, capacity = self.ancestry.shape
        positions = self.length + jnp.arange(time)
        before = jnp.arange(capacity) <= positions[:, None]  # [time capacity]
        if beams == 1:
            return before[None]
        beam = jnp.arange(beams)
        # Each beam sees its own new tokens, whatever stood in their places before.
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
