"""Qwen3-VL: a tower whose earlier layers also speak to the first layers of Qwen 3.

Bai et al., *Qwen3-VL Technical Report* (https://arxiv.org/abs/2511.21631). The model computes what
transformers' `Qwen3VLForConditionalGeneration` computes. What earlier layers of
the tower say is added in the first layers of the language model at the picture's places (DeepStack,
https://arxiv.org/abs/2406.04334).
"""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from captax.errors import quoted
from captax.models.arithmetic import look_up
from captax.models.config import ConfigError, ModelConfig
from captax.models.language import LanguageConfig
from captax.models.layout import Rule, linear, norm, table
from captax.models.modules import parameter
from captax.models.qwen3 import Qwen3Config
from captax.models.qwen_vl import QwenTower, QwenVisionConfig, QwenVLConfig, SectionedConfig
from captax.models.rotary import Rotary


@dataclasses.dataclass(frozen=True)
class Qwen3VLVisionConfig(QwenVisionConfig):
    """Shape of the tower, with the names and defaults of transformers."""

    model_type: ClassVar[str] = "qwen3_vl_vision"

    num_position_embeddings: int = 2304
    deepstack_visual_indexes: tuple[int, ...] = (8, 16, 24)

    @property
    def levels(self) -> tuple[int, ...]:
        return self.deepstack_visual_indexes

    def rules(self) -> tuple[Rule, ...]:
        return table(
            Rule("pos_embed.weight", ("positions",)),
            norm("blocks.{}.norm1", "layers.{}.self_norm"),
            norm("blocks.{}.norm2", "layers.{}.mlp_norm"),
            linear("blocks.{}.mlp.linear_fc1", "layers.{}.mlp.up"),
            linear("blocks.{}.mlp.linear_fc2", "layers.{}.mlp.down"),
        )

    def build(self, *, rngs: nnx.Rngs | None = None) -> "Qwen3VLTower":
        return Qwen3VLTower(self, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class Qwen3VLTextConfig(SectionedConfig, Qwen3Config):
    """Shape of the language model, whose sections of positions take turns."""

    model_type: ClassVar[str] = "qwen3_vl_text"
    interleaved: ClassVar[bool] = True

    max_position_embeddings: int = 128_000
    rope_theta: float = 500_000.0
    mrope_section: tuple[int, int, int] = (24, 20, 20)

    def rotary_of(self, index: int) -> Rotary:
        return dataclasses.replace(super().rotary_of(index), axes=self.axes)


TEXT = Qwen3VLTextConfig()


@dataclasses.dataclass(frozen=True)
class Qwen3VLConfig(QwenVLConfig):
    """Shape of all parts, with the names and defaults of transformers."""

    model_type: ClassVar[str] = "qwen3_vl"
    architecture: ClassVar[str] = "Qwen3VLForConditionalGeneration"
    languages: ClassVar[tuple[type[LanguageConfig], ...]] = (Qwen3VLTextConfig,)
    towers: ClassVar[tuple[type[ModelConfig], ...]] = (Qwen3VLVisionConfig,)

    vision_config: Qwen3VLVisionConfig = Qwen3VLVisionConfig()
    text_config: LanguageConfig = TEXT

    def check(self) -> None:
        super().check()
        learned = self.vision_config.num_position_embeddings
        if math.isqrt(learned) ** 2 != learned:
            raise ConfigError(
                f"vision_config.num_position_embeddings={quoted(learned)} must be a square"
            )

    def connector_rules(self) -> tuple[Rule, ...]:
        parts = (("merger", "last"), ("deepstack_merger_list.{}", "deep.{}"))
        return table(
            *(norm(f"{theirs}.norm", f"{ours}.norm") for theirs, ours in parts),
            *(linear(f"{theirs}.linear_fc1", f"{ours}.first") for theirs, ours in parts),
            *(linear(f"{theirs}.linear_fc2", f"{ours}.second") for theirs, ours in parts),
        )


class Qwen3VLTower(QwenTower):
    """A tower with a learned square grid of positions, which is stretched over every picture."""

    def __init__(self, config: Qwen3VLVisionConfig, *, rngs: nnx.Rngs | None):
        super().__init__(config, rngs=rngs)
        shape = (config.num_position_embeddings, config.hidden_size)
        self.positions = parameter(rngs, shape, std=config.initializer_range)

    def placed(
        self,
        x: Float[Array, "batch patches width"],
        grids: Int[Array, "batch 2"],
        row: Int[Array, "batch patches"],
        column: Int[Array, "batch patches"],
    ) -> Float[Array, "batch patches width"]:
        side = math.isqrt(self.config.num_position_embeddings)
        down = _between(row, grids[:, :1], side)
        across = _between(column, grids[:, 1:], side)
        learned = self.positions[...]
        # Shares of narrow weights add up in float32, as transformers adds them.
        found = [
            (share * part)[..., None] * look_up(learned, row * side + column).astype(jnp.float32)
            for row, share in down
            for column, part in across
        ]
        return x + sum(found, jnp.zeros_like(found[0])).astype(x.dtype)


def _between(
    index: Int[Array, "batch patches"], count: Int[Array, "batch 1"], side: int
) -> list[tuple[Int[Array, "batch patches"], Float[Array, "batch patches"]]]:
    """The two cells of a learned side between which each of `count` cells lies, and their shares.

    The first cells of both lie at the same place, and so do the last.
    """
    place = index.astype(jnp.float32) * (side - 1) / jnp.maximum(count - 1, 1)
    first = jnp.floor(place)
    cells = (first, first + 1)
    return [
        (jnp.clip(cell, 0, side - 1).astype(jnp.int32), jnp.maximum(1 - jnp.abs(place - cell), 0))
        for cell in cells
    ]
