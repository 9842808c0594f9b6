"""Qwen2.5-VL: a tower whose layers mostly see windows of a picture, and Qwen 2.

Bai et al., *Qwen2.5-VL Technical Report* (https://arxiv.org/abs/2502.13923). The model computes
what transformers' `Qwen2_5_VLForConditionalGeneration` computes.
"""

import dataclasses
from typing import ClassVar

from flax import nnx
from jaxtyping import Array, Bool, Int

from captax.models.config import ConfigError, ModelConfig
from captax.models.language import LanguageConfig, scale
from captax.models.layout import Rule, linear, table
from captax.models.modules import NormConfig
from captax.models.qwen2 import Qwen2Config
from captax.models.qwen_vl import QwenTower, QwenVisionConfig, QwenVLConfig, SectionedConfig
from captax.models.rotary import Rotary


@dataclasses.dataclass(frozen=True)
class Qwen2_5_VLVisionConfig(QwenVisionConfig):
    """Shape of the tower, with the names and defaults of transformers.

    Windows have sides of `window_size` pixels. The layers `fullatt_block_indexes` see all.
    """

    model_type: ClassVar[str] = "qwen2_5_vl_vision"
    patch_bias: ClassVar[bool] = False
    norm: ClassVar[NormConfig] = NormConfig(1e-6, rms=True)
    gated: ClassVar[bool] = True

    depth: int = 32
    hidden_size: int = 3584
    hidden_act: str = "silu"
    intermediate_size: int = 3420
    patch_size: int = 14
    tokens_per_second: int = 4
    window_size: int = 112
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)

    def rules(self) -> tuple[Rule, ...]:
        return table(
            scale("blocks.{}.norm1", "layers.{}.self_norm"),
            scale("blocks.{}.norm2", "layers.{}.mlp_norm"),
            *(
                linear(f"blocks.{{}}.mlp.{name}_proj", f"layers.{{}}.mlp.{name}")
                for name in ("gate", "up", "down")
            ),
        )

    def build(self, *, rngs: nnx.Rngs | None = None) -> "Qwen2_5_VLTower":
        return Qwen2_5_VLTower(self, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class Qwen2_5_VLTextConfig(SectionedConfig, Qwen2Config):
    """Shape of the language model, whose sections of positions follow each other."""

    model_type: ClassVar[str] = "qwen2_5_vl_text"

    vocab_size: int = 152_064
    hidden_size: int = 8192
    intermediate_size: int = 29_568
    num_hidden_layers: int = 80
    num_attention_heads: int = 64
    num_key_value_heads: int | None = 8
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1_000_000.0
    bos_token_id: int | None = 151_643
    eos_token_id: int | tuple[int, ...] | None = 151_645

    def rotary_of(self, index: int) -> Rotary:
        return dataclasses.replace(super().rotary_of(index), axes=self.axes)


TEXT = Qwen2_5_VLTextConfig()


@dataclasses.dataclass(frozen=True)
class Qwen2_5_VLConfig(QwenVLConfig):
    """Shape of all parts, with the names and defaults of transformers."""

    model_type: ClassVar[str] = "qwen2_5_vl"
    architecture: ClassVar[str] = "Qwen2_5_VLForConditionalGeneration"
    languages: ClassVar[tuple[type[LanguageConfig], ...]] = (Qwen2_5_VLTextConfig,)
    prefixes: ClassVar[tuple[str, str]] = ("visual.", "model.")
    towers: ClassVar[tuple[type[ModelConfig], ...]] = (Qwen2_5_VLVisionConfig,)

    vision_config: Qwen2_5_VLVisionConfig = Qwen2_5_VLVisionConfig()
    text_config: LanguageConfig = TEXT

    def check(self) -> None:
        super().check()
        if self.vision_config.window_size < self.side:
            raise ConfigError(
                f"vision_config.window_size={self.vision_config.window_size} must be at least the "
                f"{self.side} pixels of a token's side"
            )

    def connector_rules(self) -> tuple[Rule, ...]:
        return table(
            scale("merger.ln_q", "last.norm"),
            linear("merger.mlp.0", "last.first"),
            linear("merger.mlp.2", "last.second"),
        )


class Qwen2_5_VLTower(QwenTower):
    """A tower most of whose layers see windows."""

    def seen(
        self,
        index: int,
        row: Int[Array, "batch patches"],
        column: Int[Array, "batch patches"],
        real: Bool[Array, "batch patches"] | None,
    ) -> Bool[Array, "batch _ patches"] | None:
        config = self.config
        mask = super().seen(index, row, column, real)
        if index in config.fullatt_block_indexes:
            return mask
        merge = config.spatial_merge_size
        side = config.window_size // merge // config.patch_size * merge
        down, across = row // side, column // side
        near = (down[:, :, None] == down[:, None]) & (across[:, :, None] == across[:, None])
        return near if mask is None else near & mask
