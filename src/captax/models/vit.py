"""The vision transformer, as the encoder of a captioner or as a classifier.

Dosovitskiy et al., *An Image is Worth 16x16 Words* (https://arxiv.org/abs/2010.11929). The model
computes what transformers' `ViTModel` and `ViTForImageClassification` compute. DeiT
(https://arxiv.org/abs/2012.12877) is the same with a second token before the patches.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float

from captax.models.config import labels_of_head, write_labels
from captax.models.encoders import Features, PatchEncoder
from captax.models.layout import Layout, Rule, conv2d, linear, norm, table
from captax.models.modules import LayerConfig, Linear
from captax.models.patches import PatchEmbedding
from captax.models.shapes import DroppingConfig, PatchConfig


@dataclasses.dataclass(frozen=True)
class ViTConfig(DroppingConfig, PatchConfig):
    """Shape of the model, with the names and defaults of transformers.

    With `labels` it is a classifier. With `pooler` it has the layer that transformers' bare models
    put on the CLS token; captax keeps its weights but never uses its output.
    """

    model_type: ClassVar[str] = "vit"
    fixed: ClassVar[dict[str, Any]] = {"num_channels": 3, "pooler_act": "tanh"}
    class_name: ClassVar[str] = "ViT"
    base_model_prefix: ClassVar[str] = "vit"
    lead: ClassVar[int] = 1

    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    qkv_bias: bool = True
    pooler_output_size: int | None = None
    pooler: bool = False
    labels: tuple[str, ...] = ()

    def as_encoder(self) -> "ViTConfig":
        # captax does not use the pooler, but transformers reports it as missing from an encoder.
        return dataclasses.replace(self, labels=(), pooler=True)

    def as_classifier(self, labels: tuple[str, ...]) -> "ViTConfig":
        return dataclasses.replace(self, labels=labels, pooler=False)

    def layer(self) -> LayerConfig:
        layer = super().layer()
        attention = dataclasses.replace(layer.attention, bias=self.qkv_bias)
        return dataclasses.replace(layer, attention=attention)

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> "ViTConfig":
        described = super().read(config, tensors)
        pooler = described.pooler or any(name.endswith("pooler.dense.weight") for name in tensors)
        labels = labels_of_head(config, tensors)
        return dataclasses.replace(described, labels=labels, pooler=pooler)

    def write(self) -> dict[str, Any]:
        config = super().write()
        kind = "ForImageClassification" if config.pop("labels") else "Model"
        config["architectures"] = [self.class_name + kind]
        return config | (write_labels(self.labels) if self.labels else {})

    def layout(self) -> Layout:
        # A classifier's checkpoint puts the bare model under the name of its family.
        prefix = f"{self.base_model_prefix}." if self.labels else ""

        def canonical(name: str) -> str | None:
            if "classifier." in name:
                return name
            # Pretraining put the mask token in the place of hidden patches; it is not needed later.
            name = name.removeprefix("vit.").removeprefix("deit.")
            return None if name == "embeddings.mask_token" else prefix + name

        head = table(linear("classifier", "classifier")) if self.labels else ()
        return Layout(head + Layout(RULES).within(prefix, "").rules, canonical)

    def build(self, *, rngs: nnx.Rngs | None = None) -> "ViT":
        return ViT(self, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class DeiTConfig(ViTConfig):
    """A ViT with a second token before the patches, trained on another network's predictions."""

    model_type: ClassVar[str] = "deit"
    class_name: ClassVar[str] = "DeiT"
    base_model_prefix: ClassVar[str] = "deit"
    lead: ClassVar[int] = 2


class ViT(PatchEncoder):
    """Turns a picture into CLS and a grid of visual tokens; with labels it also classifies."""

    config: ViTConfig

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs | None):
        width, std = config.hidden_size, config.initializer_range
        embeddings = PatchEmbedding(
            width,
            config.patch_size,
            config.grid,
            rngs=rngs,
            distilled=config.lead == 2,
            dropout=config.hidden_dropout_prob,
            std=std,
        )
        super().__init__(config, embeddings, rngs=rngs)
        if config.pooler:
            self.pooler = Linear(width, config.pooler_output_size or width, rngs=rngs, std=std)
        if config.labels:
            self.classifier = Linear(width, len(config.labels), rngs=rngs, std=std)

    def label(self, features: Features) -> Float[Array, "batch labels"]:
        """Logits of the labels, from the CLS token."""
        return self.classifier(features.tokens[:, 0])


RULES = table(
    Rule("embeddings.cls_token", ("embeddings.cls_token",), lead=2),
    Rule("embeddings.distillation_token", ("embeddings.distillation_token",), lead=2),
    Rule("embeddings.position_embeddings", ("embeddings.positions",), lead=1),
    conv2d("embeddings.patch_embeddings.projection", "embeddings"),
    norm("encoder.layer.{}.layernorm_before", "layers.{}.self_norm"),
    linear("encoder.layer.{}.attention.attention.query", "layers.{}.self_attention.query"),
    linear("encoder.layer.{}.attention.attention.key", "layers.{}.self_attention.key"),
    linear("encoder.layer.{}.attention.attention.value", "layers.{}.self_attention.value"),
    linear("encoder.layer.{}.attention.output.dense", "layers.{}.self_attention.out"),
    norm("encoder.layer.{}.layernorm_after", "layers.{}.mlp_norm"),
    linear("encoder.layer.{}.intermediate.dense", "layers.{}.mlp.up"),
    linear("encoder.layer.{}.output.dense", "layers.{}.mlp.down"),
    norm("layernorm", "norm"),
    linear("pooler.dense", "pooler"),
)
