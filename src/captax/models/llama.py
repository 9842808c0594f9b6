"""Llama, and the models that have its layers, such as SmolLM2.

Touvron et al., *LLaMA: Open and Efficient Foundation Language Models*
(https://arxiv.org/abs/2302.13971). The model computes what transformers' `LlamaForCausalLM`
computes.
"""

import dataclasses
from typing import ClassVar

from captax.models.language import LanguageConfig
from captax.models.modules import LayerConfig


@dataclasses.dataclass(frozen=True)
class LlamaConfig(LanguageConfig):
    """Shape of the model, with the names and defaults of transformers."""

    model_type: ClassVar[str] = "llama"
    architecture: ClassVar[str] = "LlamaForCausalLM"

    hidden_act: str = "silu"
    mlp_bias: bool = False

    @property
    def activation(self) -> str:
        return self.hidden_act

    def layer_of(self, index: int) -> LayerConfig:
        layer = super().layer_of(index)
        return dataclasses.replace(layer, mlp=dataclasses.replace(layer.mlp, bias=self.mlp_bias))
