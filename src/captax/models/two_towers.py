"""What models share that compare pictures with texts: a tower for each, and the cosines."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, TypeVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from captax.errors import quoted
from captax.models.arithmetic import look_up
from captax.models.config import ConfigError, ModelConfig
from captax.models.encoders import Features, TextBatch, TextEncoder
from captax.models.layers import EncoderLayer
from captax.models.layout import Layout, Rule, join, linear, norm, table
from captax.models.modules import FinalNorm, parameter
from captax.models.observing import scope
from captax.models.shapes import PatchConfig, TowerConfig

Config = TypeVar("Config", bound="TwoTowersConfig")


@dataclasses.dataclass(frozen=True)
class NamedTowerConfig(TowerConfig):
    """What both towers share, with the names and defaults of transformers.

    The tensor names of a tower that is saved alone begin with `prefix`. In a larger model, and in
    checkpoints from before transformers 5, they begin with `tower`.
    """

    architecture: ClassVar[str]
    tower: ClassVar[str]
    prefix: ClassVar[str] = ""

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
class PictureTowerConfig(NamedTowerConfig, PatchConfig):
    """The tower of pictures, which can also be the encoder of a captioner."""

    fixed: ClassVar[dict[str, Any]] = {"num_channels": 3}
    tower: ClassVar[str] = "vision_model."

    def as_encoder(self) -> "PictureTowerConfig":
        return self


@dataclasses.dataclass(frozen=True)
class TextTowerConfig(NamedTowerConfig):
    """The tower of texts."""

    tower: ClassVar[str] = "text_model."

    vocab_size: int = 49408
    max_position_embeddings: int = 77
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49406
    eos_token_id: int | tuple[int, ...] | None = 49407

    def rules(self) -> tuple[Rule, ...]:
        return TEXT

    def build(self, *, rngs: nnx.Rngs | None = None) -> "TextTower":
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class TwoTowersConfig(ModelConfig):
    """The configs of both towers."""

    architecture: ClassVar[str]

    text_config: TextTowerConfig = TextTowerConfig()
    vision_config: PictureTowerConfig = PictureTowerConfig()

    @classmethod
    def read(cls: type[Config], config: Mapping[str, Any], tensors: Collection[str] = ()) -> Config:
        text = type(cls.text_config).read(cls._part(config, "text_config"))
        vision = type(cls.vision_config).read(cls._part(config, "vision_config"))
        return super().read({**config, "text_config": text, "vision_config": vision}, tensors)

    @classmethod
    def _part(cls, config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        """A tower's part; as in transformers, the key from before 2023 comes first."""
        for key in (f"{name}_dict", name):
            described = config.get(key)
            if isinstance(described, Mapping):
                return described
            if described is not None:
                raise ConfigError(
                    f"{cls.model_type}: {key}={quoted(described)} must be a JSON object"
                )
        return {}

    def write(self) -> dict[str, Any]:
        towers = {"text_config": self.text_config, "vision_config": self.vision_config}
        written = {name: tower.write() for name, tower in towers.items()}
        return {**super().write(), **written, "architectures": [self.architecture]}

    def as_encoder(self) -> ModelConfig:
        return self.vision_config

    def rules(self) -> tuple[Rule, ...]:
        """The rules of the tensors that are in neither tower."""
        raise NotImplementedError

    def layout(self) -> Layout:
        towers = join(
            self.text_config.layout().within("text_model.", "text."),
            self.vision_config.layout().within("vision_model.", "vision."),
        )
        return Layout(table(towers.rules, self.rules()), towers.canonical)


class TextTower(TextEncoder):
    """Word and position embeddings, layers and a norm; new embeddings have the deviation `std`."""

    # How the texts looked that the model was trained with: whether they began with a start token,
    # and whether they were padded to `max_positions` with tokens that the model reads.
    has_start: ClassVar[bool] = True
    reads_padding: ClassVar[bool] = False

    def __init__(self, config: TextTowerConfig, *, rngs: nnx.Rngs | None, std: float):
        self.config = config
        width = config.hidden_size
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
        mask = self.visible(text)
        for layer in self.layers:
            x = layer(x, mask)
        return Features(self.norm(x), grid=(1, time), mask=text.mask)

    def visible(self, text: TextBatch) -> Bool[Array, "batch #time time"]:
        """Which tokens (last axis) each token sees: by default all that are no padding."""
        return jnp.asarray(text.mask)[:, None]

    def pool(self, features: Features, text: TextBatch) -> Float[Array, "batch width"]:
        """One vector for each text."""
        raise NotImplementedError


class TwoTowers(nnx.Module):
    """Compares pictures with texts."""

    # `PatchEncoder`s with a `pool`, which gives one vector for each picture.
    vision: Any
    text: TextTower

    def __init__(self, config: TwoTowersConfig, *, rngs: nnx.Rngs | None, scale: float):
        self.config: Any = config
        self.vision = config.vision_config.build(rngs=rngs)
        self.text = config.text_config.build(rngs=rngs)
        self.logit_scale = parameter(rngs, (), fill=scale)

    @property
    def vector_width(self) -> int:
        """Width of the vectors that are compared."""
        raise NotImplementedError

    def embed_images(
        self, pixels: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch projection"]:
        """One vector for each picture, not normalised, in the space that texts share."""
        with scope("vision"):
            return self.vision.pool(self.vision(pixels))

    def embed_texts(self, text: TextBatch) -> Float[Array, "batch projection"]:
        """One vector for each text, not normalised, in the space that pictures share."""
        with scope("text"):
            return self.text.pool(self.text(text), text)

    def __call__(
        self, pixels: Float[Array, "batch height width 3"], text: TextBatch
    ) -> tuple[Float[Array, "batch texts"], Float[Array, "texts batch"]]:
        """Logits of every text for each picture, and of every picture for each text."""
        return self.compare(self.embed_images(pixels), self.embed_texts(text))

    def compare(
        self, images: Float[Array, "batch projection"], texts: Float[Array, "texts projection"]
    ) -> tuple[Float[Array, "batch texts"], Float[Array, "texts batch"]]:
        """The same logits, from outputs of `embed_images` and `embed_texts`."""
        images, texts = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (images, texts))
        logits = self.logits(images @ texts.T)
        return logits, logits.T

    def logits(self, cosines: Float[Array, "batch texts"]) -> Float[Array, "batch texts"]:
        """The logits of pictures and texts with these cosines: by default the cosines, scaled."""
        return jnp.exp(self.logit_scale[...].astype(jnp.float32)) * cosines

    def probabilities(self, cosines: Float[Array, "batch texts"]) -> Float[Array, "batch texts"]:
        """What the logits say of each text for each picture."""
        raise NotImplementedError


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
TEXT = table(
    Rule("embeddings.token_embedding.weight", ("embedding",)),
    Rule("embeddings.position_embedding.weight", ("positions",)),
    LAYERS,
    norm("final_layer_norm", "norm"),
)
