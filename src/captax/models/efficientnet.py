"""EfficientNet-Lite, a vision encoder that is quick on any machine.

Tan and Le, *EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks*
(https://arxiv.org/abs/1905.11946), in the Lite variants of TensorFlow's TPU models: no
squeeze-and-excitation, ReLU6, a stem and a head that do not scale.

Legend: `B` batch, `H` `W` height and width, `C` channels. The batch norm of the reference is
inference-only here and folded into the convolution before it, so every convolution has a bias.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import jax
from flax import nnx
from jaxtyping import Array, Float

from captax.models.arithmetic import activation_dtype
from captax.models.config import ConfigError, ModelConfig
from captax.models.depthwise import depthwise_convolution
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
        found = super().features(x, image_size)
        if not self.config.num_labels:
            return found
        return dataclasses.replace(found, labels=self.classifier(found.tokens.mean(axis=1)))

    def label(self, features: Features) -> Float[Array, "batch labels"]:
        """Logits of the labels, from the mean over the grid."""
        assert features.labels is not None
        return features.labels
