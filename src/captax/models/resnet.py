"""The residual network, as the encoder of a captioner or as a classifier.

He et al., *Deep Residual Learning for Image Recognition* (https://arxiv.org/abs/1512.03385), in the
form that halves the picture in a bottleneck's middle convolution. The network computes what
transformers' `ResNetModel` and `ResNetForImageClassification` compute.

Legend: `B` batch, `H` `W` height and width, `C` channels.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from captax.errors import quoted
from captax.models.arithmetic import ACTIVATIONS, activation_dtype, project
from captax.models.config import (
    ConfigError,
    ModelConfig,
    architecture_of,
    labels_of,
    write_labels,
)
from captax.models.encoders import Features, VisionEncoder
from captax.models.layout import Layout, batch_norm, conv2d, linear, table
from captax.models.modules import BatchNorm, Linear, parameter
from captax.models.observing import record

REDUCTION = 4  # a bottleneck's inner convolutions have a quarter of its channels


@dataclasses.dataclass(frozen=True)
class ResNetConfig(ModelConfig):
    """Shape of the network, with the names and defaults of transformers.

    With `labels` it is a classifier. The network itself takes pictures of any size; `image_size` is
    the size that they have by default.
    """

    model_type: ClassVar[str] = "resnet"
    fixed: ClassVar[dict[str, Any]] = {"num_channels": 3}

    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    hidden_act: str = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    image_size: int = 224
    labels: tuple[str, ...] = ()

    def as_encoder(self) -> "ResNetConfig":
        return dataclasses.replace(self, labels=())

    def as_classifier(self, labels: tuple[str, ...]) -> "ResNetConfig":
        return dataclasses.replace(self, labels=labels)

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> "ResNetConfig":
        described = super().read(config, tensors)
        if described.layer_type not in ("basic", "bottleneck"):
            raise ConfigError(
                f"resnet: layer_type={quoted(described.layer_type)} must be basic or bottleneck"
            )
        if len(described.hidden_sizes) != len(described.depths):
            raise ConfigError("resnet: hidden_sizes and depths must have the same length")
        if described.layer_type == "bottleneck" and min(described.hidden_sizes, default=4) < 4:
            raise ConfigError("resnet: hidden_sizes of bottlenecks must be 4 or more")
        if tensors:
            classifies = "classifier.1.weight" in map(canonical, tensors)
        else:
            classifies = "Classification" in architecture_of(config)
        return dataclasses.replace(described, labels=labels_of(config) if classifies else ())

    def write(self) -> dict[str, Any]:
        config = super().write()
        kind = "ForImageClassification" if config.pop("labels") else "Model"
        config["architectures"] = [f"ResNet{kind}"]
        return config | (write_labels(self.labels) if self.labels else {})

    def layout(self) -> Layout:
        # A classifier's checkpoint puts the bare model under the name of its family.
        prefix = "resnet." if self.labels else ""

        def spell(name: str) -> str | None:
            name = canonical(name)
            return name if name.startswith("classifier.") else prefix + name

        head = table(linear("classifier.1", "classifier")) if self.labels else ()
        return Layout(head + Layout(RULES).within(prefix, "").rules, spell)

    def build(self, *, rngs: nnx.Rngs | None = None) -> "ResNet":
        return ResNet(self, rngs=rngs)


class Convolution(nnx.Module):
    """A convolution without bias, padded so that a stride of 1 keeps the size; then batch norm."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        size: int,
        stride: int = 1,
        *,
        rngs: nnx.Rngs | None,
    ):
        std = (2 / (channels_out * size**2)) ** 0.5  # https://arxiv.org/abs/1502.01852, by fan-out
        self.kernel = parameter(rngs, (size, size, channels_in, channels_out), std=std)
        self.norm = BatchNorm(channels_out, rngs=rngs)
        self.stride = stride

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C2"]:
        kernel, stride = self.kernel[...], self.stride
        if kernel.shape[0] == 1:
            # A 1 x 1 convolution is a matrix product, but XLA:CPU does not recognise it as one.
            for axis in (1, 2):
                x = jax.lax.slice_in_dim(x, 0, None, stride, axis)
            return self.norm(project(x, kernel[0, 0].T))
        pad = kernel.shape[0] // 2
        dtype = activation_dtype(kernel.dtype)
        x = jax.lax.conv_general_dilated(
            x.astype(dtype),
            kernel.astype(dtype),
            (stride, stride),
            ((pad, pad), (pad, pad)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return self.norm(x)


class Embedder(nnx.Module):
    """The first convolution and a 3 x 3 max pooling, each of which halves height and width."""

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs | None):
        self.convolution = Convolution(3, config.embedding_size, 7, 2, rngs=rngs)
        self.activation = config.hidden_act

    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B H2 W2 C"]:
        x = ACTIVATIONS[self.activation](self.convolution(pixels))
        return record("hidden_states", _halve(_halve(x, axis=1), axis=2))


# Not XLA's reduction over windows, because its gradient takes a CPU ten times as long.
def _halve(x: Float[Array, "B H W C"], axis: int) -> Float[Array, "B H2 W2 C"]:
    """Max pooling along one axis, with a window of 3 and a stride of 2."""
    span = 2 * ((x.shape[axis] + 1) // 2) - 1
    edges = [(int(i == axis), int(i == axis), 0) for i in range(4)]
    padded = jax.lax.pad(x, jnp.array(-jnp.inf, x.dtype), edges)
    left, middle, right = (
        jax.lax.slice_in_dim(padded, i, i + span, stride=2, axis=axis) for i in range(3)
    )
    return jnp.maximum(jnp.maximum(left, middle), right)


class ResidualBlock(nnx.Module):
    """Two or three convolutions, whose output is added to the input of the block.

    If the block `ends_stage`, the sum is recorded as a hidden state.
    """

    def __init__(
        self,
        config: ResNetConfig,
        channels_in: int,
        channels_out: int,
        stride: int,
        *,
        ends_stage: bool,
        rngs: nnx.Rngs | None,
    ):
        if config.layer_type == "bottleneck":
            inner = channels_out // REDUCTION
            first, middle = (stride, 1) if config.downsample_in_bottleneck else (1, stride)
            layers = [
                Convolution(channels_in, inner, 1, first, rngs=rngs),
                Convolution(inner, inner, 3, middle, rngs=rngs),
                Convolution(inner, channels_out, 1, rngs=rngs),
            ]
        else:
            layers = [
                Convolution(channels_in, channels_out, 3, stride, rngs=rngs),
                Convolution(channels_out, channels_out, 3, rngs=rngs),
            ]
        self.layers = nnx.List(layers)
        self.shortcut = None
        if channels_in != channels_out or stride != 1:
            self.shortcut = nnx.data(Convolution(channels_in, channels_out, 1, stride, rngs=rngs))
        self.activation = config.hidden_act
        self.ends_stage = ends_stage

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C2"]:
        y = x if self.shortcut is None else self.shortcut(x)
        *inner, last = self.layers
        for layer in inner:
            x = jax.nn.relu(layer(x))  # whatever the config says, as in the reference
        x = ACTIVATIONS[self.activation](last(x) + y)
        return record("hidden_states", x) if self.ends_stage else x


class ResNet(VisionEncoder):
    """Turns a picture into a grid of visual tokens; with labels it also classifies."""

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs | None):
        self.config = config
        self.embedder = Embedder(config, rngs=rngs)
        channels = config.embedding_size
        stages = []
        for i, (size, depth) in enumerate(zip(config.hidden_sizes, config.depths, strict=True)):
            stride = 2 if i or config.downsample_in_first_stage else 1
            stage = []
            for j in range(depth):
                ends = j == depth - 1
                stage.append(
                    ResidualBlock(config, channels, size, stride, ends_stage=ends, rngs=rngs)
                )
                channels, stride = size, 1
            stages.append(nnx.List(stage))
        self.stages = nnx.List(stages)
        if config.labels:
            self.classifier = LabelHead(channels, len(config.labels), rngs=rngs)

    @property
    def image_size(self) -> tuple[int, int]:
        return self.config.image_size, self.config.image_size

    @property
    def features_width(self) -> int:
        return self.config.hidden_sizes[-1]

    def parts(self) -> list[nnx.Module]:
        """The embedder and the blocks."""
        return [self.embedder, *(block for stage in self.stages for block in stage)]

    def label(self, features: Features) -> Float[Array, "batch labels"]:
        """Logits of the labels, from the mean over the grid."""
        return self.classifier(features.tokens.mean(axis=1))


class LabelHead(Linear):
    """A linear layer, initialised as in PyTorch: uniform in +-`width_in ** -0.5`."""

    def __init__(self, width_in: int, width_out: int, *, rngs: nnx.Rngs | None):
        super().__init__(width_in, width_out, rngs=None)
        if rngs is not None:
            bound = width_in**-0.5
            kernel = jax.random.uniform(rngs.params(), (width_out, width_in), minval=-1)
            bias = jax.random.uniform(rngs.params(), (width_out,), minval=-1)
            self.kernel, self.bias = nnx.Param(bound * kernel), nnx.Param(bound * bias)


def canonical(name: str) -> str:
    """The name of a tensor in transformers' bare model, or of a head's tensor in its classifier.

    `name` is the name in a checkpoint of transformers, torchvision or timm (`resnet50` and others).
    """
    name = name.removeprefix("resnet.")
    for theirs, ours in TORCHVISION:
        if match := re.match(theirs, name):
            numbers = [int(number) - (i != 1) for i, number in enumerate(match.groups())]
            return ours.format(*numbers) + name[match.end() :]
    return name


# Torchvision counts from 1, except for the blocks of a stage (the second number), from 0.
TORCHVISION = (
    (r"conv1\.", "embedder.embedder.convolution."),
    (r"bn1\.", "embedder.embedder.normalization."),
    (r"layer(\d+)\.(\d+)\.conv(\d+)\.", "encoder.stages.{}.layers.{}.layer.{}.convolution."),
    (r"layer(\d+)\.(\d+)\.bn(\d+)\.", "encoder.stages.{}.layers.{}.layer.{}.normalization."),
    (r"layer(\d+)\.(\d+)\.downsample\.0\.", "encoder.stages.{}.layers.{}.shortcut.convolution."),
    (r"layer(\d+)\.(\d+)\.downsample\.1\.", "encoder.stages.{}.layers.{}.shortcut.normalization."),
    (r"fc\.", "classifier.1."),
)
RULES = table(
    conv2d("embedder.embedder.convolution", "embedder.convolution", bias=False),
    batch_norm("embedder.embedder.normalization", "embedder.convolution.norm"),
    conv2d(
        "encoder.stages.{}.layers.{}.layer.{}.convolution", "stages.{}.{}.layers.{}", bias=False
    ),
    batch_norm("encoder.stages.{}.layers.{}.layer.{}.normalization", "stages.{}.{}.layers.{}.norm"),
    conv2d("encoder.stages.{}.layers.{}.shortcut.convolution", "stages.{}.{}.shortcut", bias=False),
    batch_norm("encoder.stages.{}.layers.{}.shortcut.normalization", "stages.{}.{}.shortcut.norm"),
)
