"""The small modules that families are made of: linear layers, norms, the MLP, dropout."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from captax.models.arithmetic import ACTIVATIONS, project
from captax.models.observing import record


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
    """The norm after an encoder's last layer; it also records that layer's output."""

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        return super().__call__(record("hidden_states", x))


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """What differs between the transformer layers of different families.

    With `pre_norm` each block normalises its input (GPT-2, ViT), else the sum after it (BERT).
    With a `context_width` layers also have cross-attention, to places of that width. `out_std` is
    the initial deviation of the projections that write to the residual stream, by default `std`.
    The MLP takes the deviations of attention unless its own are given.
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
