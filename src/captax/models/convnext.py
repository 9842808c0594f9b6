"""ConvNeXt, as the encoder of a captioner or as a classifier.

Liu et al., *A ConvNet for the 2020s* (https://arxiv.org/abs/2201.03545). The network computes what
transformers' `ConvNextModel` and `ConvNextForImageClassification` compute. Stochastic depth, which
checkpoints were trained with, is left out.

Legend: `B` batch, `H` `W` height and width, `C` channels.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float

from captax.models.config import MOST_STAGES, ConfigError, ModelConfig, labels_of_head, write_labels
from captax.models.depthwise import depthwise_convolution
from captax.models.encoders import Features, VisionEncoder
from captax.models.layout import Layout, Rule, conv2d, linear, norm, table
from captax.models.modules import LayerNorm, Linear, Mlp, MlpConfig, parameter
from captax.models.observing import record
from captax.models.patches import SquareProjection

EPSILON = 1e-6  # of all norms but the last
KERNEL = 7


@dataclasses.dataclass(frozen=True)
class ConvNextConfig(ModelConfig):
    """Shape of the network, with the names and defaults of transformers.

    With `labels` it is a classifier. The network takes pictures of any size; `image_size` is the
    size that they have by default.
    """

    model_type: ClassVar[str] = "convnext"
    fixed: ClassVar[dict[str, Any]] = {"num_channels": 3}

    patch_size: int = 4
    num_stages: int = 4
    hidden_sizes: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (3, 3, 9, 3)
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    layer_scale_init_value: float = 1e-6
    image_size: int = 224
    labels: tuple[str, ...] = ()

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> Any:
        described = super().read(config, tensors)
        stages = described.num_stages
        counts = {stages, len(described.hidden_sizes), len(described.depths)}
        if len(counts) > 1 or stages > MOST_STAGES:
            raise ConfigError(
                "convnext: hidden_sizes and depths must each have num_stages numbers, at most "
                f"{MOST_STAGES}; correct the config"
            )
        return dataclasses.replace(described, labels=labels_of_head(config, tensors))

    def write(self) -> dict[str, Any]:
        config = super().write()
        kind = "ForImageClassification" if config.pop("labels") else "Model"
        config["architectures"] = [f"ConvNext{kind}"]
        return config | (write_labels(self.labels) if self.labels else {})

    def as_encoder(self) -> Any:
        return dataclasses.replace(self, labels=())

    def as_classifier(self, labels: tuple[str, ...]) -> Any:
        return dataclasses.replace(self, labels=labels)

    def layout(self) -> Layout:
        # A classifier's checkpoint puts the bare model under the name of its family.
        prefix = "convnext." if self.labels else ""

        def canonical(name: str) -> str | None:
            bare = name.removeprefix("convnext.")
            return bare if bare.startswith("classifier.") else prefix + bare

        head = linear("classifier", "classifier") if self.labels else ()
        return Layout(head + Layout(RULES).within(prefix, "").rules, canonical)

    def build(self, *, rngs: nnx.Rngs | None = None) -> "ConvNext":
        return ConvNext(self, rngs=rngs)


class Stem(nnx.Module):
    """Squares of the picture become cells, which are normalised."""

    def __init__(self, config: ConvNextConfig, *, rngs: nnx.Rngs | None):
        width, std = config.hidden_sizes[0], config.initializer_range
        self.squares = SquareProjection(config.patch_size, 3, width, rngs=rngs, std=std)
        self.norm = LayerNorm(width, rngs=rngs, epsilon=EPSILON)

    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B H2 W2 C"]:
        return record("hidden_states", self.norm(self.squares(pixels)))


class Downsampling(nnx.Module):
    """Between stages: four neighbours become one cell."""

    def __init__(self, config: ConvNextConfig, stage: int, *, rngs: nnx.Rngs | None):
        before, width = config.hidden_sizes[stage - 1 : stage + 1]
        self.norm = LayerNorm(before, rngs=rngs, epsilon=EPSILON)
        std = config.initializer_range
        self.squares = SquareProjection(2, before, width, rngs=rngs, std=std)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C2"]:
        return self.squares(self.norm(x))


class Block(nnx.Module):
    """A wide depthwise convolution, a norm and an MLP, whose output is scaled and added.

    If the block `ends_stage`, the sum is recorded as a hidden state.
    """

    def __init__(
        self, config: ConvNextConfig, stage: int, *, ends_stage: bool, rngs: nnx.Rngs | None
    ):
        width, std = config.hidden_sizes[stage], config.initializer_range
        self.kernel = parameter(rngs, (KERNEL, KERNEL, 1, width), std=std)
        self.bias = parameter(rngs, (width,))
        self.norm = LayerNorm(width, rngs=rngs, epsilon=EPSILON)
        self.mlp = Mlp(width, MlpConfig(4 * width, config.hidden_act), rngs=rngs, std=std)
        first = config.layer_scale_init_value
        self.scale = parameter(rngs, (width,), fill=first) if first > 0 else None
        self.ends_stage = ends_stage

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        kernel = self.kernel[...][:, :, 0].astype(x.dtype)
        y = depthwise_convolution(x, kernel, 1) + self.bias[...].astype(x.dtype)
        y = self.mlp(self.norm(y))
        x = x + (y if self.scale is None else y * self.scale[...].astype(y.dtype))
        return record("hidden_states", x) if self.ends_stage else x


class Stage(nnx.Module):
    """What halves the grid, in all stages but the first, and blocks."""

    def __init__(self, config: ConvNextConfig, stage: int, *, rngs: nnx.Rngs | None):
        depth = config.depths[stage]
        self.downsampling = Downsampling(config, stage, rngs=rngs) if stage else None
        self.blocks = nnx.List(
            [Block(config, stage, ends_stage=i == depth - 1, rngs=rngs) for i in range(depth)]
        )

    def parts(self) -> list[nnx.Module]:
        """Its modules in order."""
        return [*([] if self.downsampling is None else [self.downsampling]), *self.blocks]


class ConvNext(VisionEncoder):
    """Turns a picture into a grid of visual tokens; with labels it also classifies."""

    config: ConvNextConfig

    def __init__(self, config: ConvNextConfig, *, rngs: nnx.Rngs | None):
        self.config = config
        self.stem = Stem(config, rngs=rngs)
        self.stages = nnx.List([Stage(config, i, rngs=rngs) for i in range(len(config.depths))])
        width, labels = config.hidden_sizes[-1], len(config.labels)
        self.norm = LayerNorm(width, rngs=rngs, epsilon=config.layer_norm_eps)
        if labels:
            self.classifier = Linear(width, labels, rngs=rngs, std=config.initializer_range)

    @property
    def image_size(self) -> tuple[int, int]:
        return self.config.image_size, self.config.image_size

    @property
    def features_width(self) -> int:
        return self.config.hidden_sizes[-1]

    def parts(self) -> Sequence[Callable[[Array], Array]]:
        """The stem, and the parts of every stage."""
        parts: list[Any] = [self.stem, *(part for stage in self.stages for part in stage.parts())]
        return parts

    def label(self, features: Features) -> Float[Array, "batch labels"]:
        """Logits of the labels, from the mean over the grid, which is normalised."""
        return self.classifier(self.norm(features.tokens.mean(axis=1)))


RULES = table(
    conv2d("embeddings.patch_embeddings", "stem.squares"),
    norm("embeddings.layernorm", "stem.norm"),
    conv2d("encoder.stages.{}.layers.{}.dwconv", "stages.{}.blocks.{}"),
    norm("encoder.stages.{}.layers.{}.layernorm", "stages.{}.blocks.{}.norm"),
    linear("encoder.stages.{}.layers.{}.pwconv1", "stages.{}.blocks.{}.mlp.up"),
    linear("encoder.stages.{}.layers.{}.pwconv2", "stages.{}.blocks.{}.mlp.down"),
    Rule("encoder.stages.{}.layers.{}.layer_scale_parameter", ("stages.{}.blocks.{}.scale",)),
    norm("encoder.stages.{}.downsampling_layer.0", "stages.{}.downsampling.norm"),
    conv2d("encoder.stages.{}.downsampling_layer.1", "stages.{}.downsampling.squares"),
    norm("layernorm", "norm"),
)
