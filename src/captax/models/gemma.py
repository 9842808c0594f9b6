"""Gemma: Llama's layers with another activation, scaled embeddings and norms of `1 + scale`.

Gemma Team, *Gemma: Open Models Based on Gemini Research and Technology*
(https://arxiv.org/abs/2403.08295). The model computes what transformers' `GemmaForCausalLM`
computes.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, TypeVar

from captax.models.language import LanguageConfig
from captax.models.modules import NormConfig

GemmaLike = TypeVar("GemmaLike", bound="GemmaLikeConfig")


@dataclasses.dataclass(frozen=True)
class GemmaLikeConfig(LanguageConfig):
    """What the Gemmas have in common."""

    fixed: ClassVar[dict[str, Any]] = {"use_bidirectional_attention": False}

    vocab_size: int = 256_000
    head_dim: int | None = 256
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 2
    eos_token_id: int | tuple[int, ...] | None = 1
    pad_token_id: int | None = 0

    @classmethod
    def read(
        cls: type[GemmaLike], config: Mapping[str, Any], tensors: Collection[str] = ()
    ) -> GemmaLike:
        said = dict(config)
        if said.get("use_bidirectional_attention") is None:  # which transformers takes for False
            said.pop("use_bidirectional_attention", None)
        return super().read(said, tensors)

    @property
    def norm(self) -> NormConfig:
        return NormConfig(self.rms_norm_eps, rms=True, offset=1.0)

    @property
    def embedding_scale(self) -> float:
        return self.hidden_size**0.5


@dataclasses.dataclass(frozen=True)
class GemmaConfig(GemmaLikeConfig):
    """Shape of the model, with the names and defaults of transformers."""

    model_type: ClassVar[str] = "gemma"
    architecture: ClassVar[str] = "GemmaForCausalLM"

    hidden_size: int = 3072
    intermediate_size: int = 24_576
    num_hidden_layers: int = 28
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 16
    hidden_act: str = "gelu_pytorch_tanh"

    @property
    def activation(self) -> str:
        # The first checkpoints say `gelu` and mean its approximation, as transformers knows too.
        return "gelu_pytorch_tanh" if self.hidden_act == "gelu" else self.hidden_act
