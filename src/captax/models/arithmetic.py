"""Products, activations and embeddings, each in the form that suits the device."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from captax.models.observing import observing
from captax.models.quantised import Quantised
from captax.models.tracing import modes

T = TypeVar("T")
CPU_CHUNK = 2
FEW_ROWS = 64
WIDENED = 1 << 22  # values of a quantised kernel that are widened at a time, on a CPU
# XLA:CPU has no narrow product for one row: it takes ten times as long as one for a few rows.
FEWEST_NARROW_ROWS = 8

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


def activation_dtype(weights: Any) -> Any:
    """The type of activations between products whose weights have the type `weights`.

    On a CPU it is float32: a CPU has narrow instructions for products at most, so everything else
    would be widened and narrowed again at every step.
    """
    return jnp.dtype("float32") if jax.default_backend() == "cpu" else jnp.dtype(weights)


def project(
    x: Float[Array, "*batch width_in"], kernel: Float[Array, "width_out width_in"] | Quantised
) -> Float[Array, "*batch width_out"]:
    """`x @ kernel.T`, summed in float32; narrow kernels make narrow products in both directions.

    The result has the type that `activation_dtype` says.
    """
    if isinstance(kernel, Quantised):
        rows = _quantised_product(x.reshape(-1, x.shape[-1]), kernel)
    elif modes().portable:
        return _sum_over(x, x.ndim - 1, kernel, 1)
    else:
        rows = _product(x.reshape(-1, x.shape[-1]), kernel)
    return rows.reshape(*x.shape[:-1], -1).astype(activation_dtype(kernel.dtype))


@jax.custom_vjp
def _product(
    rows: Float[Array, "rows width_in"], kernel: Float[Array, "width_out width_in"]
) -> Float[Array, "rows width_out"]:
    """The product, in the order that suits the number of rows.

    With a few rows, as in decoding, nearly all the time goes into reading the kernel. XLA:CPU reads
    it up to twice as fast when it comes first in the product.
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
    # The barrier makes XLA:CPU compute it once. Otherwise XLA:CPU computes it, and all that leads
    # to it, again for each product in which it is laid out.
    by = jax.lax.optimization_barrier(gradient.astype(kernel.dtype))
    by_rows = _sum_over(by, 1, kernel, 0)
    if kernel.dtype == jnp.float32:
        by_kernel = _sum_over(by, 0, rows, 0)
    else:
        # XLA:CPU widens the operands of a product that sums over the first axis of both. If one is
        # transposed, in a batch of one, they stay narrow.
        across = jax.lax.optimization_barrier(by[None].swapaxes(1, 2))
        narrow = rows.astype(kernel.dtype)[None]
        by_kernel = jnp.matmul(across, narrow, preferred_element_type=jnp.float32)[0]
    return by_rows.astype(rows.dtype), by_kernel.astype(kernel.dtype)


_product.defvjp(_product_forward, _product_backward)


def _quantised_product(
    rows: Float[Array, "rows width_in"], kernel: Quantised
) -> Float[Array, "rows width_out"]:
    """The product with a kernel that is widened as it is read."""

    def product(kernel: Quantised) -> Array:
        wide, scales = kernel.factors()
        found = _product(rows, wide)
        return found if scales is None else found * scales

    out, width = kernel.shape
    block = max(1, WIDENED // width)
    if jax.default_backend() != "cpu" or out <= block:
        return product(kernel)
    # XLA:CPU would widen the whole kernel in memory. The last block overlaps the one before it.
    firsts = np.minimum(np.arange(0, out, block), out - block)
    found = jax.lax.map(lambda first: product(kernel.part(first, block)), jnp.asarray(firsts))
    whole = jnp.moveaxis(found[:-1], 0, 1).reshape(len(rows), -1)
    return jnp.concatenate([whole, found[-1][:, whole.shape[1] - out :]], axis=1)


def _sum_over(a: Array, of_a: int, b: Array, of_b: int) -> Float[Array, "..."]:
    """The product of two arrays, mostly matrices, over an axis of each, in float32."""
    axes = (((of_a,), (of_b,)), ((), ()))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def look_up(
    table: Float[Array, "vocab width"] | Quantised, tokens: Int[Array, "*shape"]
) -> Float[Array, "*shape width"]:
    """Embeddings of tokens, in the type that `activation_dtype` says."""
    if isinstance(table, Quantised):
        return table.look_up(tokens).astype(activation_dtype(table.dtype))
    rows = table
    if rows.dtype != jnp.float32:
        # Without the barrier, XLA:CPU widens the whole table in memory before it begins to decode.
        rows, tokens = jax.lax.optimization_barrier((rows, tokens))
    return rows[tokens].astype(activation_dtype(rows.dtype))


def largest(
    x: Float[Array, "batch values"], count: int
) -> tuple[Float[Array, "batch count"], Int[Array, "batch count"]]:
    """The `count` largest values of each row and their places, the largest first."""
    if not modes().portable:
        values, places = jax.lax.top_k(x, count)
        return values, places
    places = jnp.arange(x.shape[1])
    found = []
    for _ in range(count):
        value = x.max(-1, keepdims=True)
        place = jnp.where(x == value, places, x.shape[1] - 1).min(-1, keepdims=True)
        found.append((value, place))
        x = jnp.where(places == place, -jnp.inf, x)
    firsts, seconds = zip(*found, strict=True)
    return jnp.concatenate(firsts, 1), jnp.concatenate(seconds, 1)


def softcapped(x: Float[Array, "*shape"], cap: float | None) -> Float[Array, "*shape"]:
    """`cap * tanh(x / cap)`, which stays below `cap`; `x` itself without one.

    Bello et al. (https://arxiv.org/abs/1611.09940).
    """
    return x if cap is None else cap * jnp.tanh(x / cap)


def map_pictures(function: Callable[[Any], T], pixels: Any, at_once: int | None = None) -> T:
    """`function(pixels)`, computed in the way that suits the device.

    `function` takes and gives a batch, which may be a tree of arrays. On a CPU the pictures go
    through it two at a time: a convolutional encoder's activations fit the processor's cache for
    two, but not for a batch. On other devices `at_once` go through it, or all.
    """
    batch = jax.tree.leaves(pixels)[0].shape[0]
    chunk = CPU_CHUNK if jax.default_backend() == "cpu" else at_once or batch
    if batch <= chunk or batch % chunk or observing():
        return function(pixels)
    parts = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), pixels)
    chunks = jax.lax.map(function, parts)
    return jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:]), chunks)
