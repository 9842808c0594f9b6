"""CLIP, which tells how well texts fit pictures; its vision tower can be a captioner's encoder.

Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*
(https://arxiv.org/abs/2103.00020). The models compute what transformers' `CLIPModel`,
`CLIPVisionModel` and `CLIPTextModel` compute.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from captax.errors import quoted
from captax.models.arithmetic import look_up
from captax.models.config import ConfigError, ModelConfig
from captax.models.encoders import Features, PatchEncoder, TextBatch, TextEncoder
from captax.models.layers import EncoderLayer
from captax.models.layout import Layout, Rule, conv2d, join, linear, norm, table
from captax.models.modules import FinalNorm, LayerConfig, LayerNorm, Linear, parameter
from captax.models.observing import record, scope
from captax.models.patches import PatchEmbedding
from captax.models.shapes import PatchConfig, TowerConfig


@dataclasses.dataclass(frozen=True)
class ClipTowerConfig(TowerConfig):
    """What the two towers of CLIP share, with the names and defaults of transformers.

    The tensor names of a tower that is saved alone begin with `prefix`. In a larger model, and in
    checkpoints from before transformers 5, they begin with `tower`.
    """

    architecture: ClassVar[str]
    tower: ClassVar[str]
    prefix: ClassVar[str] = ""

    hidden_act: str = "quick_gelu"

    def rules(self) -> tuple[Rule, ...]:
        """The rules of the tower's tensors, without prefixes."""
        raise NotImplementedError

    def write(self) -> dict[str, Any]:
        return {**super().write(), "architectures": [self.architecture]}

    def layout(self) -> Layout:
        def canonical(name: str) -> str | None:
            name = name.removeprefix(self.tower)
            # The position ids are a buffer that counts 0, 1, 2, ...
            return None if name == "embeddings.position_ids" else self.prefix + name

        return Layout(Layout(self.rules()).within(self.prefix, "").rules, canonical)


@dataclasses.dataclass(frozen=True)
class VisionTowerConfig(ClipTowerConfig, PatchConfig):
    """A vision transformer with a norm before its layers.

    With `final_norm`, the norm after the layers is for all tokens, else for the pooled one alone.
    """

    fixed: ClassVar[dict[str, Any]] = {"num_channels": 3}
    tower: ClassVar[str] = "vision_model."
    final_norm: ClassVar[bool] = False

    image_size: int = 224
    patch_size: int = 32

    def as_encoder(self) -> "VisionTowerConfig":
        return self

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
class ClipTextConfig(ClipTowerConfig):
    """CLIP's text tower."""

    model_type: ClassVar[str] = "clip_text_model"
    architecture: ClassVar[str] = "CLIPTextModel"
    tower: ClassVar[str] = "text_model."

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    initializer_factor: float = 1.0
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49406
    eos_token_id: int | tuple[int, ...] | None = 49407

    def layer(self) -> LayerConfig:
        return _scaled(super().layer(), self.num_hidden_layers, self.initializer_factor)

    def rules(self) -> tuple[Rule, ...]:
        return TEXT

    def build(self, *, rngs: nnx.Rngs | None = None) -> "ClipText":
        return ClipText(self, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class ClipConfig(ModelConfig):
    """The configs of both towers and the width of the space in which they are compared."""

    model_type: ClassVar[str] = "clip"

    text_config: ClipTextConfig = ClipTextConfig()
    vision_config: ClipVisionConfig = ClipVisionConfig()
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592
    initializer_factor: float = 1.0

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> "ClipConfig":
        text = ClipTextConfig.read(_tower(config, "text_config"))
        vision = ClipVisionConfig.read(_tower(config, "vision_config"))
        return super().read({**config, "text_config": text, "vision_config": vision}, tensors)

    def write(self) -> dict[str, Any]:
        towers = {"text_config": self.text_config, "vision_config": self.vision_config}
        written = {name: tower.write() for name, tower in towers.items()}
        return {**super().write(), **written, "architectures": ["CLIPModel"]}

    def as_encoder(self) -> ClipVisionConfig:
        return self.vision_config

    def layout(self) -> Layout:
        towers = join(
            self.text_config.layout().within("text_model.", "text."),
            self.vision_config.layout().within("vision_model.", "vision."),
        )
        return Layout(table(towers.rules, RULES), towers.canonical)

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


class ClipText(TextEncoder):
    """Turns a text into tokens, each of which has seen only itself and the tokens before it."""

    def __init__(self, config: ClipTextConfig, *, rngs: nnx.Rngs | None):
        self.config = config
        width, std = config.hidden_size, 0.02 * config.initializer_factor
        self.embedding = parameter(rngs, (config.vocab_size, width), std=std)
        self.positions = parameter(rngs, (config.max_position_embeddings, width), std=std)
        self.layers = nnx.List(
            [EncoderLayer(config.layer(), rngs=rngs) for _ in range(config.num_hidden_layers)]
        )
        self.norm = FinalNorm(width, rngs=rngs, epsilon=config.layer_norm_eps)

    def __call__(self, text: TextBatch | Int[Array, "batch time"]) -> Features:
        text = self.checked(text)
        time = text.tokens.shape[1]
        x = look_up(self.embedding[...], text.tokens) + self.positions[...][:time]
        mask = jnp.tril(jnp.ones((time, time), bool)) & text.mask[:, None]
        for layer in self.layers:
            x = layer(x, mask)
        return Features(self.norm(x), grid=(1, time), mask=text.mask)

    def pool(self, features: Features, text: TextBatch) -> Float[Array, "batch width"]:
        """One vector for each text: its first eos token."""
        eos = self.config.eos_token_id
        # Configs from before 2023 wrongly say 2: for them eos is the token with the highest id.
        place = (text.tokens if eos == 2 else text.tokens == eos).argmax(1)
        return jnp.take_along_axis(features.tokens, place[:, None, None], axis=1)[:, 0]


class Clip(nnx.Module):
    """Compares pictures with texts."""

    def __init__(self, config: ClipConfig, *, rngs: nnx.Rngs | None):
        self.config = config
        self.vision = config.vision_config.build(rngs=rngs)
        self.text = config.text_config.build(rngs=rngs)
        self.visual_projection = self._projection(config.vision_config.hidden_size, rngs)
        self.text_projection = self._projection(config.text_config.hidden_size, rngs)
        self.logit_scale = parameter(rngs, (), fill=config.logit_scale_init_value)

    def embed_images(
        self, pixels: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch projection"]:
        """One vector for each picture, not normalised, in the space that texts share."""
        with scope("vision"):
            features = self.vision(pixels)
        return self.visual_projection(self.vision.pool(features))

    def embed_texts(self, text: TextBatch) -> Float[Array, "batch projection"]:
        """One vector for each text, not normalised, in the space that pictures share."""
        with scope("text"):
            features = self.text(text)
        return self.text_projection(self.text.pool(features, text))

    def __call__(
        self, pixels: Float[Array, "batch height width 3"], text: TextBatch
    ) -> tuple[Float[Array, "batch texts"], Float[Array, "texts batch"]]:
        """Logits of every text for each picture, and of every picture for each text."""
        return self.compare(self.embed_images(pixels), self.embed_texts(text))

    def compare(
        self, images: Float[Array, "batch projection"], texts: Float[Array, "texts projection"]
    ) -> tuple[Float[Array, "batch texts"], Float[Array, "texts batch"]]:
        """The same logits, from outputs of `embed_images` and `embed_texts`: scaled cosines."""
        images, texts = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (images, texts))
        logits = jnp.exp(self.logit_scale[...]) * (images @ texts.T)
        return logits, logits.T

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


def _tower(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A tower's part of the config; the key from before 2023 comes first, as in transformers."""
    for key in (f"{name}_dict", name):
        described = config.get(key)
        if isinstance(described, Mapping):
            return described
        if described is not None:
            raise ConfigError(f"clip: {key}={quoted(described)} must be a JSON object")
    return {}


LAYERS = table(
    norm("encoder.layers.{}.layer_norm1", "layers.{}.self_norm"),
    linear("encoder.layers.{}.self_attn.q_proj", "layers.{}.self_attention.query"),
    linear("encoder.layers.{}.self_attn.k_proj", "layers.{}.self_attention.key"),
    linear("encoder.layers.{}.self_attn.v_proj", "layers.{}.self_attention.value"),
    linear("encoder.layers.{}.self_attn.out_proj", "layers.{}.self_attention.out"),
    norm("encoder.layers.{}.layer_norm2", "layers.{}.mlp_norm"),
    linear("encoder.layers.{}.mlp.fc1", "layers.{}.mlp.up"),
    linear("encoder.layers.{}.mlp.fc2", "layers.{}.mlp.down"),
)
VISION = table(
    Rule("embeddings.class_embedding", ("embeddings.cls_token",)),
    Rule("embeddings.position_embedding.weight", ("embeddings.positions",)),
    conv2d("embeddings.patch_embedding", "embeddings", bias=False),
    norm("pre_layrnorm", "first_norm"),
    LAYERS,
    norm("post_layernorm", "norm"),
)
TEXT = table(
    Rule("embeddings.token_embedding.weight", ("embedding",)),
    Rule("embeddings.position_embedding.weight", ("positions",)),
    LAYERS,
    norm("final_layer_norm", "norm"),
)
RULES = table(
    linear("visual_projection", "visual_projection", bias=False),
    linear("text_projection", "text_projection", bias=False),
    Rule("logit_scale", ("logit_scale",)),
)
