"""Llama, and the models that have its layers, such as SmolLM2.

Touvron et al., *LLaMA: Open and Efficient Foundation Language Models*
(https://arxiv.org/abs/2302.13971). The model computes what transformers' `LlamaForCausalLM`
computes.
"""

import dataclasses
from typing import ClassVar

from captax.models.language import LanguageConfig, rotary
from captax.models.modules import AttentionConfig, LayerConfig, MlpConfig


@dataclasses.dataclass(frozen=True)
class LlamaConfig(LanguageConfig):
    """Shape of the model, with the names and defaults of transformers."""

    model_type: ClassVar[str] = "llama"
    architecture: ClassVar[str] = "LlamaForCausalLM"

    hidden_act: str = "silu"
    mlp_bias: bool = False

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
