"""Depthwise convolutions, in the form that suits the device.

Legend: `B` batch, `H` `W` height and width, `C` channels, `K` the kernel's sides.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def depthwise_convolution(
    x: Float[Array, "B H W C"], kernel: Float[Array, "K K C"], stride: int
) -> Float[Array, "B H2 W2 C"]:
    """Convolve each channel with its own filter, padded as TensorFlow's SAME pads."""

    def same(size: int) -> tuple[int, int]:
        total = max((-(-size // stride) - 1) * stride + kernel.shape[0] - size, 0)
        return total // 2, total - total // 2

    def grouped(x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(
            x,
            kernel[:, :, None, :],
            (stride, stride),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )

    # Jitted, so that blocks of the same shape are traced once.
    shifted = functools.partial(_shifted, stride=stride)

    x = jnp.pad(x, ((0, 0), same(x.shape[1]), same(x.shape[2]), (0, 0)))
    return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=grouped)


# XLA:CPU is slow at grouped convolutions, and at gradients of the products that replace them. K x K
# shifted products fuse into one loop that runs several times faster. Its gradient with respect to
# the picture is the same loop with the kernel reversed, and its gradient with respect to the kernel
# is a scan over rows of pixels.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted_products(x: Array, kernel: Array, stride: int) -> Array:
    size = kernel.shape[0]
    x = jax.lax.optimization_barrier(x)
    batch, _, _, channels = x.shape
    rows, columns = ((side - size) // stride * stride + 1 for side in x.shape[1:3])
    filters = [jnp.unstack(row) for row in jnp.unstack(kernel)]
    total = jnp.zeros((), x.dtype)
    for i in range(size):
        for j in range(size):
            # lax.slice, because indexing takes longer to trace, and there are hundreds of slices.
            window = jax.lax.slice(
                x, (0, i, j, 0), (batch, i + rows, j + columns, channels), (1, stride, stride, 1)
            )
            total = total + window * filters[i][j]
    return total


def _shifted_products_forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple]:
    return _shifted_products(x, kernel, stride), (x, kernel)


def _shifted_products_backward(
    stride: int, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    size = kernel.shape[0]
    batch, rows, columns, channels = gradient.shape

    # Put zeros where a stride skipped, and pad so that every pixel meets the whole kernel.
    def spread(side: int, places: int) -> tuple[int, int, int]:
        return size - 1, side - (places - 1) * stride - 1, stride - 1

    config = ((0, 0, 0), spread(x.shape[1], rows), spread(x.shape[2], columns), (0, 0, 0))
    padded = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), config)
    by_picture = _shifted_products(padded, kernel[::-1, ::-1], 1)

    span = (columns - 1) * stride + 1

    def add_row(total: Array, index: Array) -> tuple[Array, None]:
        image, row = index // rows, index % rows
        start = (image, row * stride, 0, 0)
        seen = jax.lax.dynamic_slice(x, start, (1, size, x.shape[2], channels))[0]
        by = jax.lax.dynamic_slice(gradient, (image, row, 0, 0), (1, 1, columns, channels))[0]
        terms = [(seen[:, j : j + span : stride] * by).sum(1) for j in range(size)]
        return total + jnp.stack(terms, 1), None

    by_kernel, _ = jax.lax.scan(add_row, jnp.zeros_like(kernel), jnp.arange(batch * rows))
    return by_picture, by_kernel


_shifted_products.defvjp(_shifted_products_forward, _shifted_products_backward)


@functools.partial(jax.jit, static_argnames="stride")
def _shifted(x: Array, kernel: Array, *, stride: int) -> Array:
    return _shifted_products(x, kernel, stride)
