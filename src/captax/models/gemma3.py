"""Gemma 3, the language model alone.

Gemma Team, *Gemma 3 Technical Report* (https://arxiv.org/abs/2503.19786). The model computes what
transformers' `Gemma3ForCausalLM` computes. Five of six layers see a window only and have angles of
their own; queries and keys are normalised.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from captax.errors import quoted
from captax.models.config import ConfigError
from captax.models.language import RULES, LanguageConfig, rotary, scale
from captax.models.layout import Rule, table
from captax.models.modules import AttentionConfig, LayerConfig, MlpConfig, NormConfig

LOCAL, GLOBAL = "sliding_attention", "full_attention"


@dataclasses.dataclass(frozen=True)
class Gemma3TextConfig(LanguageConfig):
    """Shape of the model, with the names and defaults of transformers."""

    model_type: ClassVar[str] = "gemma3_text"
    architecture: ClassVar[str] = "Gemma3ForCausalLM"
    fixed: ClassVar[dict[str, Any]] = {
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
        "use_bidirectional_attention": False,
    }

    vocab_size: int = 262_208
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int | None = 4
    head_dim: int | None = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 131_072
    query_pre_attn_scalar: int = 256
    sliding_window: int = 4096
    layer_types: tuple[str, ...] = ()
    rope_theta: float = 1_000_000.0
    rope_local_base_freq: float = 10_000.0
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 2
    eos_token_id: int | tuple[int, ...] | None = 1
    pad_token_id: int | None = 0

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> "Gemma3TextConfig":
        ropes = config.get("rope_parameters")
        if isinstance(ropes, Mapping):
            local = ropes.get(LOCAL)
            config = {**config, "rope_parameters": ropes.get(GLOBAL)}
            if isinstance(local, Mapping) and "rope_theta" in local:
                config["rope_local_base_freq"] = local["rope_theta"]
        described = super().read(config, tensors)
        count, kinds = described.num_hidden_layers, described.layer_types
        if not kinds:
            # As transformers has it: every sixth layer sees everything.
            every = config.get("sliding_window_pattern", config.get("_sliding_window_pattern", 6))
            every = every if type(every) is int and every > 0 else 6
            kinds = tuple(GLOBAL if (i + 1) % every == 0 else LOCAL for i in range(count))
        if len(kinds) != count or not set(kinds) <= {LOCAL, GLOBAL}:
            raise ConfigError(
                f"{cls.model_type}: layer_types={quoted(kinds)} must name {LOCAL} or {GLOBAL} for "
                f"each of {count} layers"
            )
        return dataclasses.replace(described, layer_types=kinds)

    def write(self) -> dict[str, Any]:
        said = super().write()
        local = {"rope_type": "default", "rope_theta": said.pop("rope_local_base_freq")}
        return {**said, "rope_parameters": {LOCAL: local, GLOBAL: said["rope_parameters"]}}

    @property
    def norm(self) -> NormConfig:
        return NormConfig(self.rms_norm_eps, rms=True, offset=1.0)

    @property
    def embedding_scale(self) -> float:
        return self.hidden_size**0.5

    def layer_of(self, index: int) -> LayerConfig:
        local = bool(self.layer_types) and self.layer_types[index] == LOCAL
        if local:
            angles = rotary(self.head, self.rope_local_base_freq, None)
        else:
            angles = rotary(self.head, self.rope_theta, self.rope_scaling)
        return LayerConfig(
            self.hidden_size,
            AttentionConfig(
                self.num_attention_heads,
                self.num_key_value_heads,
                self.head,
                scale=self.query_pre_attn_scalar**-0.5,
                bias=self.attention_bias,
                out_bias=self.attention_bias,
                norm=self.norm,
                rotary=angles,
                window=self.sliding_window if local else None,
            ),
            MlpConfig(self.intermediate_size, self.hidden_activation, gated=True, bias=False),
            self.norm,
            order="sandwich",
            std=self.initializer_range,
        )

    def rules(self) -> tuple[Rule, ...]:
        layer = "model.layers.{}"
        plain = {rule.theirs: rule for rule in RULES}
        del plain[f"{layer}.post_attention_layernorm.weight"]
        return table(
            *plain.values(),
            scale(f"{layer}.self_attn.q_norm", "layers.{}.self_attention.query_norm"),
            scale(f"{layer}.self_attn.k_norm", "layers.{}.self_attention.key_norm"),
            scale(f"{layer}.post_attention_layernorm", "layers.{}.self_out_norm"),
            scale(f"{layer}.pre_feedforward_layernorm", "layers.{}.mlp_norm"),
            scale(f"{layer}.post_feedforward_layernorm", "layers.{}.mlp_out_norm"),
        )
