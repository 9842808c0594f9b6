"""PaliGemma 1 and 2: SigLIP's tower, a linear layer, and Gemma or Gemma 2.

Beyer et al., *PaliGemma: A versatile 3B VLM for transfer* (https://arxiv.org/abs/2407.07726);
Steiner et al., *PaliGemma 2: A Family of Versatile VLMs for Transfer*
(https://arxiv.org/abs/2412.03555). The model computes what transformers'
`PaliGemmaForConditionalGeneration` computes. Picture and prompt see each other.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from flax import nnx

from captax.errors import quoted
from captax.models.config import ConfigError
from captax.models.connectors import LinearConnector
from captax.models.decoders import Together
from captax.models.gemma import GemmaConfig
from captax.models.gemma2 import Gemma2Config
from captax.models.language import LanguageConfig
from captax.models.layout import Rule, linear
from captax.models.siglip import SiglipVisionConfig
from captax.models.vision_language import VisionLanguageConfig

VISION = SiglipVisionConfig(
    hidden_size=1152,
    intermediate_size=4096,
    num_hidden_layers=27,
    num_attention_heads=16,
    patch_size=14,
    vision_use_head=False,
)
TEXT = GemmaConfig(
    hidden_size=2048,
    intermediate_size=16_384,
    num_hidden_layers=18,
    num_attention_heads=8,
    num_key_value_heads=1,
    vocab_size=257_152,
)


@dataclasses.dataclass(frozen=True)
class PaliGemmaConfig(VisionLanguageConfig):
    """Shape of all parts, with the names and defaults of transformers."""

    model_type: ClassVar[str] = "paligemma"
    architecture: ClassVar[str] = "PaliGemmaForConditionalGeneration"
    languages: ClassVar[tuple[type[LanguageConfig], ...]] = (GemmaConfig, Gemma2Config)
    together: ClassVar[Together] = "prompt"
    picture_key: ClassVar[str] = "image_token_index"

    vision_config: SiglipVisionConfig = VISION
    text_config: LanguageConfig = TEXT
    image_token_id: int = 256_000
    projection_dim: int = 2048
    tie_word_embeddings: bool = True

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> "PaliGemmaConfig":
        described = super().read(config, tensors)
        width = described.text_config.hidden_size
        if described.projection_dim != width:
            raise ConfigError(
                f"paligemma: projection_dim={described.projection_dim} must be the language "
                f"model's hidden_size, {width}"
            )
        return described

    @classmethod
    def read_text(cls, config: Mapping[str, Any]) -> LanguageConfig:
        said = dict(config)
        # None or true: that picture and prompt see each other, which is what the model does.
        if said.pop("use_bidirectional_attention", None) not in (None, True):
            raise ConfigError(
                "paligemma: text_config.use_bidirectional_attention="
                f"{quoted(config['use_bidirectional_attention'])} is not supported; it must be "
                f"{quoted(True)}"
            )
        return super().read_text(said)

    def connector(self, *, rngs: nnx.Rngs | None) -> LinearConnector:
        widths = self.vision_config.hidden_size, self.projection_dim
        return LinearConnector(*widths, rngs=rngs, std=self.text_config.initializer_range)

    def connector_rules(self) -> tuple[Rule, ...]:
        return linear("linear", "proj")
