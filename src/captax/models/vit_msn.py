"""ViT-MSN, a vision transformer that learned from pictures with hidden patches.

Assran et al., *Masked Siamese Networks for Label-Efficient Learning*
(https://arxiv.org/abs/2204.07141). The model computes what transformers' `ViTMSNModel` computes.
"""

import dataclasses
from typing import ClassVar

from captax.models.vit import ViTConfig


@dataclasses.dataclass(frozen=True)
class ViTMSNConfig(ViTConfig):
    """A ViT with another epsilon in its norms and without a pooler."""

    model_type: ClassVar[str] = "vit_msn"
    class_name: ClassVar[str] = "ViTMSN"

    layer_norm_eps: float = 1e-6

    def as_encoder(self) -> "ViTMSNConfig":
        return dataclasses.replace(self, labels=())
