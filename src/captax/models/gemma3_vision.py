"""Gemma 3 that sees pictures: SigLIP's tower, the mean of squares of its cells, and Gemma 3.

Gemma Team, *Gemma 3 Technical Report* (https://arxiv.org/abs/2503.19786). The model computes what
transformers' `Gemma3ForConditionalGeneration` computes. The places of a picture see each other.
Pictures are not cut in crops ("pan and scan"), which checkpoints leave out by default.
"""

import dataclasses
from typing import ClassVar

from flax import nnx

from captax.models.connectors import PoolConnector
from captax.models.decoders import Together
from captax.models.gemma3 import Gemma3TextConfig
from captax.models.language import LanguageConfig, scale
from captax.models.layout import Rule, table
from captax.models.modules import NormConfig
from captax.models.siglip import SiglipVisionConfig
from captax.models.vision_language import VisionLanguageConfig

VISION, TEXT = SiglipVisionConfig(vision_use_head=False), Gemma3TextConfig()


@dataclasses.dataclass(frozen=True)
class Gemma3Config(VisionLanguageConfig):
    """Shape of all parts, with the names and defaults of transformers."""

    model_type: ClassVar[str] = "gemma3"
    architecture: ClassVar[str] = "Gemma3ForConditionalGeneration"
    languages: ClassVar[tuple[type[LanguageConfig], ...]] = (Gemma3TextConfig,)
    together: ClassVar[Together] = "pictures"
    several: ClassVar[bool] = True
    picture_key: ClassVar[str] = "image_token_index"

    vision_config: SiglipVisionConfig = VISION
    text_config: LanguageConfig = TEXT
    image_token_id: int = 262_144
    boi_token_index: int = 255_999
    eoi_token_index: int = 256_000
    mm_tokens_per_image: int = 256
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True

    def connector(self, *, rngs: nnx.Rngs | None) -> PoolConnector:
        return PoolConnector(
            self.vision_config.hidden_size,
            self.text_config.hidden_size,
            self.mm_tokens_per_image,
            NormConfig(self.vision_config.layer_norm_eps, rms=True, offset=1.0),
            rngs=rngs,
            std=self.initializer_range,
        )

    def connector_rules(self) -> tuple[Rule, ...]:
        return table(
            Rule("mm_input_projection_weight", ("proj.kernel",), axes=(1, 0)),
            scale("mm_soft_emb_norm", "norm"),
        )
