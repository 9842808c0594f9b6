"""BLIP's captioner: a vision transformer and a BERT-like decoder that attends to all its tokens.

Li et al., *BLIP: Bootstrapping Language-Image Pre-training* (https://arxiv.org/abs/2201.12086). The
model computes what transformers' `BlipForConditionalGeneration` computes.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float

from captax.errors import quoted
from captax.models.bert import LAYER_RULES
from captax.models.config import ConfigError, ModelConfig, Roles
from captax.models.decoders import BertLikeDecoder, LanguageHead
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import PatchEncoder
from captax.models.layout import Layout, Rule, conv2d, join, linear, norm, table
from captax.models.modules import LayerConfig, LayerNorm
from captax.models.observing import record
from captax.models.patches import PatchEmbedding
from captax.models.shapes import BertLikeConfig, PatchConfig, TowerConfig

EMBEDDING, HEAD = "bert.embeddings.word_embeddings.weight", "cls.predictions"


@dataclasses.dataclass(frozen=True)
class BlipVisionConfig(TowerConfig, PatchConfig):
    """Shape of the encoder, with the names and defaults of transformers."""

    model_type: ClassVar[str] = "blip_vision_model"

    image_size: int = 384
    initializer_range: float = 1e-10

    def layout(self) -> Layout:
        return Layout(VISION_RULES)

    def build(self, *, rngs: nnx.Rngs | None = None) -> "BlipVision":
        return BlipVision(self, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class BlipTextConfig(BertLikeConfig):
    """Shape of the decoder, with the names and defaults of transformers.

    `bos_token_id` begins every caption, in the place of a prompt's [CLS], and `sep_token_id` ends
    it; `eos_token_id` is not used. With `own_head`, the output layer has its own weights. The
    config of transformers does not say so, but before version 5 transformers trained the layer and
    the word embedding separately.
    """

    model_type: ClassVar[str] = "blip_text_model"
    fixed: ClassVar[dict[str, Any]] = {"is_decoder": True}

    vocab_size: int = 30524
    encoder_hidden_size: int = 768
    num_attention_heads: int = 8
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    bos_token_id: int | None = 30522
    eos_token_id: int | tuple[int, ...] | None = 2
    sep_token_id: int | None = 102
    own_head: bool = False

    def roles(self) -> Roles:
        # The tokenizer's [CLS] does not begin captions, and neither `eos_token_id` ends them.
        return Roles(self.bos_token_id, self.sep_token_id, self.pad_token_id, binding=True)

    def layer(self) -> LayerConfig:
        return dataclasses.replace(super().layer(), context_width=self.encoder_hidden_size)

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> "BlipTextConfig":
        described = super().read(config, tensors)
        if not tensors:
            return described
        # A copy of tied weights counts as a head too: only the values could tell them apart.
        own_head = {EMBEDDING, f"{HEAD}.decoder.weight"} <= set(tensors)
        return dataclasses.replace(described, own_head=own_head)

    def layout(self) -> Layout:
        head = Rule(f"{HEAD}.decoder.weight", ("head.kernel",))

        def canonical(name: str) -> str | None:
            if name == "bert.embeddings.position_ids":
                return None
            if name == f"{HEAD}.decoder.weight" and not self.own_head:
                return EMBEDDING  # a file may hold either of two tied names
            return f"{HEAD}.bias" if name == f"{HEAD}.decoder.bias" else name

        return Layout(TEXT_RULES + ((head,) if self.own_head else ()), canonical)

    def build(self, *, rngs: nnx.Rngs | None = None) -> "BlipText":
        return BlipText(self, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class BlipConfig(ModelConfig):
    """The configs of both halves; cross-attention always reads the width of the encoder."""

    model_type: ClassVar[str] = "blip"
    fixed: ClassVar[dict[str, Any]] = {"tie_word_embeddings": True}

    vision_config: BlipVisionConfig = BlipVisionConfig()
    text_config: BlipTextConfig = BlipTextConfig()

    def __post_init__(self) -> None:
        width = self.vision_config.hidden_size
        text = dataclasses.replace(self.text_config, encoder_hidden_size=width)
        object.__setattr__(self, "text_config", text)

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> "BlipConfig":
        prefix = "text_decoder."
        names = [n.removeprefix(prefix) for n in tensors if n.startswith(prefix)]
        halves = {
            "vision_config": BlipVisionConfig.read(_half(config, "vision_config")),
            "text_config": BlipTextConfig.read(_half(config, "text_config"), names),
        }
        return super().read({**config, **halves})

    def write(self) -> dict[str, Any]:
        return {
            "model_type": self.model_type,
            "architectures": ["BlipForConditionalGeneration"],
            "vision_config": self.vision_config.write(),
            "text_config": self.text_config.write(),
        }

    def roles(self) -> Roles:
        return self.text_config.roles()

    def layout(self) -> Layout:
        return join(
            self.vision_config.layout().within("vision_model.", "encoder."),
            self.text_config.layout().within("text_decoder.", "decoder."),
        )

    def build(self, *, rngs: nnx.Rngs | None = None) -> EncoderDecoder:
        encoder, decoder = self.vision_config.build(rngs=rngs), self.text_config.build(rngs=rngs)
        return EncoderDecoder(encoder, decoder, config=self)


def _half(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The config nested under `key` or its older name; without one, all defaults hold."""
    half = config.get(key) or config.get(f"{key}_dict") or {}
    if not isinstance(half, Mapping):
        raise ConfigError(f"blip: {key}={quoted(half)} must be a JSON object")
    return half


class BlipVision(PatchEncoder):
    """Turns a picture into CLS and a grid of visual tokens."""

    def __init__(self, config: BlipVisionConfig, *, rngs: nnx.Rngs | None):
        embeddings = PatchEmbedding(
            config.hidden_size,
            config.patch_size,
            config.grid,
            rngs=rngs,
            std=config.initializer_range,
        )
        super().__init__(config, embeddings, rngs=rngs)


class BlipText(BertLikeDecoder):
    """Post-norm layers over word and position embeddings, and BERT's output layer."""

    def __init__(self, config: BlipTextConfig, *, rngs: nnx.Rngs | None):
        super().__init__(config, rngs=rngs)
        self.norm = LayerNorm(config.hidden_size, rngs=rngs, epsilon=config.layer_norm_eps)
        self.head = LanguageHead(config, rngs=rngs, tied=not config.own_head)

    def normed(self, x: Float[Array, "rows time width"]) -> Float[Array, "rows time width"]:
        return self.norm(x)

    def logits(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows vocab"]:
        return self.head(record("hidden_states", x), self.embedding[...])


VISION_RULES = table(
    Rule("embeddings.class_embedding", ("embeddings.cls_token",), lead=2),
    Rule("embeddings.position_embedding", ("embeddings.positions",), lead=1),
    conv2d("embeddings.patch_embedding", "embeddings"),
    norm("encoder.layers.{}.layer_norm1", "layers.{}.self_norm"),
    linear(
        "encoder.layers.{}.self_attn.qkv",
        "layers.{}.self_attention.query",
        "layers.{}.self_attention.key",
        "layers.{}.self_attention.value",
    ),
    linear("encoder.layers.{}.self_attn.projection", "layers.{}.self_attention.out"),
    norm("encoder.layers.{}.layer_norm2", "layers.{}.mlp_norm"),
    linear("encoder.layers.{}.mlp.fc1", "layers.{}.mlp.up"),
    linear("encoder.layers.{}.mlp.fc2", "layers.{}.mlp.down"),
    norm("post_layernorm", "norm"),
)
TEXT_RULES = table(
    Rule(EMBEDDING, ("embedding",)),
    Rule("bert.embeddings.position_embeddings.weight", ("positions",)),
    norm("bert.embeddings.LayerNorm", "norm"),
    Layout(LAYER_RULES).within("bert.", "").rules,
    linear(f"{HEAD}.transform.dense", "head.dense"),
    norm(f"{HEAD}.transform.LayerNorm", "head.norm"),
    Rule(f"{HEAD}.bias", ("head.bias",)),
)
