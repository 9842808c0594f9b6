"""Config fields that families share, with transformers' names, and the layers they describe."""

import dataclasses
from typing import ClassVar, Literal

from captax.models.config import ModelConfig, Roles
from captax.models.modules import AttentionConfig, LayerConfig, MlpConfig, NormConfig


@dataclasses.dataclass(frozen=True)
class StackConfig(ModelConfig):
    """A stack of transformer layers; `order` as in `LayerConfig`."""

    order: ClassVar[Literal["pre", "post"]] = "pre"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02

    def layer(self) -> LayerConfig:
        """The shape of its layers."""
        return LayerConfig(
            self.hidden_size,
            AttentionConfig(self.num_attention_heads),
            MlpConfig(self.intermediate_size, self.hidden_act),
            NormConfig(self.layer_norm_eps),
            order=self.order,
            std=self.initializer_range,
        )


@dataclasses.dataclass(frozen=True)
class TowerConfig(StackConfig):
    """A stack that has dropout only in attention, as CLIP's towers do."""

    layer_norm_eps: float = 1e-5
    attention_dropout: float = 0.0

    def layer(self) -> LayerConfig:
        layer = super().layer()
        attention = dataclasses.replace(layer.attention, dropout=self.attention_dropout)
        return dataclasses.replace(layer, attention=attention)


@dataclasses.dataclass(frozen=True)
class DroppingConfig(StackConfig):
    """A stack with BERT's two dropouts: on the output of each block, and in attention."""

    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1

    def layer(self) -> LayerConfig:
        layer = super().layer()
        attention = dataclasses.replace(layer.attention, dropout=self.attention_probs_dropout_prob)
        return dataclasses.replace(layer, attention=attention, dropout=self.hidden_dropout_prob)


@dataclasses.dataclass(frozen=True)
class BertLikeConfig(DroppingConfig):
    """A stack over word and position embeddings, whose layers are post-norm as in BERT."""

    order: ClassVar[Literal["pre", "post"]] = "post"

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = 0

    def roles(self) -> Roles:
        return Roles(self.bos_token_id, self.eos_token_id, self.pad_token_id)


@dataclasses.dataclass(frozen=True)
class PatchConfig(StackConfig):
    """A stack over the square patches of a picture."""

    image_size: int | tuple[int, int] = 224
    patch_size: int = 16

    @property
    def picture(self) -> tuple[int, int]:
        """Height and width of the pictures that the model was made for."""
        side = self.image_size
        return side if isinstance(side, tuple) else (side, side)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of such a picture."""
        return self.picture[0] // self.patch_size, self.picture[1] // self.patch_size
