"""Layers every family shares, written once.

Legend: `batch` images, `rows` = batch x beams, `time` token positions, `patches` visual tokens,
`width` model width, `heads`, `head` = width of one head.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Bool, Float, Int

from captax.errors import CaptaxError

T = TypeVar("T")
CPU_CHUNK = 2

# One signature may hold those of captions and those of pictures: the first two sizes are unnamed.
KeysValues = tuple[Float[Array, "_ _ heads head"], Float[Array, "_ _ heads head"]]


@struct.dataclass
class Features:
    """What a vision encoder says of a picture.

    `tokens` holds `lead` tokens that stand for no place (such as CLS), then the `grid` of places,
    row by row.
    """

    tokens: Float[Array, "*batch patches width"]
    grid: tuple[int, int] = struct.field(pytree_node=False)
    lead: int = struct.field(pytree_node=False, default=0)


class VisionEncoder(nnx.Module):
    """A chain of parts from pixels to `Features`, which can be cut between any two.

    What lies before the first trainable part is the same in every epoch: training computes
    `prefix` once and keeps it.
    """

    def parts(self) -> Sequence[Callable[[Array], Array]]:
        """The parts in order, each a module from an array to the next part's."""
        raise NotImplementedError

    def features(self, x: Array) -> Features:
        """Name what the last part gives."""
        raise NotImplementedError

    def prefix(self, pixels: Float[Array, "batch height width 3"], depth: int) -> Array:
        """Run the first `depth` parts."""
        x = pixels
        for part in self.parts()[:depth]:
            x = part(x)
        return x

    def suffix(self, x: Array, depth: int) -> Features:
        """Run the parts from `depth` on what `prefix` gave at the same depth."""
        for part in self.parts()[depth:]:
            x = part(x)
        return self.features(x)

    def __call__(self, pixels: Float[Array, "batch height width 3"]) -> Features:
        """Look at pictures."""
        return self.suffix(pixels, 0)


@struct.dataclass
class Cache:
    """What decoding one more token needs of the tokens before, layer by layer.

    `past`, of self-attention: [rows capacity heads head], of which `length` places are filled.
    `cross`, of cross-attention: [batch patches heads head], one a picture, however many beams
    (rows) share it.
    """

    past: tuple[KeysValues, ...]
    cross: tuple[KeysValues, ...]
    length: Int[Array, ""]

    def reorder(self, rows: Int[Array, " rows"]) -> "Cache":
        """The cache in which row `i` continues what row `rows[i]` was."""
        return dataclasses.replace(self, past=jax.tree.map(lambda array: array[rows], self.past))

    def repeat(self, times: int) -> "Cache":
        """The cache with every row there `times`, side by side; pictures are still shared."""
        past = jax.tree.map(lambda array: jnp.repeat(array, times, axis=0), self.past)
        return dataclasses.replace(self, past=past)


class LengthError(CaptaxError):
    """A caption is to be longer than its decoder can read."""


class TextDecoder(nnx.Module):
    """Predicts each next token from the tokens before it and a picture's features."""

    def __call__(
        self,
        features: Features,
        tokens: Int[Array, "batch time"],
        positions: Int[Array, "#batch time"] | None = None,
        segments: Int[Array, "batch time"] | None = None,
    ) -> Float[Array, "batch time vocab"]:
        """Logits after every token, all at once.

        Several captions of one picture may lie in one row, told apart by `segments`: a token sees
        those before it in its own segment, and `positions` count from each caption's start.
        """
        raise NotImplementedError

    def begin(
        self, features: Features, prompt: Int[Array, "batch time"], capacity: int
    ) -> tuple[Float[Array, "batch vocab"], Cache]:
        """Logits after the prompt, and a cache with room for `capacity` tokens in all.

        Raises `LengthError` when that is more than the decoder can read.
        """
        raise NotImplementedError

    def advance(
        self, tokens: Int[Array, " rows"], cache: Cache
    ) -> tuple[Float[Array, "rows vocab"], Cache]:
        """Logits after one more token a row."""
        raise NotImplementedError


def parameter(
    rngs: nnx.Rngs | None, shape: tuple[int, ...], *, std: float | None = None, fill: float = 0.0
) -> nnx.Param:
    """A float32 parameter: normal with deviation `std`, or all `fill`.

    Without `rngs` it has a shape and no values: a model built so, to be filled from a checkpoint,
    costs neither memory nor a trace.
    """
    if rngs is None:
        return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32))
    if std is None:
        return nnx.Param(jnp.full(shape, fill))
    return nnx.Param(std * jax.random.normal(rngs.params(), shape))


class Linear(nnx.Module):
    """`x @ kernel + bias`, initialised to keep variance (LeCun)."""

    def __init__(self, width_in: int, width_out: int, *, rngs: nnx.Rngs | None):
        self.kernel = parameter(rngs, (width_in, width_out), std=width_in**-0.5)
        self.bias = parameter(rngs, (width_out,))

    def __call__(self, x: Float[Array, "*batch width_in"]) -> Float[Array, "*batch width_out"]:
        return x @ self.kernel[...] + self.bias[...]


class LayerNorm(nnx.Module):
    """Zero mean and unit variance over the last axis, then scale and bias."""

    def __init__(self, width: int, *, rngs: nnx.Rngs | None, epsilon: float = 1e-6):
        self.scale = parameter(rngs, (width,), fill=1.0)
        self.bias = parameter(rngs, (width,))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        factor = jax.lax.rsqrt(variance + self.epsilon) * self.scale[...]
        return centred * factor + self.bias[...]


class Attention(nnx.Module):
    """Multi-head attention whose keys and values may come from elsewhere, or from a cache."""

    def __init__(
        self, width: int, heads: int, *, rngs: nnx.Rngs | None, context_width: int | None = None
    ):
        self.heads = heads
        self.query = Linear(width, width, rngs=rngs)
        self.key = Linear(context_width or width, width, rngs=rngs)
        self.value = Linear(context_width or width, width, rngs=rngs)
        self.out = Linear(width, width, rngs=rngs)

    def keys_and_values(self, context: Float[Array, "batch places context_width"]) -> KeysValues:
        """Project what is attended to."""
        return self._split(self.key(context)), self._split(self.value(context))

    def __call__(
        self,
        x: Float[Array, "rows time width"],
        keys: Float[Array, "batch places heads head"],
        values: Float[Array, "batch places heads head"],
        mask: Bool[Array, "#rows time places"] | None = None,
    ) -> Float[Array, "rows time width"]:
        """Attend from `x`; `mask` is true where a place may be seen.

        Where rows outnumber the batch (beams of one picture, without a mask), the rows of a
        picture are laid one after the other in time, so its keys and values are never repeated.
        """
        rows, time, width = x.shape
        query = self._split(self.query(x)).reshape(keys.shape[0], -1, *keys.shape[2:])
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, keys) * query.shape[-1] ** -0.5
        if mask is not None:
            scores = jnp.where(mask[:, None], scores, jnp.finfo(scores.dtype).min)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), values)
        return self.out(mixed.reshape(rows, time, width))

    def _split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)


class Dropout(nnx.Module):
    """Zeroes a share of the values, once training has given it a `key`; until then, nothing.

    The rate is rounded to 1/256, so that four values share one random word: drawing them is what
    dropout costs.
    """

    def __init__(self, rate: float):
        self.rate = rate
        self.key: Array | None = nnx.data(None)

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Drop values and scale the others so that the mean stays; each call draws anew."""
        threshold = min(round(self.rate * 256), 255)
        if self.key is None or threshold == 0:
            return x
        self.key, key = jax.random.split(self.key)
        words = jax.random.bits(key, (-(-x.size // 4),), "uint32")
        draws = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[: x.size]
        kept = draws.reshape(x.shape) >= threshold
        return jnp.where(kept, x * (256 / (256 - threshold)), 0)


class Mlp(nnx.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs | None):
        self.up = Linear(width, hidden, rngs=rngs)
        self.down = Linear(hidden, width, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        return self.down(jax.nn.gelu(self.up(x), approximate=True))


def write_cache(past: KeysValues, new: KeysValues, length: Int[Array, ""]) -> KeysValues:
    """Put the keys and values of new tokens behind the `length` that are there."""

    def write(old: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), length, axis=1)

    return write(past[0], new[0]), write(past[1], new[1])


def map_pictures(function: Callable[[Array], T], pixels: Float[Array, "batch *picture"]) -> T:
    """`function(pixels)`, computed in the way that suits the device.

    `function` takes and gives a batch. On a CPU the pictures go through it two at a time: a
    convolutional encoder's activations of two fit the processor's cache, those of a batch do not.
    """
    batch = pixels.shape[0]
    if jax.default_backend() != "cpu" or batch <= CPU_CHUNK or batch % CPU_CHUNK:
        return function(pixels)
    chunks = jax.lax.map(function, pixels.reshape(-1, CPU_CHUNK, *pixels.shape[1:]))
    return jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:]), chunks)
