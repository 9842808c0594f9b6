"""SigLIP: a vision tower for captioners, alone, beside a text tower, or as a classifier.

Zhai et al., *Sigmoid Loss for Language Image Pre-Training* (https://arxiv.org/abs/2303.15343). The
models compute what transformers' `SiglipModel`, `SiglipVisionModel`, `SiglipTextModel` and
`SiglipForImageClassification` compute.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from captax.models.attention import Attention
from captax.models.cache import Span
from captax.models.config import ConfigError, labels_of_head, write_labels
from captax.models.encoders import Features, PatchEncoder, TextBatch, VisionEncoder
from captax.models.layout import Layout, Rule, conv2d, linear, norm, table
from captax.models.modules import LayerConfig, Linear, Mlp, parameter
from captax.models.observing import scope
from captax.models.patches import PatchEmbedding
from captax.models.two_towers import (
    LAYERS,
    PictureTowerConfig,
    TextTower,
    TextTowerConfig,
    TwoTowers,
    TwoTowersConfig,
)


@dataclasses.dataclass(frozen=True)
class SiglipTowerConfig(PictureTowerConfig):
    """SigLIP's vision tower without a head, which other families have too."""

    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6

    def layer(self) -> LayerConfig:
        return _xavier(super().layer())

    def rules(self) -> tuple[Rule, ...]:
        return VISION


@dataclasses.dataclass(frozen=True)
class SiglipVisionConfig(SiglipTowerConfig):
    """SigLIP's vision tower; with `vision_use_head` it can pool a picture's tokens."""

    model_type: ClassVar[str] = "siglip_vision_model"
    architecture: ClassVar[str] = "SiglipVisionModel"

    vision_use_head: bool = True

    def as_classifier(self, labels: tuple[str, ...]) -> "SiglipConfig":
        return SiglipConfig(vision_config=self, labels=labels)

    def build(self, *, rngs: nnx.Rngs | None = None) -> "SiglipVision":
        return SiglipVision(self, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class SiglipTextConfig(TextTowerConfig):
    """SigLIP's text tower; its vectors have `projection_size`, by default `hidden_size`."""

    model_type: ClassVar[str] = "siglip_text_model"
    architecture: ClassVar[str] = "SiglipTextModel"

    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    vocab_size: int = 32000
    max_position_embeddings: int = 64
    projection_size: int | None = None

    @property
    def vector_width(self) -> int:
        """Width of the vector of a text."""
        return self.projection_size or self.hidden_size

    def layer(self) -> LayerConfig:
        return _xavier(super().layer())

    def rules(self) -> tuple[Rule, ...]:
        return table(super().rules(), linear("head", "head"))

    def build(self, *, rngs: nnx.Rngs | None = None) -> "SiglipText":
        return SiglipText(self, rngs=rngs, std=self.hidden_size**-0.5)


@dataclasses.dataclass(frozen=True)
class SiglipConfig(TwoTowersConfig):
    """The configs of both towers; with `labels`, of a classifier, which has no text tower."""

    model_type: ClassVar[str] = "siglip"
    architecture: ClassVar[str] = "SiglipModel"

    text_config: SiglipTextConfig = SiglipTextConfig()
    vision_config: SiglipVisionConfig = SiglipVisionConfig()
    initializer_factor: float = 1.0
    labels: tuple[str, ...] = ()

    def as_classifier(self, labels: tuple[str, ...]) -> "SiglipConfig":
        return dataclasses.replace(self, labels=labels)

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> "SiglipConfig":
        labels = labels_of_head(config, tensors)
        return dataclasses.replace(super().read(config, tensors), labels=labels)

    def write(self) -> dict[str, Any]:
        config = super().write()
        if not config.pop("labels"):
            return config
        classifier = {"architectures": ["SiglipForImageClassification"]}
        return config | classifier | write_labels(self.labels)

    def rules(self) -> tuple[Rule, ...]:
        return RULES

    def layout(self) -> Layout:
        if not self.labels:
            return super().layout()
        # The vision tower may come from a checkpoint that has it alone, without a prefix.
        tower = self.vision_config.layout()
        rules = table(
            tower.within("vision_model.", "vision.").rules, linear("classifier", "classifier")
        )

        def canonical(name: str) -> str | None:
            if name.startswith("classifier."):
                return name
            spelt = tower.canonical(name)
            return None if spelt is None else f"vision_model.{spelt}"

        return Layout(rules, canonical)

    def build(self, *, rngs: nnx.Rngs | None = None) -> "Siglip | SiglipClassifier":
        if self.labels:
            return SiglipClassifier(self, rngs=rngs)
        return Siglip(self, rngs=rngs)


class PoolingHead(nnx.Module):
    """One vector for each picture: a learned query attends to its tokens, and an MLP follows.

    Lee et al. (https://arxiv.org/abs/1810.00825), section 3.2. The query's attention is recorded
    under `head.`.
    """

    def __init__(self, config: SiglipVisionConfig, *, rngs: nnx.Rngs | None):
        width, layer = config.hidden_size, config.layer()
        # PyTorch draws query, key and value as one matrix, and the head has no dropout.
        shape = dataclasses.replace(layer.attention, dropout=0.0)
        attention = dataclasses.replace(
            layer, attention=shape, std=(2 * width) ** -0.5, out_std=width**-0.5
        )
        self.probe = parameter(rngs, (width,), std=width**-0.5)
        self.attention = Attention(attention, rngs=rngs, context_width=width)
        self.norm = layer.norm.build(width, rngs=rngs)
        self.mlp = Mlp(width, layer.mlp, rngs=rngs, std=layer.mlp_std)

    def __call__(self, tokens: Float[Array, "batch patches width"]) -> Float[Array, "batch width"]:
        batch, _, width = tokens.shape
        query = jnp.broadcast_to(self.probe[...].astype(tokens.dtype), (batch, 1, width))
        with scope("head"):
            x = self.attention(query, [Span(*self.attention.keys_and_values(tokens))])[:, 0]
        return x + self.mlp(self.norm(x))


class SiglipTower(PatchEncoder):
    """Turns a picture into a grid of visual tokens, without CLS."""

    patches: ClassVar[type[PatchEmbedding]] = PatchEmbedding

    def __init__(self, config: SiglipTowerConfig, *, rngs: nnx.Rngs | None):
        width, patch = config.hidden_size, config.patch_size
        embeddings = self.patches(
            width,
            patch,
            config.grid,
            rngs=rngs,
            has_cls=False,
            std=(3 * patch**2) ** -0.5,
            position_std=width**-0.5,
        )
        super().__init__(config, embeddings, rngs=rngs)


class SiglipVision(SiglipTower):
    """The tower, with the head if the config has one."""

    config: SiglipVisionConfig

    def __init__(self, config: SiglipVisionConfig, *, rngs: nnx.Rngs | None):
        super().__init__(config, rngs=rngs)
        self.head = PoolingHead(config, rngs=rngs) if config.vision_use_head else None

    def pool(self, features: Features) -> Float[Array, "batch width"]:
        """One vector for each picture, by the head.

        Raises `ConfigError` if the tower was built without one.
        """
        if self.head is None:
            raise ConfigError(
                "siglip: vision_use_head=false leaves the vision tower without the head that pools "
                "a picture's tokens; use it as an encoder"
            )
        return self.head(features.tokens)


class SiglipText(TextTower):
    """Turns a text into tokens, each of which has seen all others, and padding if it is given."""

    config: SiglipTextConfig
    has_start: ClassVar[bool] = False
    reads_padding: ClassVar[bool] = True

    def __init__(self, config: SiglipTextConfig, *, rngs: nnx.Rngs | None, std: float):
        super().__init__(config, rngs=rngs, std=std)
        self.head = Linear(config.hidden_size, config.vector_width, rngs=rngs)

    def pool(self, features: Features, text: TextBatch) -> Float[Array, "batch projection"]:
        """One vector for each text: its last token, which may be padding."""
        return self.head(features.tokens[:, -1])


class Siglip(TwoTowers):
    """Compares pictures with texts, any number of which may describe a picture."""

    def __init__(self, config: SiglipConfig, *, rngs: nnx.Rngs | None):
        width, other = config.vision_config.hidden_size, config.text_config.vector_width
        if not config.vision_config.vision_use_head:
            raise ConfigError(
                "siglip: vision_use_head=false is only supported in an encoder; pictures and texts "
                "cannot be compared without the head"
            )
        if width != other:
            raise ConfigError(
                f"siglip: vectors of texts are {other} wide and vectors of pictures {width}; "
                "text_config.projection_size must be vision_config.hidden_size"
            )
        super().__init__(config, rngs=rngs, scale=0.0)
        self.logit_bias = parameter(rngs, ())

    @property
    def vector_width(self) -> int:
        return self.config.vision_config.hidden_size

    def logits(self, cosines: Float[Array, "batch texts"]) -> Float[Array, "batch texts"]:
        """The cosines, scaled and shifted."""
        return super().logits(cosines) + self.logit_bias[...].astype(jnp.float32)

    def probabilities(self, cosines: Float[Array, "batch texts"]) -> Float[Array, "batch texts"]:
        """That a text describes the picture, for each text alone."""
        return jax.nn.sigmoid(self.logits(cosines))


class SiglipClassifier(VisionEncoder):
    """The vision tower with a head for labels, which reads the mean of a picture's tokens."""

    config: SiglipConfig

    def __init__(self, config: SiglipConfig, *, rngs: nnx.Rngs | None):
        self.config = config
        self.vision = config.vision_config.build(rngs=rngs)
        width = self.features_width
        std = config.initializer_factor * width**-0.5
        self.classifier = Linear(width, len(config.labels), rngs=rngs, std=std)

    @property
    def image_size(self) -> tuple[int, int]:
        return self.vision.image_size

    @property
    def features_width(self) -> int:
        return self.vision.features_width

    def parts(self) -> Sequence[Callable[[Array], Array]]:
        """The parts of the tower."""
        return self.vision.parts()

    def features(
        self, x: Float[Array, "batch patches width"], image_size: tuple[int, int]
    ) -> Features:
        return self.vision.features(x, image_size)

    def label(self, features: Features) -> Float[Array, "batch labels"]:
        """Logits of the labels, from the mean of the tokens."""
        return self.classifier(features.tokens.mean(1))


def _xavier(layer: LayerConfig) -> LayerConfig:
    """The layer with SigLIP's initial standard deviations, which are Glorot's."""
    width, hidden = layer.width, layer.mlp.width
    return dataclasses.replace(layer, std=width**-0.5, mlp_std=(2 / (width + hidden)) ** 0.5)


_PARTS = ("query", "key", "value")
VISION = table(
    Rule("embeddings.position_embedding.weight", ("embeddings.positions",)),
    conv2d("embeddings.patch_embedding", "embeddings"),
    LAYERS,
    norm("post_layernorm", "norm"),
    Rule("head.probe", ("head.probe",), lead=2),
    Rule("head.attention.in_proj_weight", tuple(f"head.attention.{p}.kernel" for p in _PARTS)),
    Rule("head.attention.in_proj_bias", tuple(f"head.attention.{p}.bias" for p in _PARTS)),
    linear("head.attention.out_proj", "head.attention.out"),
    norm("head.layernorm", "head.norm"),
    linear("head.mlp.fc1", "head.mlp.up"),
    linear("head.mlp.fc2", "head.mlp.down"),
)
RULES = table(
    Rule("logit_scale", ("logit_scale",), lead=1),
    Rule("logit_bias", ("logit_bias",), lead=1),
)
