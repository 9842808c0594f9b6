"""Gemma 2: Gemma with windows, norms around every block, and limits of scores and logits.

Gemma Team, *Gemma 2: Improving Open Language Models at a Practical Size*
(https://arxiv.org/abs/2408.00118). The model computes what transformers' `Gemma2ForCausalLM`
computes. Every other layer sees a window only.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, TypeVar

from captax.errors import quoted
from captax.models.config import ConfigError
from captax.models.gemma import GemmaLikeConfig
from captax.models.language import RULES, scale
from captax.models.layout import Rule, table
from captax.models.modules import LayerConfig

Gemma2 = TypeVar("Gemma2", bound="Gemma2Config")
LOCAL, GLOBAL = "sliding_attention", "full_attention"


@dataclasses.dataclass(frozen=True)
class Gemma2Config(GemmaLikeConfig):
    """Shape of the model, with the names and defaults of transformers."""

    model_type: ClassVar[str] = "gemma2"
    architecture: ClassVar[str] = "Gemma2ForCausalLM"

    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int | None = 4
    hidden_activation: str = "gelu_pytorch_tanh"
    query_pre_attn_scalar: int = 256
    sliding_window: int = 4096
    layer_types: tuple[str, ...] = ()
    attn_logit_softcapping: float | None = 50.0
    final_logit_softcapping: float | None = 30.0

    @classmethod
    def read(cls: type[Gemma2], config: Mapping[str, Any], tensors: Collection[str] = ()) -> Gemma2:
        described = super().read(config, tensors)
        for key in ("attn_logit_softcapping", "final_logit_softcapping"):
            cap = getattr(described, key)
            if cap is not None and cap <= 0:
                raise ConfigError(f"{cls.model_type}: {key}={quoted(cap)} must be above 0")
        count, kinds = described.num_hidden_layers, described.layer_types
        if not kinds:
            every = cls.global_every(config)
            kinds = tuple(GLOBAL if (i + 1) % every == 0 else LOCAL for i in range(count))
        if len(kinds) != count or not set(kinds) <= {LOCAL, GLOBAL}:
            raise ConfigError(
                f"{cls.model_type}: layer_types={quoted(kinds)} must name {LOCAL} or {GLOBAL} for "
                f"each of {count} layers"
            )
        return dataclasses.replace(described, layer_types=kinds)

    @classmethod
    def global_every(cls, config: Mapping[str, Any]) -> int:
        """After how many layers one sees everything, if a config has no `layer_types`."""
        return 2

    @property
    def activation(self) -> str:
        return self.hidden_activation

    @property
    def logit_softcap(self) -> float | None:
        return self.final_logit_softcapping

    def is_local(self, index: int) -> bool:
        """Whether a layer sees a window only."""
        return bool(self.layer_types) and self.layer_types[index] == LOCAL

    def layer_of(self, index: int) -> LayerConfig:
        layer = super().layer_of(index)
        attention = dataclasses.replace(
            layer.attention,
            scale=self.query_pre_attn_scalar**-0.5,
            softcap=self.attn_logit_softcapping,
            window=self.sliding_window if self.is_local(index) else None,
        )
        return dataclasses.replace(layer, attention=attention, order="sandwich")

    def rules(self) -> tuple[Rule, ...]:
        layer = "model.layers.{}"
        plain = {rule.theirs: rule for rule in RULES}
        del plain[f"{layer}.post_attention_layernorm.weight"]
        return table(
            *plain.values(),
            scale(f"{layer}.post_attention_layernorm", "layers.{}.self_out_norm"),
            scale(f"{layer}.pre_feedforward_layernorm", "layers.{}.mlp_norm"),
            scale(f"{layer}.post_feedforward_layernorm", "layers.{}.mlp_out_norm"),
        )
