"""EfficientNet-Lite, a vision encoder that is quick on any machine.

Tan and Le, *EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks*
(https://arxiv.org/abs/1905.11946), in the Lite variants of TensorFlow's TPU models: no
squeeze-and-excitation, ReLU6, a stem and a head that do not scale.

Legend: `B` batch, `H` `W` height and width, `C` channels. The batch norm of the reference is
inference-only here and folded into the convolution before it, so every convolution has a bias.
"""

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from captax.models.arithmetic import activation_dtype
from captax.models.config import ConfigError, ModelConfig
from captax.models.encoders import Features, VisionEncoder
from captax.models.modules import Linear, parameter

# (repeats, kernel, stride, expansion, channels) of each stage before scaling.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280


@dataclasses.dataclass(frozen=True)
class EfficientNetLiteConfig(ModelConfig):
    """Shape of the network. With `num_labels=0` it has no classifier."""

    model_type: ClassVar[str] = "efficientnet-lite"
    strict: ClassVar[bool] = True

    width_scale: float = 1.0
    depth_scale: float = 1.0
    image_size: int = 224
    num_labels: int = 0

    @classmethod
    def read(
        cls, config: Mapping[str, Any], tensors: Collection[str] = ()
    ) -> "EfficientNetLiteConfig":
        described = super().read(config, tensors)
        if not (0 < described.width_scale <= 10 and 0 < described.depth_scale <= 10):
            raise ConfigError(
                "efficientnet-lite: width_scale and depth_scale must be above 0 and at most 10"
            )
        return described

    @classmethod
    def lite(cls, size: int, *, num_labels: int = 0) -> "EfficientNetLiteConfig":
        """The config of EfficientNet-Lite0 to Lite4 (`size` 0 to 4), as published."""
        scales = (
            (1.0, 1.0, 224),
            (1.0, 1.1, 240),
            (1.1, 1.2, 260),
            (1.2, 1.4, 280),
            (1.4, 1.8, 300),
        )
        return cls(*scales[size], num_labels=num_labels)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of visual tokens: the network halves the picture five times."""
        side = math.ceil(self.image_size / 32)
        return side, side

    def as_encoder(self) -> "EfficientNetLiteConfig":
        return dataclasses.replace(self, num_labels=0)

    def build(self, *, rngs: nnx.Rngs | None = None) -> "EfficientNetLite":
        return EfficientNetLite(self, rngs=rngs)

    def blocks(self) -> list["BlockShape"]:
        """The shapes of all blocks in order, after scaling."""
        shapes = []
        channels = STEM_CHANNELS
        for stage, (repeats, kernel, stride, expansion, base) in enumerate(STAGES):
            out = _round_channels(base * self.width_scale)
            if 0 < stage < len(STAGES) - 1:  # Lite keeps the first and last stage at one block.
                repeats = math.ceil(repeats * self.depth_scale)
            for i in range(repeats):
                shapes.append(BlockShape(channels, out, kernel, stride if i == 0 else 1, expansion))
                channels = out
        return shapes


@dataclasses.dataclass(frozen=True)
class BlockShape:
    """The shape of one inverted residual block."""

    channels_in: int
    channels_out: int
    kernel: int
    stride: int
    expansion: int


def _round_channels(channels: float) -> int:
    """The nearest multiple of 8 that is at most a tenth below `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


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


class DepthwiseConv(nnx.Module):
    """A depthwise convolution with bias."""

    def __init__(self, channels: int, kernel: int, stride: int, *, rngs: nnx.Rngs | None):
        self.kernel = parameter(rngs, (kernel, kernel, channels), std=1 / kernel)
        self.bias = parameter(rngs, (channels,))
        self.stride = stride

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C"]:
        kernel = self.kernel[...].astype(x.dtype)
        return depthwise_convolution(x, kernel, self.stride) + self.bias[...]


class MobileBlock(nnx.Module):
    """An inverted residual: widen each position, mix neighbours in each channel, narrow."""

    def __init__(self, shape: BlockShape, *, rngs: nnx.Rngs | None):
        wide = shape.channels_in * shape.expansion
        self.expand = Linear(shape.channels_in, wide, rngs=rngs) if shape.expansion > 1 else None
        self.depthwise = DepthwiseConv(wide, shape.kernel, shape.stride, rngs=rngs)
        self.project = Linear(wide, shape.channels_out, rngs=rngs)
        self.residual = shape.stride == 1 and shape.channels_in == shape.channels_out

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C2"]:
        y = x if self.expand is None else jax.nn.relu6(self.expand(x))
        y = self.project(jax.nn.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class Stem(nnx.Module):
    """The first convolution, which halves the picture."""

    def __init__(self, *, rngs: nnx.Rngs | None):
        self.kernel = parameter(rngs, (3, 3, 3, STEM_CHANNELS), std=27**-0.5)
        self.bias = parameter(rngs, (STEM_CHANNELS,))

    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B H2 W2 C"]:
        layout = ("NHWC", "HWIO", "NHWC")
        dtype = activation_dtype(self.kernel.dtype)
        y = jax.lax.conv_general_dilated(
            x.astype(dtype),
            self.kernel[...].astype(dtype),
            (2, 2),
            "SAME",
            dimension_numbers=layout,
        )
        return jax.nn.relu6(y + self.bias[...])


class HeadConvolution(Linear):
    """The last convolution, which widens every position."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs | None):
        super().__init__(channels, HEAD_CHANNELS, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C2"]:
        return jax.nn.relu6(super().__call__(x))


class EfficientNetLite(VisionEncoder):
    """Turns a picture into a grid of visual tokens; with `num_labels` it also classifies."""

    def __init__(self, config: EfficientNetLiteConfig, *, rngs: nnx.Rngs | None):
        self.config = config
        shapes = config.blocks()
        self.stem = Stem(rngs=rngs)
        self.blocks = nnx.List([MobileBlock(shape, rngs=rngs) for shape in shapes])
        self.head = HeadConvolution(shapes[-1].channels_out, rngs=rngs)
        if config.num_labels:
            self.classifier = Linear(HEAD_CHANNELS, config.num_labels, rngs=rngs)

    def parts(self) -> list[nnx.Module]:
        """The stem, the blocks and the head."""
        return [self.stem, *self.blocks, self.head]

    @property
    def image_size(self) -> tuple[int, int]:
        return self.config.image_size, self.config.image_size

    @property
    def features_width(self) -> int:
        return HEAD_CHANNELS

    def features(self, x: Float[Array, "B H W C"], image_size: tuple[int, int]) -> Features:
        """The cells of the grid as tokens, in row order; with `num_labels`, the labels too."""
        batch, rows, columns, width = x.shape
        tokens = x.reshape(batch, rows * columns, width)
        labels = self.classifier(tokens.mean(axis=1)) if self.config.num_labels else None
        return Features(tokens=tokens, grid=(rows, columns), labels=labels)

    def label(self, features: Features) -> Float[Array, "batch labels"]:
        """Logits of the labels, from the mean over the grid."""
        assert features.labels is not None
        return features.labels
