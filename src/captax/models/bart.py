"""BART, which rewrites texts.

Lewis et al., *BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation,
Translation, and Comprehension* (https://arxiv.org/abs/1910.13461). The model computes what
transformers' `BartForConditionalGeneration` computes.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from captax.models.arithmetic import look_up, project
from captax.models.config import ModelConfig, Roles
from captax.models.decoders import TextDecoder
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import Features, TextBatch, TextEncoder
from captax.models.layers import EncoderLayer, Layer
from captax.models.layout import Layout, Rule, linear, norm, table
from captax.models.modules import (
    AttentionConfig,
    Dropout,
    LayerConfig,
    LayerNorm,
    MlpConfig,
    NormConfig,
    parameter,
)
from captax.models.observing import record

EPSILON = 1e-5
# The first rows of the table of positions are never read.
OFFSET = 2


@dataclasses.dataclass(frozen=True)
class BartConfig(ModelConfig):
    """Shape of both halves, with the names and defaults of transformers.

    Without `logits_bias`, a checkpoint lacks `final_logits_bias`: those of `BartModel` do.
    """

    model_type: ClassVar[str] = "bart"
    fixed: ClassVar[dict[str, Any]] = {
        "tie_word_embeddings": True,
        # They drop whole layers in training.
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        # Variants that no longer have a class of their own.
        "normalize_before": False,
        "normalize_embedding": True,
        "add_final_layer_norm": False,
        "static_position_embeddings": False,
    }

    vocab_size: int = 50265
    max_position_embeddings: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    decoder_layers: int = 12
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    activation_function: str = "gelu"
    d_model: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    scale_embedding: bool = False
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | tuple[int, ...] | None = 2
    decoder_start_token_id: int | None = 2
    forced_eos_token_id: int | tuple[int, ...] | None = 2
    logits_bias: bool = True

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> "BartConfig":
        described = super().read(config, tensors)
        biased = not tensors or any(name.endswith("final_logits_bias") for name in tensors)
        return dataclasses.replace(described, logits_bias=described.logits_bias and biased)

    def write(self) -> dict[str, Any]:
        said = super().write()
        if self.logits_bias:
            del said["logits_bias"]
        kind = {"architectures": ["BartForConditionalGeneration"], "is_encoder_decoder": True}
        return {**said, **kind, "tie_word_embeddings": True}

    def roles(self) -> Roles:
        return Roles(self.decoder_start_token_id, self.eos_token_id, self.pad_token_id)

    def layer(self) -> LayerConfig:
        """The shape of the decoder's layers."""
        layer = self._layer(self.decoder_attention_heads, self.decoder_ffn_dim)
        return dataclasses.replace(layer, context_width=self.d_model)

    def encoder_layer(self) -> LayerConfig:
        """The shape of the encoder's layers."""
        return self._layer(self.encoder_attention_heads, self.encoder_ffn_dim)

    def _layer(self, heads: int, width: int) -> LayerConfig:
        return LayerConfig(
            self.d_model,
            AttentionConfig(heads, dropout=self.attention_dropout),
            MlpConfig(width, self.activation_function, dropout=self.activation_dropout),
            NormConfig(EPSILON),
            order="post",
            dropout=self.dropout,
            std=self.init_std,
        )

    def layout(self) -> Layout:
        return Layout(RULES, _canonical)

    def build(self, *, rngs: nnx.Rngs | None = None) -> EncoderDecoder:
        decoder = BartDecoder(self, rngs=rngs)
        encoder = BartEncoder(self, decoder.embeddings.words, rngs=rngs)
        return EncoderDecoder(encoder, decoder, config=self)


class BartEmbeddings(nnx.Module):
    """The sum of word and position embeddings, normalised; both halves have the same words."""

    def __init__(
        self, config: BartConfig, words: nnx.Param | None = None, *, rngs: nnx.Rngs | None
    ):
        width, std = config.d_model, config.init_std
        self.words = (
            parameter(rngs, (config.vocab_size, width), std=std) if words is None else words
        )
        shape = (config.max_position_embeddings + OFFSET, width)
        self.positions = parameter(rngs, shape, std=std)
        self.norm = LayerNorm(width, rngs=rngs, epsilon=EPSILON)
        self.dropout = Dropout(config.dropout)
        self.scale = width**0.5 if config.scale_embedding else 1.0

    def of_words(self, tokens: Int[Array, "rows time"]) -> Float[Array, "rows time width"]:
        """The embeddings of words alone."""
        return look_up(self.words[...], tokens) * self.scale

    def __call__(
        self, words: Float[Array, "rows time width"], positions: Int[Array, "#rows time"]
    ) -> Float[Array, "rows time width"]:
        """The input of the first layer, from what `of_words` gave."""
        return self.dropout(self.norm(words + self.positions[...][positions + OFFSET]))


class BartEncoder(TextEncoder):
    """Turns a text into one hidden state for each of its tokens."""

    def __init__(self, config: BartConfig, words: nnx.Param, *, rngs: nnx.Rngs | None):
        self.config = config
        self.embeddings = BartEmbeddings(config, words, rngs=rngs)
        layer = config.encoder_layer()
        self.layers = nnx.List(
            [EncoderLayer(layer, rngs=rngs) for _ in range(config.encoder_layers)]
        )

    @property
    def features_width(self) -> int:
        return self.config.d_model

    def __call__(self, text: TextBatch | Int[Array, "batch time"]) -> Features:
        text = self.checked(text)
        words = self.embeddings.of_words(jnp.asarray(text.tokens))
        return self.read(words, jnp.asarray(text.mask))

    def read(
        self, words: Float[Array, "batch time width"], mask: Bool[Array, "batch time"]
    ) -> Features:
        """Encode embeddings of words, or of what takes their places."""
        return self.run_layers(self.embeddings(words, jnp.arange(words.shape[1])[None]), mask)


class BartDecoder(TextDecoder):
    """Post-norm layers with cross-attention; the embedding of words is also the output layer."""

    def __init__(self, config: BartConfig, *, rngs: nnx.Rngs | None):
        self.config = config
        self.embeddings = BartEmbeddings(config, rngs=rngs)
        layer = config.layer()
        self.layers = nnx.List([Layer(layer, rngs=rngs) for _ in range(config.decoder_layers)])
        self.bias = parameter(rngs, (config.vocab_size,)) if config.logits_bias else None

    def embed(
        self, tokens: Int[Array, "rows time"], positions: Int[Array, "#rows time"]
    ) -> Float[Array, "rows time width"]:
        return self.embeddings(self.embeddings.of_words(tokens), positions)

    def logits(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows vocab"]:
        logits = project(record("hidden_states", x), self.embeddings.words[...])
        # As in transformers, no training changes the bias.
        return logits if self.bias is None else logits + jax.lax.stop_gradient(self.bias[...])


def _half(name: str) -> tuple[Rule, ...]:
    theirs, ours = f"model.{name}.layers.{{}}", f"{name}.layers.{{}}"
    kinds = [("self_attn", "self")] + [("encoder_attn", "cross")] * (name == "decoder")
    return table(
        Rule(f"model.{name}.embed_positions.weight", (f"{name}.embeddings.positions",)),
        norm(f"model.{name}.layernorm_embedding", f"{name}.embeddings.norm"),
        *(
            linear(f"{theirs}.{attention}.{part}_proj", f"{ours}.{kind}_attention.{our}")
            for attention, kind in kinds
            for part, our in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out"))
        ),
        *(norm(f"{theirs}.{kind[0]}_layer_norm", f"{ours}.{kind[1]}_norm") for kind in kinds),
        linear(f"{theirs}.fc1", f"{ours}.mlp.up"),
        linear(f"{theirs}.fc2", f"{ours}.mlp.down"),
        norm(f"{theirs}.final_layer_norm", f"{ours}.mlp_norm"),
    )


WORDS = "model.shared.weight"
RULES = table(
    Rule(WORDS, ("decoder.embeddings.words",)),
    Rule("final_logits_bias", ("decoder.bias",), lead=1),
    _half("encoder"),
    _half("decoder"),
)
# A file may hold any of these tied names.
TIED = ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")


def _canonical(name: str) -> str | None:
    # Checkpoints of `BartModel` hold the model without its head.
    if name.startswith(("shared.", "encoder.", "decoder.")):
        name = f"model.{name}"
    if name in ("model.encoder.version", "model.decoder.version"):
        return None
    return WORDS if name in TIED else name
