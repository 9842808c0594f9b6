"""Keys and values: of what is read first, and of the tokens that are written after it.

Legend: `batch` images, `rows` = batch x beams, `places` attended to, `heads`, `head` = width of one
head.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

# Keys and values to attend to. One signature may hold those of captions and those of pictures, so
# sizes that differ between the two have no name.
KeysValues = tuple[Float[Array, "_ heads _ head"], Float[Array, "_ heads _ head"]]
# Keys and values of earlier tokens, with room for more. Each token's place has an entry per beam.
Past = KeysValues


@struct.dataclass
class Span:
    """Keys and values that queries attend to together; `mask` is true where a query sees a place.

    Without a mask, every query sees every place.
    """

    keys: Float[Array, "batch heads places head"]
    values: Float[Array, "batch heads places head"]
    mask: Bool[Array, "#batch #queries places"] | None = None


@struct.dataclass
class Prefix:
    """What a decoder has read before the first choice, once for all beams of a picture.

    `memory` holds the keys and values of the picture for cross-attention, layer by layer, and
    `memory_mask` is true where they may be seen. `places` are those of self-attention: of the
    prompt and, where the decoder reads a picture as part of its text, of the picture. `real` is
    false where a prompt is filled up; without it, all places count. `positions` are those of the
    places, and `next_position` is that of the first token which follows.
    """

    memory: tuple[KeysValues, ...] | None = None
    memory_mask: Bool[Array, "batch 1 patches"] | None = None
    places: tuple[KeysValues, ...] | None = None
    real: Bool[Array, "batch places"] | None = None
    positions: Int[Array, "1 places"] | None = None
    next_position: Int[Array, "#batch"] = dataclasses.field(
        default_factory=lambda: jnp.zeros(1, jnp.int32)
    )

    def remembered(self, layer: int) -> Span | None:
        """What the cross-attention of a layer reads."""
        return None if self.memory is None else Span(*self.memory[layer], self.memory_mask)

    def before(
        self, layer: int, positions: Int[Array, "#batch time"], window: int | None
    ) -> Span | None:
        """What the self-attention of a layer reads before tokens at these positions.

        With a `window`, a token sees fewer than so many places back.
        """
        if self.places is None:
            return None
        mask = None if self.real is None else self.real[:, None]
        if window is not None and self.positions is not None:
            near = positions[:, :, None] - self.positions[:, None] < window
            mask = near if mask is None else near & mask
        return Span(*self.places[layer], mask)


@struct.dataclass
class Cache:
    """What decoding needs to know about the prefix and about the tokens written after it.

    `past` holds their keys and values for each layer [batch heads places head]. There is room for
    `capacity` tokens, and `length` of them are filled. Each token has one place for every beam of
    the picture.

    When beams branch, their keys and values are not copied. For each beam and place, `ancestry`
    says which beam wrote the keys and values that this beam uses.
    """

    prefix: Prefix
    past: tuple[Past, ...]
    length: Int[Array, ""]
    ancestry: Int[Array, "batch beams capacity"]

    @property
    def positions(self) -> Int[Array, "#batch 1"]:
        """The position of each picture's next token."""
        return (self.prefix.next_position + self.length)[:, None]

    def reorder(self, rows: Int[Array, " rows"]) -> "Cache":
        """The cache in which row `i` continues row `rows[i]`, a row of the same picture."""
        flat = self.ancestry.reshape(len(rows), -1)
        return dataclasses.replace(self, ancestry=flat[rows].reshape(self.ancestry.shape))

    def visible(self, window: int | None = None) -> Bool[Array, "#batch queries places"]:
        """Which places of the past the next token of each row sees: earlier ones and its own.

        With a `window` they are at most that many.
        """
        batch, beams, capacity = self.ancestry.shape
        places = jnp.arange(capacity)
        before = places <= self.length
        if window is not None:
            before &= places > self.length - window
        if beams == 1:
            return before[None, None]
        beam = jnp.arange(beams)
        # Each beam sees its own new token; old entries of `ancestry` do not count there.
        filled = (places < self.length)[:, None]
        own = (self.ancestry[..., None] == beam) & filled
        new = (beam == beam[:, None, None]) & ~filled
        mask = (own | new) & before[:, None]  # [batch beams capacity beams]
        return mask.reshape(batch, beams, capacity * beams)

    def with_more(self, room: int) -> "Cache":
        """The cache with room for so many more tokens."""
        beams = self.ancestry.shape[1]
        past = jax.tree.map(
            lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, room * beams), (0, 0))), self.past
        )
        ancestry = jnp.pad(self.ancestry, ((0, 0), (0, 0), (0, room)))
        return dataclasses.replace(self, past=past, ancestry=ancestry)

    def extended(self, past: tuple[Past, ...]) -> "Cache":
        """The cache after one more token in each row."""
        written = jnp.arange(self.ancestry.shape[2]) == self.length
        own = jnp.arange(self.ancestry.shape[1])[:, None]
        ancestry = jnp.where(written, own, self.ancestry)
        return dataclasses.replace(self, past=past, ancestry=ancestry, length=self.length + 1)


def write_cache(past: Past, new: KeysValues, length: Int[Array, ""]) -> Past:
    """Write keys and values of one new token, a row for each beam, after the first `length`."""

    def write(old: Array, new: Array) -> Array:
        batch, heads, _, head = old.shape
        beams = new.shape[0] // batch
        # [rows heads 1 head] -> [batch heads beams head]
        new = new.reshape(batch, beams, heads, head).swapaxes(1, 2).astype(old.dtype)
        return jax.lax.dynamic_update_slice_in_dim(old, new, length * beams, axis=2)

    return write(past[0], new[0]), write(past[1], new[1])
