"""Layers every family shares, written once.

Legend: `batch` images, `rows` = batch x beams, `time` token positions, `places` what is attended
to, `width` model width, `heads`, `head` = width of one head.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from captax.models.record import observing, record

T = TypeVar("T")
CPU_CHUNK = 2
FEW_ROWS = 64
# Of one row, XLA:CPU has no narrow product: it takes ten times as long as that of a few.
FEWEST_NARROW_ROWS = 8

# Of what is attended to. One signature may hold those of captions and those of pictures, so sizes
# that differ are unnamed.
KeysValues = tuple[Float[Array, "_ heads _ head"], Float[Array, "_ heads _ head"]]
# Of the tokens before, with room for more: place by place, and in each one of every beam.
Past = KeysValues

# By the names that transformers' configs give them.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


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
        return nnx.Param(jnp.full(shape, fill, jnp.float32))
    return nnx.Param(std * jax.random.normal(rngs.params(), shape))


_PORTABLE = False


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Inside the block models are traced in their plain forms, for any compiler and any batch.

    Sizes may be symbolic then. The forms that suit the compiler and the device at hand are left
    out, and so are gradients of our own.
    """
    global _PORTABLE
    before, _PORTABLE = _PORTABLE, True
    try:
        yield
    finally:
        _PORTABLE = before


def activation_dtype(weights: Any) -> Any:
    """What is computed between the products of weights of a type.

    On a CPU float32: its narrow instructions, if it has any, are for products alone, and everything
    else would be widened and narrowed again at every turn.
    """
    return jnp.dtype("float32") if jax.default_backend() == "cpu" else jnp.dtype(weights)


def project(
    x: Float[Array, "*batch width_in"], kernel: Float[Array, "width_out width_in"]
) -> Float[Array, "*batch width_out"]:
    """`x @ kernel.T`, of float32 sums; narrow kernels make narrow products, forward and backward.

    The result is of the type that `activation_dtype` says.
    """
    if _PORTABLE:
        return _sum_over(x, x.ndim - 1, kernel, 1)
    rows = _product(x.reshape(-1, x.shape[-1]), kernel)
    return rows.reshape(*x.shape[:-1], -1).astype(activation_dtype(kernel.dtype))


@jax.custom_vjp
def _product(
    rows: Float[Array, "rows width_in"], kernel: Float[Array, "width_out width_in"]
) -> Float[Array, "rows width_out"]:
    """In the order that suits the number of rows.

    Of a few rows, as in decoding, nearly all the time goes to reading the kernel. XLA:CPU reads it
    up to twice as fast when it comes first in the product.
    """
    count = len(rows)
    rows = rows.astype(kernel.dtype)
    if kernel.dtype != jnp.float32:
        rows = jnp.pad(rows, ((0, max(0, FEWEST_NARROW_ROWS - count)), (0, 0)))
    if count > FEW_ROWS:
        return _sum_over(rows, 1, kernel, 1)
    return _sum_over(kernel, 1, rows, 1).T[:count]


def _product_forward(rows: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(rows, kernel), (rows, kernel)


def _product_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    rows, kernel = saved
    # Once and for all: XLA:CPU would compute it again, with all that leads to it, wherever it lays
    # it out for a product.
    by = jax.lax.optimization_barrier(gradient.astype(kernel.dtype))
    by_rows = _sum_over(by, 1, kernel, 0)
    if kernel.dtype == jnp.float32:
        by_kernel = _sum_over(by, 0, rows, 0)
    else:
        # It widens the operands of a product that sums over the first axis of both. Laid across, as
        # a batch of one, they stay narrow.
        across = jax.lax.optimization_barrier(by[None].swapaxes(1, 2))
        narrow = rows.astype(kernel.dtype)[None]
        by_kernel = jnp.matmul(across, narrow, preferred_element_type=jnp.float32)[0]
    return by_rows.astype(rows.dtype), by_kernel.astype(kernel.dtype)


_product.defvjp(_product_forward, _product_backward)


def _sum_over(a: Array, of_a: int, b: Array, of_b: int) -> Float[Array, "..."]:
    """The product of two arrays, mostly matrices, over an axis of each, in float32."""
    axes = (((of_a,), (of_b,)), ((), ()))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def look_up(
    table: Float[Array, "vocab width"], tokens: Int[Array, "*shape"]
) -> Float[Array, "*shape width"]:
    """Embeddings of tokens, of the type that `activation_dtype` says."""
    if table.dtype != jnp.float32:
        # Or XLA:CPU would widen the whole table first, in memory, before it begins to decode.
        table, tokens = jax.lax.optimization_barrier((table, tokens))
    return table[tokens].astype(activation_dtype(table.dtype))


class Linear(nnx.Module):
    """`x @ kernel.T + bias`; kernels begin with deviation `std`, by default LeCun's.

    The kernel is `[width_out width_in]`, as PyTorch keeps it.
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        *,
        rngs: nnx.Rngs | None,
        bias: bool = True,
        std: float | None = None,
    ):
        self.kernel = parameter(rngs, (width_out, width_in), std=std or width_in**-0.5)
        self.bias = parameter(rngs, (width_out,)) if bias else None

    def __call__(self, x: Float[Array, "*batch width_in"]) -> Float[Array, "*batch width_out"]:
        y = project(x, self.kernel[...])
        return y if self.bias is None else y + self.bias[...]


class LayerNorm(nnx.Module):
    """Zero mean and unit variance over the last axis, in float32, then scale and bias."""

    def __init__(self, width: int, *, rngs: nnx.Rngs | None, epsilon: float = 1e-6):
        self.scale = parameter(rngs, (width,), fill=1.0)
        self.bias = parameter(rngs, (width,))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        factor = jax.lax.rsqrt(variance + self.epsilon) * self.scale[...]
        return (centred * factor + self.bias[...]).astype(x.dtype)


class FinalNorm(LayerNorm):
    """The norm after an encoder's last layer, of which it records what that layer gave."""

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        return super().__call__(record("hidden_states", x))


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """What tells one family's transformer layers from another's.

    `pre_norm`: each block normalises what it reads (GPT-2, ViT); else the sum behind it (BERT).
    `context_width`: layers also have cross-attention, to places of that width. `out_std` is the
    initial deviation of the projections that write to the residual stream, by default `std`; the
    MLP's are the attention's unless they are given.
    """

    width: int
    heads: int
    mlp_width: int
    pre_norm: bool = True
    context_width: int | None = None
    epsilon: float = 1e-6
    activation: str = "gelu_new"
    qkv_bias: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    std: float | None = None
    out_std: float | None = None
    mlp_std: float | None = None
    mlp_out_std: float | None = None


class Attention(nnx.Module):
    """Multi-head attention whose keys and values may come from elsewhere, or from a cache."""

    def __init__(
        self, config: LayerConfig, *, rngs: nnx.Rngs | None, context_width: int | None = None
    ):
        width, std, bias = config.width, config.std, config.qkv_bias
        self.heads = config.heads
        self.name = "attentions" if context_width is None else "cross_attentions"
        context = context_width or width
        self.query = Linear(width, width, rngs=rngs, std=std, bias=bias)
        self.key = Linear(context, width, rngs=rngs, std=std, bias=bias)
        self.value = Linear(context, width, rngs=rngs, std=std, bias=bias)
        self.out = Linear(width, width, rngs=rngs, std=config.out_std or std)
        self.dropout = Dropout(config.attention_dropout)

    def keys_and_values(self, context: Float[Array, "batch places context_width"]) -> KeysValues:
        """Project what is attended to."""
        return self._split(self.key(context)), self._split(self.value(context))

    def __call__(
        self,
        x: Float[Array, "rows time width"],
        own: KeysValues,
        mask: Bool[Array, "#batch #queries places"] | None = None,
        shared: KeysValues | None = None,
    ) -> Float[Array, "rows time width"]:
        """Attend from `x` to the keys and values `own`, and to `shared` ones before them.

        `mask` is true where a place of `own` may be seen; `shared` is seen by all. Where `x` has
        more rows than keys and values have (beams of one picture), the rows of a picture are laid
        one after the other in time, as `queries`, so nothing is ever repeated.
        """
        batch, heads, _, head = own[0].shape
        query = (self.query(x) * head**-0.5).reshape(batch, -1, heads, head).swapaxes(1, 2)
        scores = self._scores(query, own[0])
        if mask is not None:
            scores = jnp.where(mask[:, None], scores, jnp.finfo(scores.dtype).min)
        count = 0
        if shared is not None:
            count = shared[0].shape[2]
            scores = jnp.concatenate([self._scores(query, shared[0]), scores], axis=-1)
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        weights = self.dropout(record(self.name, weights))
        mixed = jnp.einsum("bhqk,bhkd->bhqd", weights[..., count:], own[1])
        if shared is not None:
            mixed += jnp.einsum("bhqk,bhkd->bhqd", weights[..., :count], shared[1])
        return self.out(mixed.swapaxes(1, 2).reshape(x.shape))

    def _scores(self, query: Array, keys: Array) -> Float[Array, "batch heads queries places"]:
        return jnp.einsum("bhqd,bhkd->bhqk", query, keys, preferred_element_type=jnp.float32)

    def _split(self, x: Array) -> Float[Array, "batch heads places head"]:
        return x.reshape(*x.shape[:2], self.heads, -1).swapaxes(1, 2)


class _Calls:
    """How often a dropout drew; no array, so that layers may be computed twice for gradients."""

    count = 0


class Dropout(nnx.Module):
    """Zeroes a share of the values, once training has given it a `key`; until then, nothing.

    The rate is rounded to 1/256, so that four values share one random word: drawing them is what
    dropout costs.
    """

    def __init__(self, rate: float):
        self.rate = rate
        self.key: Array | None = nnx.data(None)
        self.calls = _Calls()

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Drop values and scale the others so that the mean stays; each call draws anew."""
        threshold = min(round(self.rate * 256), 255)
        if self.key is None or threshold == 0:
            return x
        key = jax.random.fold_in(self.key, self.calls.count)
        self.calls.count += 1
        words = jax.random.bits(key, (-(-x.size // 4),), "uint32")
        draws = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[: x.size]
        kept = draws.reshape(x.shape) >= threshold
        return jnp.where(kept, x * (256 / (256 - threshold)), 0)


@contextlib.contextmanager
def dropout_enabled(model: nnx.Module, key: Array) -> Iterator[None]:
    """Inside the block every dropout of the model is on, each with its own key."""
    dropouts = [module for _, module in nnx.iter_modules(model) if isinstance(module, Dropout)]
    for i, dropout in enumerate(dropouts):
        dropout.key, dropout.calls.count = jax.random.fold_in(key, i), 0
    try:
        yield
    finally:
        for dropout in dropouts:
            dropout.key = nnx.data(None)


_REMATERIALISED = False


@contextlib.contextmanager
def rematerialised(whether: bool = True) -> Iterator[None]:
    """Inside the block gradients keep what goes from layer to layer, and compute the rest twice."""
    global _REMATERIALISED
    before, _REMATERIALISED = _REMATERIALISED, whether
    try:
        yield
    finally:
        _REMATERIALISED = before


def run_layer(layer: Callable[..., T], *inputs: Any) -> T:
    """`layer(*inputs)`, of which gradients keep as much as `rematerialised` says."""
    if not _REMATERIALISED:
        return layer(*inputs)
    return jax.checkpoint(lambda *inputs: layer(*inputs))(*inputs)


class Mlp(nnx.Module):
    """Two linear layers with an activation between."""

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        rngs: nnx.Rngs | None,
        activation: str = "gelu_new",
        std: float | None = None,
        out_std: float | None = None,
    ):
        self.up = Linear(width, hidden, rngs=rngs, std=std)
        self.down = Linear(hidden, width, rngs=rngs, std=out_std or std)
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        return self.down(ACTIVATIONS[self.activation](self.up(x)))


class Layer(nnx.Module):
    """One transformer layer: self-attention, cross-attention if it has any, MLP; each is added."""

    def __init__(self, config: LayerConfig, *, rngs: nnx.Rngs | None):
        width, context = config.width, config.context_width
        self.pre_norm = config.pre_norm
        self.self_attention = Attention(config, rngs=rngs)
        self.self_norm = LayerNorm(width, rngs=rngs, epsilon=config.epsilon)
        crosses = context is not None
        self.cross_attention = (
            Attention(config, rngs=rngs, context_width=context) if crosses else None
        )
        self.cross_norm = LayerNorm(width, rngs=rngs, epsilon=config.epsilon) if crosses else None
        self.mlp = Mlp(
            width,
            config.mlp_width,
            rngs=rngs,
            activation=config.activation,
            std=config.mlp_std or config.std,
            out_std=config.mlp_out_std or config.out_std,
        )
        self.mlp_norm = LayerNorm(width, rngs=rngs, epsilon=config.epsilon)
        self.dropout = Dropout(config.dropout)

    def __call__(
        self,
        x: Float[Array, "rows time width"],
        mask: Bool[Array, "#batch #queries places"] | None = None,
        *,
        context: KeysValues | None = None,
        context_mask: Bool[Array, "batch 1 patches"] | None = None,
        past: tuple[Past, Int[Array, ""]] | None = None,
    ) -> tuple[Float[Array, "rows time width"], KeysValues | Past]:
        """The layer's output, and the keys and values its self-attention saw.

        `context` is looked at besides the tokens: by cross-attention where the layer has it, else
        by self-attention together with them. With a `past`, cached keys and values and their
        length, those of `x` are written behind; `mask` is then over the places of all beams, place
        by place.
        """
        y = self._enter(x, self.self_norm)
        places = seen = self.self_attention.keys_and_values(y)
        if past is not None:
            places = seen = write_cache(past[0], places, past[1])
        shared = context if self.cross_attention is None else None
        y = self.self_attention(y, places, mask, shared)
        x = self._add(x, y, self.self_norm)
        if self.cross_attention and self.cross_norm and context is not None:
            y = self._enter(x, self.cross_norm)
            x = self._add(x, self.cross_attention(y, context, context_mask), self.cross_norm)
        y = self.mlp(self._enter(x, self.mlp_norm))
        return self._add(x, y, self.mlp_norm), seen

    def _enter(self, x: Array, norm: LayerNorm) -> Array:
        return norm(x) if self.pre_norm else x

    def _add(self, x: Array, y: Array, norm: LayerNorm) -> Array:
        x = x + self.dropout(y)
        return x if self.pre_norm else norm(x)


class EncoderLayer(Layer):
    """A layer of an encoder: every place sees every other, but what a mask hides."""

    def __call__(  # type: ignore[override]
        self,
        x: Float[Array, "batch places width"],
        mask: Bool[Array, "#batch #places places"] | None = None,
    ) -> Float[Array, "batch places width"]:
        """The layer's output; `mask` is true where a place (second axis) may see another."""
        record("hidden_states", x)
        return super().__call__(x, mask)[0]


def write_cache(past: Past, new: KeysValues, length: Int[Array, ""]) -> Past:
    """Put the keys and values of new tokens, a row a beam, behind the `length` that are there."""

    def write(old: Array, new: Array) -> Array:
        batch, heads, _, head = old.shape
        beams = new.shape[0] // batch
        # [rows heads time head] -> [batch heads time beams head]
        new = new.reshape(batch, beams, heads, -1, head).transpose(0, 2, 3, 1, 4)
        new = new.reshape(batch, heads, -1, head).astype(old.dtype)
        return jax.lax.dynamic_update_slice_in_dim(old, new, length * beams, axis=2)

    return write(past[0], new[0]), write(past[1], new[1])


def map_pictures(function: Callable[[Array], T], pixels: Float[Array, "batch *picture"]) -> T:
    """`function(pixels)`, computed in the way that suits the device.

    `function` takes and gives a batch. On a CPU the pictures go through it two at a time: a
    convolutional encoder's activations of two fit the processor's cache, those of a batch do not.
    """
    batch = pixels.shape[0]
    whole = jax.default_backend() != "cpu" or batch <= CPU_CHUNK or batch % CPU_CHUNK
    if whole or observing():
        return function(pixels)
    chunks = jax.lax.map(function, pixels.reshape(-1, CPU_CHUNK, *pixels.shape[1:]))
    return jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:]), chunks)


class PatchEmbedding(nnx.Module):
    """Pictures to tokens: cut in patches, project, lead by learned tokens, add positions."""

    def __init__(
        self,
        width: int,
        patch: int,
        grid: tuple[int, int],
        *,
        rngs: nnx.Rngs | None,
        distilled: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        std: float = 0.02,
    ):
        self.patch, self.grid = patch, grid
        self.kernel = parameter(rngs, (patch, patch, 3, width), std=std)
        self.bias = parameter(rngs, (width,)) if bias else None
        self.cls_token = parameter(rngs, (width,), std=std)
        self.distillation_token = parameter(rngs, (width,), std=std) if distilled else None
        self.positions = parameter(rngs, (1 + distilled + grid[0] * grid[1], width), std=std)
        self.dropout = Dropout(dropout)

    def __call__(
        self, pixels: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch patches channels"]:
        """Tokens of pictures of any size: positions are interpolated where it is another."""
        batch, height, width, _ = pixels.shape
        side, kernel = self.patch, self.kernel[...]
        rows, columns = height // side, width // side
        whole = pixels[:, : rows * side, : columns * side]
        patches = whole.reshape(batch, rows, side, columns, side, 3).swapaxes(2, 3)
        patches = patches.reshape(batch, rows * columns, -1)
        x = project(patches, kernel.reshape(-1, kernel.shape[-1]).T)
        if self.bias is not None:
            x = x + self.bias[...]
        lead = [t[...] for t in (self.cls_token, self.distillation_token) if t is not None]
        first = jnp.broadcast_to(jnp.stack(lead), (batch, len(lead), x.shape[-1]))
        x = jnp.concatenate([first, x], axis=1)
        positions = self.positions[...]
        return self.dropout(
            x + interpolate_positions(positions, len(lead), self.grid, (rows, columns))
        )


def interpolate_positions(
    positions: Float[Array, "places width"], lead: int, grid: tuple[int, int], new: tuple[int, int]
) -> Float[Array, "new_places width"]:
    """Position embeddings of another grid, by bicubic interpolation as PyTorch does it.

    The first `lead` belong to no place and stay (https://arxiv.org/abs/2010.11929, section 3.2).
    """
    if grid == new:
        return positions
    places = positions[lead:].reshape(*grid, -1)
    rows, columns = (_bicubic(a, b) for a, b in zip(grid, new, strict=True))
    places = jnp.einsum("Rr,Cc,rcw->RCw", rows, columns, places).astype(positions.dtype)
    return jnp.concatenate([positions[:lead], places.reshape(-1, positions.shape[1])])


def _bicubic(size: int, new: int) -> Float[np.ndarray, "new size"]:
    """Weights of `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`.

    Keys' kernel with a = -0.75, no antialiasing, edges repeated.
    """
    centre = (np.arange(new) + 0.5) * size / new - 0.5
    first = np.floor(centre).astype(int) - 1
    weights = np.zeros((new, size))
    for tap in range(4):
        x = np.abs(centre - (first + tap))
        near = 1.25 * x**3 - 2.25 * x**2 + 1
        far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
        np.add.at(
            weights,
            (np.arange(new), np.clip(first + tap, 0, size - 1)),
            np.where(x <= 1, near, far),
        )
    return weights.astype(np.float32)
