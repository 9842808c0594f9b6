"""BERT, as a reader of texts or, causal, as a language model and the decoder of a captioner.

Devlin et al., *BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding*
(https://arxiv.org/abs/1810.04805), computing what transformers' `BertModel` and `BertLMHeadModel`
compute where all tokens are of the first type (no text has a second part).
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
    """Shape of the model, by the names and with the defaults of transformers.

    It is a decoder if `is_decoder` or, with cross-attention, `add_cross_attention`, else an
    encoder. `pooler`: the encoder has the layer that transformers' bare models put on the CLS
    token, which nothing here reads. `lone_bias`: an untied head has one bias on disk, as
    transformers 4 wrote it; version 5 also keeps one that it does not read.
    """

    model_type: ClassVar[str] = "bert"
    fixed: ClassVar[dict[str, Any]] = {
        "position_embedding_type": "absolute",
        # Its hidden states may be of any width here: a projection brings them to `hidden_size`.
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
        # Nothing reads the pooler, but transformers' encoders have one and miss it.
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
    """Words and positions and, of all tokens the same, their type."""

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
        """What the first layer reads."""
        x = look_up(self.words[...], tokens) + self.types[...][0] + self.positions[...][positions]
        return self.dropout(self.norm(x))


class BertEncoder(TextEncoder):
    """Text in, a token a word or part of one out."""

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
        time = text.tokens.shape[1]
        mask = jnp.asarray(text.mask)
        x = self.embeddings(jnp.asarray(text.tokens), jnp.arange(time)[None])
        for layer in self.layers:
            x = layer(x, mask[:, None])
        return Features(tokens=record("hidden_states", x), grid=(1, time), mask=mask)


class BertDecoder(TextDecoder):
    """The same layers, each token seeing those before it, and an output layer."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs | None):
        self.config = config
        self.embeddings = BertEmbeddings(config, rngs=rngs)
        self.layers = nnx.List(
            [Layer(config.layer(), rngs=rngs) for _ in range(config.num_hidden_layers)]
        )
        self.head = LanguageHead(config, rngs=rngs, tied=config.tie_word_embeddings)
        if not (config.tie_word_embeddings or config.lone_bias):
            self.unread_bias = parameter(rngs, (config.vocab_size,))

    @property
    def max_positions(self) -> int:
        return self.config.max_position_embeddings

    def embed(
        self, tokens: Int[Array, "rows time"], positions: Int[Array, "#rows time"]
    ) -> Float[Array, "rows time width"]:
        return self.embeddings(tokens, positions)

    def logits(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows vocab"]:
        return self.head(record("hidden_states", x), self.embeddings.words[...])


# Fields that transformers' config does not have.
OURS = ("pooler", "lone_bias")
# What BLIP and GIT name so too.
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
    """As a decoder's is spelt today, with a head and the model under `bert.`."""
    # The first checkpoints were TensorFlow's.
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        name = name.replace(old, new)
    if config.tie_word_embeddings:
        # Of two tied names, a file may hold either.
        name = {f"{HEAD}.decoder.weight": WORDS, f"{HEAD}.decoder.bias": f"{HEAD}.bias"}.get(
            name, name
        )
    bare = name.startswith(("embeddings.", "encoder.", "pooler."))
    return f"bert.{name}" if bare else name


def _as_encoder(name: str) -> str | None:
    """A head, and what a decoder has besides, is nothing to an encoder."""
    unneeded = name.startswith("cls.") or ".crossattention." in name
    name = name.removeprefix("bert.")
    return None if unneeded or name == "embeddings.position_ids" else name


def _as_decoder(name: str) -> str | None:
    """What pretraining's other task needed is nothing to a decoder."""
    unneeded = name.startswith(("bert.pooler.", "cls.seq_relationship."))
    return None if unneeded or name == "bert.embeddings.position_ids" else name
