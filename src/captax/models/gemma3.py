"""Gemma 3, the language model alone: Gemma 2 with other windows, angles and norms.

Gemma Team, *Gemma 3 Technical Report* (https://arxiv.org/abs/2503.19786). The model computes what
transformers' `Gemma3ForCausalLM` computes. Five of six layers see a window only and have angles of
their own; queries and keys are normalised, and scores have no limit.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from captax.models.gemma2 import GLOBAL, LOCAL, Gemma2Config
from captax.models.language import head_norms, rotary
from captax.models.layout import Rule, table
from captax.models.modules import LayerConfig
from captax.models.rotary import Rotary


@dataclasses.dataclass(frozen=True)
class Gemma3TextConfig(Gemma2Config):
    """Shape of the model, with the names and defaults of transformers."""

    model_type: ClassVar[str] = "gemma3_text"
    architecture: ClassVar[str] = "Gemma3ForCausalLM"
    fixed: ClassVar[dict[str, Any]] = {**Gemma2Config.fixed, "attn_logit_softcapping": None}

    vocab_size: int = 262_208
    max_position_embeddings: int = 131_072
    rope_theta: float = 1_000_000.0
    rope_local_base_freq: float = 10_000.0
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> "Gemma3TextConfig":
        ropes = config.get("rope_parameters")
        if isinstance(ropes, Mapping):
            local = ropes.get(LOCAL)
            config = {**config, "rope_parameters": ropes.get(GLOBAL)}
            if isinstance(local, Mapping) and "rope_theta" in local:
                config["rope_local_base_freq"] = local["rope_theta"]
        return super().read(config, tensors)

    @classmethod
    def global_every(cls, config: Mapping[str, Any]) -> int:
        every = config.get("sliding_window_pattern", config.get("_sliding_window_pattern", 6))
        return every if type(every) is int and every > 0 else 6

    def write(self) -> dict[str, Any]:
        said = super().write()
        local = {"rope_type": "default", "rope_theta": said.pop("rope_local_base_freq")}
        return {**said, "rope_parameters": {LOCAL: local, GLOBAL: said["rope_parameters"]}}

    def rotary_of(self, index: int) -> Rotary:
        if self.is_local(index):
            return rotary(self.head, self.rope_local_base_freq, None)
        return super().rotary_of(index)

    def layer_of(self, index: int) -> LayerConfig:
        layer = super().layer_of(index)
        attention = dataclasses.replace(layer.attention, norm=self.norm)
        return dataclasses.replace(layer, attention=attention)

    def rules(self) -> tuple[Rule, ...]:
        return table(super().rules(), head_norms())
