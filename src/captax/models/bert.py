"""BERT as a text encoder or, with causal attention, as a language model or a captioner's decoder.

Devlin et al., *BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding*
(https://arxiv.org/abs/1810.04805). The models compute what transformers' `BertModel` and
`BertLMHeadModel` compute when all tokens have the first type, that is, no text has a second part.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from captax.models.arithmetic import look_up
from captax.models.decoders import LanguageHead, TextDecoder
from captax.models.encoders import Features, TextBatch, TextEncoder
from captax.models.layers import EncoderLayer, Layer
from captax.models.layout import Layout, Rule, linear, norm, table
from captax.models.modules import Dropout, LayerConfig, LayerNorm, Linear, parameter
from captax.models.observing import record
from captax.models.shapes import BertLikeConfig

WORDS, HEAD = "embeddings.word_embeddings.weight", "cls.predictions"


@dataclasses.dataclass(frozen=True)
class BertConfig(BertLikeConfig):
    """Shape of the model, with the names and defaults of transformers.

    With `is_decoder` it is a decoder, with `add_cross_attention` a decoder with cross-attention,
    otherwise an encoder. With `pooler`, the encoder has the layer that transformers' bare models
    put on the CLS token; captax keeps its weights but never uses its output. With `lone_bias`, an
    untied head has one bias in the checkpoint, as transformers 4 wrote it; version 5 also writes a
    bias that it does not use.
    """

    model_type: ClassVar[str] = "bert"
    fixed: ClassVar[dict[str, Any]] = {
        "position_embedding_type": "absolute",
        # The encoder may have any width here: a projection maps its output to `hidden_size`.
        "cross_attention_hidden_size": None,
    }

    type_vocab_size: int = 2
    is_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    pooler: bool = False
    lone_bias: bool = False

    def __post_init__(self) -> None:
        decodes = self.is_decoder or self.add_cross_attention
        object.__setattr__(self, "is_decoder", decodes)
        object.__setattr__(self, "pooler", self.pooler and not decodes)

    def as_encoder(self) -> "BertConfig":
        # captax does not use the pooler, but transformers reports it as missing from an encoder.
        return dataclasses.replace(self, is_decoder=False, add_cross_attention=False, pooler=True)

    def as_decoder(self) -> "BertConfig":
        return dataclasses.replace(self, is_decoder=True, add_cross_attention=True)

    def layer(self) -> LayerConfig:
        width = self.hidden_size if self.add_cross_attention else None
        return dataclasses.replace(super().layer(), context_width=width)

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> "BertConfig":
        described = super().read(config, tensors)
        if not tensors:
            return described
        return dataclasses.replace(
            described,
            pooler=any(name.endswith("pooler.dense.weight") for name in tensors),
            lone_bias=not described.tie_word_embeddings and f"{HEAD}.decoder.bias" not in tensors,
        )

    def write(self) -> dict[str, Any]:
        said = {name: value for name, value in super().write().items() if name not in OURS or value}
        return {**said, "architectures": ["BertLMHeadModel" if self.is_decoder else "BertModel"]}

    def layout(self) -> Layout:
        if not self.is_decoder:
            return Layout(RULES, lambda name: _as_encoder(_canonical(name, self)))
        rules = Layout(RULES).within("bert.", "").rules + HEAD_RULES
        bias = Rule(f"{HEAD}.bias", ("head.bias",))
        if not self.tie_word_embeddings:
            rules += (Rule(f"{HEAD}.decoder.weight", ("head.kernel",)),)
            if not self.lone_bias:
                rules += (Rule(f"{HEAD}.bias", ("unread_bias",)),)
                bias = Rule(f"{HEAD}.decoder.bias", ("head.bias",))
        return Layout((*rules, bias), lambda name: _as_decoder(_canonical(name, self)))

    def build(self, *, rngs: nnx.Rngs | None = None) -> "BertEncoder | BertDecoder":
        return BertDecoder(self, rngs=rngs) if self.is_decoder else BertEncoder(self, rngs=rngs)


class BertEmbeddings(nnx.Module):
    """The sum of word, position and type embeddings; all tokens have the first type."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs | None):
        width, std = config.hidden_size, config.initializer_range
        self.words = parameter(rngs, (config.vocab_size, width), std=std)
        self.positions = parameter(rngs, (config.max_position_embeddings, width), std=std)
        self.types = parameter(rngs, (config.type_vocab_size, width), std=std)
        self.norm = LayerNorm(width, rngs=rngs, epsilon=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def __call__(
        self, tokens: Int[Array, "rows time"], positions: Int[Array, "#rows time"]
    ) -> Float[Array, "rows time width"]:
        """The input of the first layer."""
        x = look_up(self.words[...], tokens) + self.types[...][0] + self.positions[...][positions]
        return self.dropout(self.norm(x))


class BertEncoder(TextEncoder):
    """Turns a text into one hidden state for each of its tokens."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs | None):
        self.config = config
        width = config.hidden_size
        self.embeddings = BertEmbeddings(config, rngs=rngs)
        self.layers = nnx.List(
            [EncoderLayer(config.layer(), rngs=rngs) for _ in range(config.num_hidden_layers)]
        )
        if config.pooler:
            self.pooler = Linear(width, width, rngs=rngs, std=config.initializer_range)

    def __call__(self, text: TextBatch | Int[Array, "batch time"]) -> Features:
        text = self.checked(text)
        positions = jnp.arange(text.tokens.shape[1])[None]
        x = self.embeddings(jnp.asarray(text.tokens), positions)
        return self.run_layers(x, jnp.asarray(text.mask))


class BertDecoder(TextDecoder):
    """BERT's layers with causal attention, and an output layer."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs | None):
        self.config = config
        self.embeddings = BertEmbeddings(config, rngs=rngs)
        self.layers = nnx.List(
            [Layer(config.layer(), rngs=rngs) for _ in range(config.num_hidden_layers)]
        )
        self.head = LanguageHead(config, rngs=rngs, tied=config.tie_word_embeddings)
        if not (config.tie_word_embeddings or config.lone_bias):
            self.unread_bias = parameter(rngs, (config.vocab_size,))

    def embed(
        self, tokens: Int[Array, "rows time"], positions: Int[Array, "#rows time"]
    ) -> Float[Array, "rows time width"]:
        return self.embeddings(tokens, positions)

    def logits(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows vocab"]:
        return self.head(record("hidden_states", x), self.embeddings.words[...])


# Fields that transformers' config does not have.
OURS = ("pooler", "lone_bias")
# BLIP and GIT use the same names for these.
LAYER_RULES = table(
    *(
        table(
            linear(f"encoder.layer.{{}}.{theirs}.self.query", f"layers.{{}}.{ours}.query"),
            linear(f"encoder.layer.{{}}.{theirs}.self.key", f"layers.{{}}.{ours}.key"),
            linear(f"encoder.layer.{{}}.{theirs}.self.value", f"layers.{{}}.{ours}.value"),
            linear(f"encoder.layer.{{}}.{theirs}.output.dense", f"layers.{{}}.{ours}.out"),
        )
        for theirs, ours in (
            ("attention", "self_attention"),
            ("crossattention", "cross_attention"),
        )
    ),
    norm("encoder.layer.{}.attention.output.LayerNorm", "layers.{}.self_norm"),
    norm("encoder.layer.{}.crossattention.output.LayerNorm", "layers.{}.cross_norm"),
    linear("encoder.layer.{}.intermediate.dense", "layers.{}.mlp.up"),
    linear("encoder.layer.{}.output.dense", "layers.{}.mlp.down"),
    norm("encoder.layer.{}.output.LayerNorm", "layers.{}.mlp_norm"),
)
RULES = table(
    Rule(WORDS, ("embeddings.words",)),
    Rule("embeddings.position_embeddings.weight", ("embeddings.positions",)),
    Rule("embeddings.token_type_embeddings.weight", ("embeddings.types",)),
    norm("embeddings.LayerNorm", "embeddings.norm"),
    LAYER_RULES,
    linear("pooler.dense", "pooler"),
)
HEAD_RULES = table(
    linear(f"{HEAD}.transform.dense", "head.dense"),
    norm(f"{HEAD}.transform.LayerNorm", "head.norm"),
)


def _canonical(name: str, config: BertConfig) -> str:
    """The name that transformers gives the tensor in a decoder today, under `bert.` or `cls.`."""
    # The first checkpoints were converted from TensorFlow and keep its names.
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        name = name.replace(old, new)
    if config.tie_word_embeddings:
        # A file may hold either of two tied names.
        name = {f"{HEAD}.decoder.weight": WORDS, f"{HEAD}.decoder.bias": f"{HEAD}.bias"}.get(
            name, name
        )
    bare = name.startswith(("embeddings.", "encoder.", "pooler."))
    return f"bert.{name}" if bare else name


def _as_encoder(name: str) -> str | None:
    """The name in an encoder; None for heads and cross-attention, which no encoder has."""
    unneeded = name.startswith("cls.") or ".crossattention." in name
    name = name.removeprefix("bert.")
    return None if unneeded or name == "embeddings.position_ids" else name


def _as_decoder(name: str) -> str | None:
    """The name in a decoder; None for what only the other pretraining task needed."""
    unneeded = name.startswith(("bert.pooler.", "cls.seq_relationship."))
    return None if unneeded or name == "bert.embeddings.position_ids" else name
