"""CLIP, which tells how well texts fit pictures; its vision tower can be a captioner's encoder.

Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*
(https://arxiv.org/abs/2103.00020). The models compute what transformers' `CLIPModel`,
`CLIPVisionModel` and `CLIPTextModel` compute.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from captax.models.encoders import Features, PatchEncoder, TextBatch
from captax.models.layout import Rule, conv2d, linear, norm, table
from captax.models.modules import LayerConfig, LayerNorm, Linear, parameter
from captax.models.observing import record
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
class VisionTowerConfig(PictureTowerConfig):
    """A vision transformer with a norm before its layers.

    With `final_norm`, the norm after the layers is for all tokens, else for the pooled one alone.
    """

    final_norm: ClassVar[bool] = False

    hidden_act: str = "quick_gelu"
    patch_size: int = 32

    def deviations(self) -> tuple[float, float]:
        """Initial standard deviations: of patch and position embeddings, and of the CLS token."""
        return self.initializer_range, self.initializer_range

    def rules(self) -> tuple[Rule, ...]:
        return VISION

    def build(self, *, rngs: nnx.Rngs | None = None) -> "ClipVision":
        return ClipVision(self, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class ClipVisionConfig(VisionTowerConfig):
    """CLIP's vision tower. It does not use `projection_dim`, which transformers' config has."""

    model_type: ClassVar[str] = "clip_vision_model"
    architecture: ClassVar[str] = "CLIPVisionModel"

    projection_dim: int = 512
    initializer_factor: float = 1.0

    def layer(self) -> LayerConfig:
        return _scaled(super().layer(), self.num_hidden_layers, self.initializer_factor)

    def deviations(self) -> tuple[float, float]:
        factor = self.initializer_factor
        return factor * self.initializer_range, factor * self.hidden_size**-0.5


@dataclasses.dataclass(frozen=True)
class ClipTextConfig(TextTowerConfig):
    """CLIP's text tower."""

    model_type: ClassVar[str] = "clip_text_model"
    architecture: ClassVar[str] = "CLIPTextModel"

    hidden_act: str = "quick_gelu"
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_attention_heads: int = 8
    initializer_factor: float = 1.0

    def layer(self) -> LayerConfig:
        return _scaled(super().layer(), self.num_hidden_layers, self.initializer_factor)

    def build(self, *, rngs: nnx.Rngs | None = None) -> "ClipText":
        return ClipText(self, rngs=rngs, std=0.02 * self.initializer_factor)


@dataclasses.dataclass(frozen=True)
class ClipConfig(TwoTowersConfig):
    """The configs of both towers and the width of the space in which they are compared."""

    model_type: ClassVar[str] = "clip"
    architecture: ClassVar[str] = "CLIPModel"

    text_config: ClipTextConfig = ClipTextConfig()
    vision_config: ClipVisionConfig = ClipVisionConfig()
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592
    initializer_factor: float = 1.0

    def rules(self) -> tuple[Rule, ...]:
        return RULES

    def build(self, *, rngs: nnx.Rngs | None = None) -> "Clip":
        return Clip(self, rngs=rngs)


class ClipVision(PatchEncoder):
    """Turns a picture into CLS and a grid of visual tokens."""

    config: VisionTowerConfig

    def __init__(self, config: VisionTowerConfig, *, rngs: nnx.Rngs | None):
        width, epsilon = config.hidden_size, config.layer_norm_eps
        std, cls_std = config.deviations()
        embeddings = PatchEmbedding(
            width, config.patch_size, config.grid, rngs=rngs, bias=False, std=std
        )
        embeddings.cls_token = parameter(rngs, (width,), std=cls_std)
        super().__init__(config, embeddings, rngs=rngs)
        self.first_norm = LayerNorm(width, rngs=rngs, epsilon=epsilon)
        if not config.final_norm:
            self.norm = LayerNorm(width, rngs=rngs, epsilon=epsilon)

    def parts(self) -> list[Callable[[Array], Array]]:
        """The embeddings, a norm, the layers and, with `final_norm`, another norm."""
        last = [self.norm] if self.config.final_norm else []
        return [self.embeddings, self.first_norm, *self.layers, *last]

    def features(
        self, x: Float[Array, "batch patches width"], image_size: tuple[int, int]
    ) -> Features:
        if not self.config.final_norm:
            record("hidden_states", x)
        return super().features(x, image_size)

    def pool(self, features: Features) -> Float[Array, "batch width"]:
        """One vector for each picture: its CLS token, normalised."""
        cls = features.tokens[:, 0]
        return cls if self.config.final_norm else self.norm(cls)


class ClipText(TextTower):
    """Turns a text into tokens, each of which has seen only itself and the tokens before it."""

    config: ClipTextConfig

    def visible(self, text: TextBatch) -> Bool[Array, "batch time time"]:
        time = text.tokens.shape[1]
        return jnp.tril(jnp.ones((time, time), bool)) & super().visible(text)

    def pool(self, features: Features, text: TextBatch) -> Float[Array, "batch width"]:
        """One vector for each text: its first eos token."""
        eos = self.config.eos_token_id
        # Configs from before 2023 wrongly say 2: for them eos is the token with the highest id.
        place = (text.tokens if eos == 2 else text.tokens == eos).argmax(1)
        return jnp.take_along_axis(features.tokens, place[:, None, None], axis=1)[:, 0]


class Clip(TwoTowers):
    """Compares pictures with texts, of which one at most describes each picture."""

    def __init__(self, config: ClipConfig, *, rngs: nnx.Rngs | None):
        super().__init__(config, rngs=rngs, scale=config.logit_scale_init_value)
        self.visual_projection = self._projection(config.vision_config.hidden_size, rngs)
        self.text_projection = self._projection(config.text_config.hidden_size, rngs)

    @property
    def vector_width(self) -> int:
        return self.config.projection_dim

    def embed_images(
        self, pixels: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch projection"]:
        return self.visual_projection(super().embed_images(pixels))

    def embed_texts(self, text: TextBatch) -> Float[Array, "batch projection"]:
        return self.text_projection(super().embed_texts(text))

    def probabilities(self, cosines: Float[Array, "batch texts"]) -> Float[Array, "batch texts"]:
        """Of each text, given that one of the texts describes the picture."""
        return jax.nn.softmax(self.logits(cosines))

    def _projection(self, width: int, rngs: nnx.Rngs | None) -> Linear:
        std = self.config.initializer_factor * width**-0.5
        return Linear(width, self.config.projection_dim, rngs=rngs, bias=False, std=std)


def _scaled(layer: LayerConfig, depth: int, factor: float) -> LayerConfig:
    """The layer with CLIP's initial standard deviations for a model of `depth` layers."""
    std = factor * layer.width**-0.5
    small = std * (2 * depth) ** -0.5
    return dataclasses.replace(
        layer, std=small, out_std=std, mlp_std=std * 2**-0.5, mlp_out_std=small
    )


VISION = table(
    Rule("embeddings.class_embedding", ("embeddings.cls_token",)),
    Rule("embeddings.position_embedding.weight", ("embeddings.positions",)),
    conv2d("embeddings.patch_embedding", "embeddings", bias=False),
    norm("pre_layrnorm", "first_norm"),
    LAYERS,
    norm("post_layernorm", "norm"),
)
RULES = table(
    linear("visual_projection", "visual_projection", bias=False),
    linear("text_projection", "text_projection", bias=False),
    Rule("logit_scale", ("logit_scale",)),
)
