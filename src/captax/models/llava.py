"""LLaVA 1.5 and what is built like it, such as JoyCaption: a tower, an MLP and Llama.

Liu et al., *Improved Baselines with Visual Instruction Tuning* (https://arxiv.org/abs/2310.03744).
The model computes what transformers' `LlavaForConditionalGeneration` computes. It reads the output
of one of the tower's last layers.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float

from captax.errors import quoted
from captax.models.clip import ClipVisionConfig
from captax.models.config import ConfigError
from captax.models.connectors import MlpConnector
from captax.models.encoders import Features
from captax.models.language import LanguageConfig
from captax.models.layout import Rule, linear, table
from captax.models.llama import LlamaConfig
from captax.models.siglip import SiglipVisionConfig
from captax.models.two_towers import PictureTowerConfig
from captax.models.vision_language import VisionLanguageConfig, VisionLanguageModel

VISION = ClipVisionConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=336,
    patch_size=14,
    projection_dim=768,
)
TEXT = LlamaConfig()


@dataclasses.dataclass(frozen=True)
class LlavaConfig(VisionLanguageConfig):
    """Shape of all parts, with the names and defaults of transformers.

    `vision_feature_layer` counts layers from 0, which is before the first one; -1 is after the
    last. The strategy `default` leaves CLS out, and `full` keeps all tokens.
    """

    model_type: ClassVar[str] = "llava"
    architecture: ClassVar[str] = "LlavaForConditionalGeneration"
    languages: ClassVar[tuple[type[LanguageConfig], ...]] = (LlamaConfig,)
    towers: ClassVar[tuple[type[PictureTowerConfig], ...]] = (ClipVisionConfig, SiglipVisionConfig)
    picture_key: ClassVar[str] = "image_token_index"

    vision_config: PictureTowerConfig = VISION
    text_config: LanguageConfig = TEXT
    image_token_id: int = 32_000
    image_seq_length: int = 576
    projector_hidden_act: str = "gelu"
    vision_feature_select_strategy: str = "default"
    vision_feature_layer: int = -2
    multimodal_projector_bias: bool = True

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> "LlavaConfig":
        text = config.get("text_config")
        if not config.get("tie_word_embeddings") and isinstance(text, Mapping):
            # As in transformers, which also looks there.
            config = {**config, "tie_word_embeddings": bool(text.get("tie_word_embeddings"))}
        described = super().read(config, tensors)
        count, layer = described.vision_config.num_hidden_layers, described.vision_feature_layer
        if not -count - 1 <= layer <= count:
            raise ConfigError(
                f"llava: vision_feature_layer={layer} is not a layer of the tower; it must be "
                f"{-count - 1} to {count}"
            )
        strategies = ("default", "full") if described.has_cls else ("full",)
        if described.vision_feature_select_strategy not in strategies:
            raise ConfigError(
                "llava: vision_feature_select_strategy="
                f"{quoted(described.vision_feature_select_strategy)} is not supported with "
                f"{described.vision_config.model_type}; it must be {' or '.join(strategies)}"
            )
        return described

    @property
    def drops_cls(self) -> bool:
        """Whether the language model is not shown CLS."""
        return self.vision_feature_select_strategy == "default"

    @property
    def has_cls(self) -> bool:
        """Whether the tower has CLS."""
        return isinstance(self.vision_config, ClipVisionConfig)

    @property
    def places(self) -> int:
        return super().places + (self.has_cls and not self.drops_cls)

    @property
    def kind(self) -> "type[Llava]":
        return Llava

    def connector(self, *, rngs: nnx.Rngs | None) -> MlpConnector:
        return MlpConnector(
            self.vision_config.hidden_size,
            self.text_config.hidden_size,
            rngs=rngs,
            lead=not self.drops_cls,
            activation=self.projector_hidden_act,
            bias=self.multimodal_projector_bias,
            std=self.text_config.initializer_range,
        )

    def connector_rules(self) -> tuple[Rule, ...]:
        bias = self.multimodal_projector_bias
        return table(
            linear("linear_1", "first", bias=bias), linear("linear_2", "second", bias=bias)
        )


class Llava(VisionLanguageModel):
    """A language model that is shown what a tower has after one of its layers.

    The layers after it and the last norm are kept for checkpoints; nothing runs them.
    """

    def look(self, views: Float[Array, "batch height width 3"]) -> Features:
        count, layer = len(self.encoder.layers), self.config.vision_feature_layer
        wanted = layer if layer >= 0 else count + 1 + layer
        parts = self.encoder.parts()
        before = parts.index(self.encoder.layers[0])
        x = self.encoder.first_parts(views, before + wanted)
        return self.encoder.features(x, views.shape[1:3])
