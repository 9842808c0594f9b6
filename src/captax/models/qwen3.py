"""Qwen 3, the language model alone: Llama that normalises each head's queries and keys.

Yang et al., *Qwen3 Technical Report* (https://arxiv.org/abs/2505.09388). The model computes what
transformers' `Qwen3ForCausalLM` computes, without windows, which published checkpoints leave out.
"""

import dataclasses
from typing import Any, ClassVar

from captax.models.language import LanguageConfig, head_norms
from captax.models.layout import Rule, table
from captax.models.modules import LayerConfig


@dataclasses.dataclass(frozen=True)
class Qwen3Config(LanguageConfig):
    """Shape of the model, with the names and defaults of transformers."""

    model_type: ClassVar[str] = "qwen3"
    architecture: ClassVar[str] = "Qwen3ForCausalLM"
    fixed: ClassVar[dict[str, Any]] = {"use_sliding_window": False}

    vocab_size: int = 151_936
    intermediate_size: int = 22_016
    num_key_value_heads: int | None = 32
    head_dim: int | None = 128
    max_position_embeddings: int = 32_768
    hidden_act: str = "silu"
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None

    @property
    def activation(self) -> str:
        return self.hidden_act

    def layer_of(self, index: int) -> LayerConfig:
        layer = super().layer_of(index)
        attention = dataclasses.replace(layer.attention, norm=self.norm)
        return dataclasses.replace(layer, attention=attention)

    def rules(self) -> tuple[Rule, ...]:
        return table(super().rules(), head_norms())
