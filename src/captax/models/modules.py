"""The small modules that families are made of: linear layers, norms, the MLP, dropout."""

import contextlib
import dataclasses
from collections.abc import Iterator
from types import EllipsisType
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Float

from captax.models.arithmetic import ACTIVATIONS, project
from captax.models.observing import record
from captax.models.quantised import Quantised
from captax.models.rotary import Rotary


def parameter(
    rngs: nnx.Rngs | None, shape: tuple[int, ...], *, std: float | None = None, fill: float = 0.0
) -> nnx.Param:
    """A float32 parameter: normal with deviation `std`, or all `fill`.

    Without `rngs` it has a shape and no values: a model that is built so, for a checkpoint to fill,
    costs neither memory nor a trace.
    """
    if rngs is None:
        return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32))
    if std is None:
        return nnx.Param(jnp.full(shape, fill, jnp.float32))
    return nnx.Param(std * jax.random.normal(rngs.params(), shape))


@struct.dataclass
class Adapted:
    """A kernel of a `Linear` with a low-rank change, `scale * up @ down`, that is kept apart.

    The kernel may then be narrow and frozen: no sum of both is made, and no gradient of its size.
    """

    kernel: Float[Any, "width_out width_in"] | Quantised
    down: Float[Any, "rank width_in"]
    up: Float[Any, "width_out rank"]
    scale: float = struct.field(pytree_node=False)

    def __getitem__(self, whole: EllipsisType) -> "Adapted":
        return self  # as an array in a parameter answers

    def project(self, x: Float[Array, "*batch width_in"]) -> Float[Array, "*batch width_out"]:
        """`x @ (kernel + scale * up @ down).T`."""
        return project(x, self.kernel) + self.scale * project(project(x, self.down), self.up)


class Linear(nnx.Module):
    """`x @ kernel.T + bias`; kernels begin with deviation `std`, by default LeCun's.

    The kernel is `[width_out width_in]`, as PyTorch keeps it; training may put an `Adapted` one in
    its place.
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
        kernel = self.kernel[...]
        y = kernel.project(x) if isinstance(kernel, Adapted) else project(x, kernel)
        return y if self.bias is None else y + self.bias[...]


def linear_kernels(model: nnx.Module) -> set[str]:
    """Names of the kernels of a model's `Linear`s, which are used in products alone."""
    modules = nnx.iter_modules(model)
    return {
        ".".join(map(str, (*path, "kernel"))) for path, each in modules if isinstance(each, Linear)
    }


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
    """The norm after an encoder's last layer; it also records that layer's output."""

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        return super().__call__(record("hidden_states", x))


class RmsNorm(nnx.Module):
    """Unit mean square over the last axis, in float32, then `offset + scale`.

    Zhang and Sennrich (https://arxiv.org/abs/1910.07467). Gemma's checkpoints hold scales around 0,
    for an `offset` of 1.
    """

    def __init__(
        self, width: int, *, rngs: nnx.Rngs | None, epsilon: float = 1e-6, offset: float = 0.0
    ):
        self.scale = parameter(rngs, (width,), fill=1.0 - offset)
        self.epsilon, self.offset = epsilon, offset

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        wide = x.astype(jnp.float32)
        factor = jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.epsilon)
        return (wide * factor * (self.offset + self.scale[...])).astype(x.dtype)


class BatchNorm(nnx.Module):
    """Zero mean and unit variance of every channel over all positions, then scale and bias.

    Mean and variance are kept from the network's first training, except inside `norms_of_batch`.
    """

    EPSILON = 1e-5

    def __init__(self, channels: int, *, rngs: nnx.Rngs | None):
        self.scale = parameter(rngs, (channels,), fill=1.0)
        self.bias = parameter(rngs, (channels,))
        self.mean = parameter(rngs, (channels,))
        self.variance = parameter(rngs, (channels,), fill=1.0)
        self.of_batch = False
        self.seen: tuple[Array, Array] | None = nnx.data(None)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        wide = x.astype(jnp.float32)
        if self.of_batch:
            mean, variance = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
            count = x.size // x.shape[-1]
            self.seen = nnx.data((mean, variance * (count / max(count - 1, 1))))
        else:
            mean, variance = jax.lax.stop_gradient((self.mean[...], self.variance[...]))
        factor = jax.lax.rsqrt(variance + self.EPSILON) * self.scale[...]
        return ((wide - mean) * factor + self.bias[...]).astype(x.dtype)


@contextlib.contextmanager
def norms_of_batch(model: nnx.Module) -> Iterator[dict[str, BatchNorm]]:
    """Inside the block batch norms use the mean and variance of the batch; it gives them by name.

    This is what PyTorch's training mode does. A norm that was used has `seen` the mean and the
    unbiased variance of its batch.
    """
    norms = {
        ".".join(map(str, path)): module
        for path, module in nnx.iter_modules(model)
        if isinstance(module, BatchNorm)
    }
    for norm in norms.values():
        norm.of_batch = True
    try:
        yield norms
    finally:
        for norm in norms.values():
            norm.of_batch, norm.seen = False, nnx.data(None)


def statistics_of(model: nnx.Module) -> set[str]:
    """Names of the means and variances that the batch norms of a model keep."""
    with norms_of_batch(model) as norms:
        return {f"{name}.{kept}" for name in norms for kept in ("mean", "variance")}


@dataclasses.dataclass(frozen=True)
class NormConfig:
    """A normalisation: `LayerNorm`, or with `rms` an `RmsNorm` of this `offset`."""

    epsilon: float = 1e-6
    rms: bool = False
    offset: float = 0.0

    def build(self, width: int, *, rngs: nnx.Rngs | None) -> LayerNorm | RmsNorm:
        """The module."""
        if self.rms:
            return RmsNorm(width, rngs=rngs, epsilon=self.epsilon, offset=self.offset)
        return LayerNorm(width, rngs=rngs, epsilon=self.epsilon)


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """What differs between the attentions of different families.

    Each of `kv_heads` keys and values serves a group of query heads
    (https://arxiv.org/abs/2305.13245); by default each head has its own. A head is `head_dim` wide,
    by default the model's width divided by the heads. Scores are multiplied by `scale`, by default
    `head_dim ** -0.5`, and stay below `softcap` if there is one. `norm` normalises each head's
    queries and keys. `rotary` turns them by their positions. A query sees the last `window` places,
    its own included, by default all.
    """

    heads: int
    kv_heads: int | None = None
    head_dim: int | None = None
    scale: float | None = None
    softcap: float | None = None
    bias: bool = True
    out_bias: bool = True
    norm: NormConfig | None = None
    rotary: Rotary | None = None
    window: int | None = None
    dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class MlpConfig:
    """Two linear layers with an activation between; `gated` ones multiply it by a third.

    What comes out of the activation has a `dropout` of its own.
    """

    width: int
    activation: str = "gelu_new"
    gated: bool = False
    bias: bool = True
    dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """What differs between the transformer layers of different families.

    `order` says where blocks are normalised: their input (`pre`, as in GPT-2, ViT, Llama), the sum
    after them (`post`, as in BERT), or their input and their output (`sandwich`, as in Gemma 2).
    With a `context_width` layers also have cross-attention, to places of that width. `out_std` is
    the initial deviation of the projections that write to the residual stream, by default `std`.
    The MLP takes the deviations of attention unless its own are given.
    """

    width: int
    attention: AttentionConfig
    mlp: MlpConfig
    norm: NormConfig = NormConfig()
    order: Literal["pre", "post", "sandwich"] = "pre"
    context_width: int | None = None
    dropout: float = 0.0
    std: float | None = None
    out_std: float | None = None
    mlp_std: float | None = None
    mlp_out_std: float | None = None


class Mlp(nnx.Module):
    """Two linear layers with an activation between, which may be gated by a third.

    Shazeer (https://arxiv.org/abs/2002.05202) compares the gates.
    """

    def __init__(
        self,
        width: int,
        config: MlpConfig,
        *,
        rngs: nnx.Rngs | None,
        std: float | None = None,
        out_std: float | None = None,
    ):
        hidden, bias = config.width, config.bias
        self.up = Linear(width, hidden, rngs=rngs, std=std, bias=bias)
        gated = config.gated
        self.gate = Linear(width, hidden, rngs=rngs, std=std, bias=bias) if gated else None
        self.down = Linear(hidden, width, rngs=rngs, std=out_std or std, bias=bias)
        self.activation = config.activation
        self.dropout = Dropout(config.dropout) if config.dropout else None

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        activation = ACTIVATIONS[self.activation]
        hidden = activation((self.gate or self.up)(x))
        if self.dropout is not None:
            hidden = self.dropout(hidden)
        return self.down(hidden if self.gate is None else hidden * self.up(x))


class _Calls:
    """How often a dropout has drawn. Not an array: gradients may compute a layer twice."""

    count = 0


class Dropout(nnx.Module):
    """Sets a share of the values to zero, once training has given it a `key`.

    Without a key it changes nothing. The rate is rounded to 1/256, so that four values share one
    random word: drawing random words is what dropout costs.
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
