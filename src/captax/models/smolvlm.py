"""SmolVLM and Idefics3: SigLIP's tower, pixel shuffle, and Llama, which reads tiles of a picture.

Marafioti et al., *SmolVLM: Redefining small and efficient multimodal models*
(https://arxiv.org/abs/2504.05299); Laurençon et al., *Building and better understanding
vision-language models* (https://arxiv.org/abs/2408.12637). The models compute what transformers'
`SmolVLMForConditionalGeneration` and `Idefics3ForConditionalGeneration` compute, which differ in
nothing but their names.
"""

import dataclasses
from typing import ClassVar

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from captax.models.connectors import ShuffleConnector
from captax.models.language import LanguageConfig
from captax.models.layout import Layout, join, linear
from captax.models.llama import LlamaConfig
from captax.models.patches import PatchEmbedding
from captax.models.siglip import SiglipTower, SiglipTowerConfig
from captax.models.vision_language import VisionLanguageConfig, language_layout

TEXT = LlamaConfig(rms_norm_eps=1e-5)


@dataclasses.dataclass(frozen=True)
class Idefics3VisionConfig(SiglipTowerConfig):
    """SigLIP's tower without a head, and with other positions."""

    model_type: ClassVar[str] = "idefics3_vision"
    architecture: ClassVar[str] = "Idefics3VisionTransformer"

    hidden_size: int = 1152
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 32

    def build(self, *, rngs: nnx.Rngs | None = None) -> "Idefics3Vision":
        return Idefics3Vision(self, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class SmolVLMVisionConfig(Idefics3VisionConfig):
    """The same under another name."""

    model_type: ClassVar[str] = "smolvlm_vision"
    architecture: ClassVar[str] = "SmolVLMVisionTransformer"


@dataclasses.dataclass(frozen=True)
class Idefics3Config(VisionLanguageConfig):
    """Shape of all parts, with the names and defaults of transformers."""

    model_type: ClassVar[str] = "idefics3"
    architecture: ClassVar[str] = "Idefics3ForConditionalGeneration"
    languages: ClassVar[tuple[type[LanguageConfig], ...]] = (LlamaConfig,)
    several: ClassVar[bool] = True

    vision_config: Idefics3VisionConfig = Idefics3VisionConfig()
    text_config: LanguageConfig = TEXT
    image_token_id: int = 128_257
    scale_factor: int = 2

    def connector(self, *, rngs: nnx.Rngs | None) -> ShuffleConnector:
        widths = self.vision_config.hidden_size, self.text_config.hidden_size
        std = self.text_config.initializer_range
        return ShuffleConnector(*widths, self.scale_factor, rngs=rngs, std=std)

    def layout(self) -> Layout:
        proj = linear("model.connector.modality_projection.proj", "connector.proj", bias=False)
        parts = join(
            self.vision_config.layout().within("model.vision_model.", "encoder."),
            Layout(proj),
            language_layout(self.text_config, "model.text_model.", "lm_head."),
        )

        def canonical(name: str) -> str | None:
            # A checkpoint of the model without its output layer has no prefix.
            whole = name.startswith(("model.", "lm_head."))
            return parts.canonical(name if whole else f"model.{name}")

        return Layout(parts.rules, canonical)


@dataclasses.dataclass(frozen=True)
class SmolVLMConfig(Idefics3Config):
    """The same under another name."""

    model_type: ClassVar[str] = "smolvlm"
    architecture: ClassVar[str] = "SmolVLMForConditionalGeneration"

    vision_config: SmolVLMVisionConfig = SmolVLMVisionConfig()


class BucketedPatches(PatchEmbedding):
    """Patches whose positions are those of the learned grid at the same fraction of a side."""

    def placed(self, grid: tuple[int, int]) -> Float[Array, "places width"]:
        """The position embedding of every cell of `grid`."""
        rows, columns = (buckets(new, old) for new, old in zip(grid, self.grid, strict=True))
        places = rows[:, None] * self.grid[1] + columns[None]
        return self.positions[...][places.reshape(-1)]


class Idefics3Vision(SiglipTower):
    """Turns views of a picture into grids of visual tokens."""

    patches: ClassVar[type[PatchEmbedding]] = BucketedPatches


def buckets(new: int, old: int) -> Int[np.ndarray, " new"]:
    """For each of `new` cells along a side, which of `old` cells lies at the same fraction of it.

    For tiles, whose sides have as many cells as were learned, these are 0, 1, 2, ... in exact
    arithmetic. transformers computes in float32, so that for some sizes a cell falls below its
    boundary (for the first time with 19 cells; never with the 26, 27 or 32 of checkpoints). This
    does as transformers does on a CPU.
    """
    fractions = np.arange(new, dtype=np.float32) * (np.float32(1) / np.float32(new))
    fractions = np.minimum(fractions, np.float32(1 - 1e-6))
    return np.searchsorted(_boundaries(old), fractions, side="right")


def _boundaries(count: int) -> Float[np.ndarray, " boundaries"]:
    """`torch.arange(1 / count, 1.0, 1 / count)`, to the last digit.

    It computes blocks of 8 from a first value that is rounded, but only pairs of blocks.
    """
    step = 1 / count
    exact = step + step * np.arange(int(np.ceil((1 - step) / step)))
    paired = len(exact) // 16 * 16
    blocks = exact[:paired:8].astype(np.float32).astype(np.float64)
    exact[:paired] = (blocks[:, None] + step * np.arange(8)).reshape(-1)
    return exact.astype(np.float32)
