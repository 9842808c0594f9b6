"""A language model of today: rotary positions, RMS norms, grouped heads, gated MLPs.

Families differ in the shapes of their layers and in how words are embedded and scored.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, TypeVar

from flax import nnx
from jaxtyping import Array, Float, Int

from captax.errors import quoted
from captax.models.arithmetic import look_up, project, softcapped
from captax.models.config import ConfigError, ModelConfig, Roles
from captax.models.decoders import TextDecoder
from captax.models.layers import Layer
from captax.models.layout import Layout, Rule, linear, table
from captax.models.modules import (
    AttentionConfig,
    LayerConfig,
    Linear,
    MlpConfig,
    NormConfig,
    parameter,
)
from captax.models.observing import record
from captax.models.rotary import Llama3Scaling, Rotary

Language = TypeVar("Language", bound="LanguageConfig")


@dataclasses.dataclass(frozen=True)
class LanguageConfig(ModelConfig):
    """Fields that these families share, with transformers' names.

    A family gives `activation`, and overrides what differs from plain layers.
    """

    architecture: ClassVar[str]

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    attention_bias: bool = False
    rope_theta: float = 10_000.0
    rope_scaling: dict | None = None
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] | None = 2
    pad_token_id: int | None = None

    @classmethod
    def read(
        cls: type[Language], config: Mapping[str, Any], tensors: Collection[str] = ()
    ) -> Language:
        return super().read({**config, **rope_fields(config.get("rope_parameters"))}, tensors)

    @property
    def head(self) -> int:
        """The width of one head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def norm(self) -> NormConfig:
        """The norms of its layers, and after them."""
        return NormConfig(self.rms_norm_eps, rms=True)

    @property
    def embedding_scale(self) -> float:
        """What the words' embeddings are multiplied by."""
        return 1.0

    @property
    def logit_softcap(self) -> float | None:
        """The limit that logits approach; None if they have none."""
        return None

    @property
    def activation(self) -> str:
        """The activation in the MLPs."""
        raise NotImplementedError

    def rotary_of(self, index: int) -> Rotary:
        """The angles of a layer."""
        return rotary(self.head, self.rope_theta, self.rope_scaling)

    def layer_of(self, index: int) -> LayerConfig:
        """The shape of a layer."""
        return LayerConfig(
            self.hidden_size,
            AttentionConfig(
                self.num_attention_heads,
                self.num_key_value_heads,
                self.head,
                bias=self.attention_bias,
                out_bias=self.attention_bias,
                rotary=self.rotary_of(index),
            ),
            MlpConfig(self.intermediate_size, self.activation, gated=True, bias=False),
            self.norm,
            std=self.initializer_range,
        )

    def layer(self) -> LayerConfig:
        """The shape of the first layer."""
        return self.layer_of(0)

    def roles(self) -> Roles:
        return Roles(self.bos_token_id, self.eos_token_id, self.pad_token_id)

    def write(self) -> dict[str, Any]:
        said = super().write()
        scaling = said.pop("rope_scaling") or {"rope_type": "default"}
        angles = {**scaling, "rope_theta": said.pop("rope_theta")}
        return {**said, "architectures": [self.architecture], "rope_parameters": angles}

    def layout(self) -> Layout:
        head = () if self.tie_word_embeddings else linear("lm_head", "head", bias=False)

        def canonical(name: str) -> str | None:
            copy = self.tie_word_embeddings and name == "lm_head.weight"
            return None if copy or name.endswith("rotary_emb.inv_freq") else name

        return Layout(table(self.rules(), head), canonical)

    def rules(self) -> tuple[Rule, ...]:
        """The tensors of all but the output layer."""
        return RULES

    def build(self, *, rngs: nnx.Rngs | None = None) -> "LanguageModel":
        return LanguageModel(self, rngs=rngs)


class LanguageModel(TextDecoder):
    """Predicts each next token from the tokens before it.

    If `tie_word_embeddings`, the token embedding is also the output layer.
    """

    def __init__(self, config: LanguageConfig, *, rngs: nnx.Rngs | None):
        self.config = config
        shape, std = (config.vocab_size, config.hidden_size), config.initializer_range
        self.embedding = parameter(rngs, shape, std=std)
        count = config.num_hidden_layers
        self.layers = nnx.List([Layer(config.layer_of(i), rngs=rngs) for i in range(count)])
        self.norm = config.norm.build(config.hidden_size, rngs=rngs)
        if not config.tie_word_embeddings:
            self.head = Linear(*shape[::-1], rngs=rngs, bias=False, std=std)

    def embed(
        self, tokens: Int[Array, "rows time"], positions: Int[Array, "#rows time"]
    ) -> Float[Array, "rows time width"]:
        return look_up(self.embedding[...], tokens) * self.config.embedding_scale

    def logits(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows vocab"]:
        x = record("hidden_states", self.norm(x))
        tied = self.config.tie_word_embeddings
        logits = project(x, self.embedding[...]) if tied else self.head(x)
        return softcapped(logits, self.config.logit_softcap)


def rope_fields(given: Any) -> dict[str, Any]:
    """The older fields for the `rope_parameters` of newer versions of transformers."""
    if not isinstance(given, Mapping):
        return {}
    scaling = {key: value for key, value in given.items() if key != "rope_theta"}
    theta = {"rope_theta": given["rope_theta"]} if "rope_theta" in given else {}
    return {**theta, "rope_scaling": None if _kind(scaling) == "default" else scaling}


def _kind(scaling: Mapping[str, Any] | None) -> Any:
    return "default" if not scaling else scaling.get("rope_type", scaling.get("type", "default"))


def rotary(head: int, theta: float, scaling: Mapping[str, Any] | None) -> Rotary:
    """The angles that a config's `rope_theta` and `rope_scaling` describe."""
    kind = _kind(scaling)
    scaling = scaling or {}
    try:
        match kind:
            case "default":
                return Rotary(head, theta)
            case "linear":
                return Rotary(head, theta, float(scaling["factor"]))
            case "llama3":
                stretched = Llama3Scaling(
                    float(scaling["factor"]),
                    float(scaling["low_freq_factor"]),
                    float(scaling["high_freq_factor"]),
                    int(scaling["original_max_position_embeddings"]),
                )
                return Rotary(head, theta, llama3=stretched)
    except (KeyError, TypeError, ValueError):
        pass
    raise ConfigError(
        f"rope_scaling={quoted(scaling)} is not supported; it must be default, linear or llama3, "
        "with its numbers"
    )


def scale(theirs: str, ours: str) -> Rule:
    """The scale of an RMS norm."""
    return Rule(f"{theirs}.weight", (f"{ours}.scale",))


def head_norms() -> tuple[Rule, ...]:
    """The norms of each head's queries and keys."""
    theirs, ours = "model.layers.{}.self_attn", "layers.{}.self_attention"
    return (
        scale(f"{theirs}.q_norm", f"{ours}.query_norm"),
        scale(f"{theirs}.k_norm", f"{ours}.key_norm"),
    )


RULES = table(
    Rule("model.embed_tokens.weight", ("embedding",)),
    scale("model.norm", "norm"),
    scale("model.layers.{}.input_layernorm", "layers.{}.self_norm"),
    *(
        linear(f"model.layers.{{}}.self_attn.{theirs}_proj", f"layers.{{}}.self_attention.{ours}")
        for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out"))
    ),
    scale("model.layers.{}.post_attention_layernorm", "layers.{}.mlp_norm"),
    *(
        linear(f"model.layers.{{}}.mlp.{name}_proj", f"layers.{{}}.mlp.{name}")
        for name in ("gate", "up", "down")
    ),
)
