"""Qwen 2 and 2.5, the language models alone: Llama with biases in three projections of attention.

Yang et al., *Qwen2 Technical Report* (https://arxiv.org/abs/2407.10671). The model computes what
transformers' `Qwen2ForCausalLM` computes, without windows, which published checkpoints leave out.
"""

import dataclasses
from typing import Any, ClassVar

from captax.models.language import LanguageConfig
from captax.models.modules import LayerConfig


@dataclasses.dataclass(frozen=True)
class Qwen2Config(LanguageConfig):
    """Shape of the model, with the names and defaults of transformers."""

    model_type: ClassVar[str] = "qwen2"
    architecture: ClassVar[str] = "Qwen2ForCausalLM"
    fixed: ClassVar[dict[str, Any]] = {"use_sliding_window": False}

    vocab_size: int = 151_936
    intermediate_size: int = 22_016
    num_key_value_heads: int | None = 32
    max_position_embeddings: int = 32_768
    hidden_act: str = "silu"
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None

    def write(self) -> dict[str, Any]:
        said = super().write()
        if self.head_dim is None:
            del said["head_dim"]  # transformers takes no null here
        return said

    @property
    def activation(self) -> str:
        return self.hidden_act

    def layer_of(self, index: int) -> LayerConfig:
        layer = super().layer_of(index)
        attention = dataclasses.replace(layer.attention, bias=True, out_bias=False)
        return dataclasses.replace(layer, attention=attention)
