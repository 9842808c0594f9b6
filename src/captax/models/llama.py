"""Llama, and the models that have its layers, such as SmolLM2.

Touvron et al., *LLaMA: Open and Efficient Foundation Language Models*
(https://arxiv.org/abs/2302.13971). The model computes what transformers' `LlamaForCausalLM`
computes.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from captax.errors import quoted
from captax.models.config import ConfigError
from captax.models.language import LanguageConfig
from captax.models.modules import AttentionConfig, LayerConfig, MlpConfig
from captax.models.rotary import Llama3Scaling, Rotary


@dataclasses.dataclass(frozen=True)
class LlamaConfig(LanguageConfig):
    """Shape of the model, with the names and defaults of transformers."""

    model_type: ClassVar[str] = "llama"
    architecture: ClassVar[str] = "LlamaForCausalLM"

    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    rope_theta: float = 10_000.0
    rope_scaling: dict | None = None

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> "LlamaConfig":
        return super().read({**config, **rope_fields(config.get("rope_parameters"))}, tensors)

    def write(self) -> dict[str, Any]:
        said = super().write()
        scaling = said.pop("rope_scaling") or {"rope_type": "default"}
        return {**said, "rope_parameters": {**scaling, "rope_theta": said.pop("rope_theta")}}

    def layer_of(self, index: int) -> LayerConfig:
        return LayerConfig(
            self.hidden_size,
            AttentionConfig(
                self.num_attention_heads,
                self.num_key_value_heads,
                self.head,
                bias=self.attention_bias,
                out_bias=self.attention_bias,
                rotary=rotary(self.head, self.rope_theta, self.rope_scaling),
            ),
            MlpConfig(self.intermediate_size, self.hidden_act, gated=True, bias=self.mlp_bias),
            self.norm,
            std=self.initializer_range,
        )


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
