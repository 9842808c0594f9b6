"""ViT and DeiT, bare and as classifiers."""

from typing import Any

from captax.models.observing import observe
from golden.case import Case, Inputs, Outputs, pixels, random_pixels

SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
}


def _vit(full: bool) -> Any:
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(**({} if full else SMALL)))


def _vit_classifier(full: bool) -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    labels = {i: f"thing {i}" for i in range(1000 if full else 7)}
    config = ViTConfig(**({} if full else SMALL), id2label=labels)
    return ViTForImageClassification(config)


def _deit(full: bool) -> Any:
    from transformers import DeiTConfig, DeiTForImageClassification

    return DeiTForImageClassification(DeiTConfig(**({} if full else SMALL), num_labels=3))


def _vit_large(full: bool) -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    config = ViTConfig(**large, intermediate_size=4096, image_size=384, num_labels=1000)
    return ViTForImageClassification(config)


def _large_inputs(full: bool) -> Inputs:
    return {"pixel_values": random_pixels(1, 3, 384, 384)}


def vit_inputs(full: bool) -> Inputs:
    """Pictures of the size that the model was made for."""
    side = 224 if full else 32
    return {"pixel_values": random_pixels(2, 3, side, side)}


def _other_size(full: bool) -> Inputs:
    height, width = (320, 256) if full else (44, 24)  # columns and rows, more and fewer
    return {"pixel_values": random_pixels(2, 3, height, width)}


def _interpolated(model: Any, tensors: dict[str, Any]) -> Any:
    wanted = {"output_hidden_states": True, "output_attentions": True}
    return model(**tensors, **wanted, interpolate_pos_encoding=True)


def run_encoder(model: Any, inputs: Inputs) -> Outputs:
    """What a bare encoder computes."""
    features, seen = observe(model, pixels(inputs))
    return {"last_hidden_state": features.tokens, **seen}


def run_classifier(model: Any, inputs: Inputs) -> Outputs:
    """What a classifier computes."""
    logits, seen = observe(model.classify, pixels(inputs))
    return {"logits": logits, **seen}


CASES = [
    Case("vit", _vit, vit_inputs, run_encoder, loss="last_hidden_state"),
    Case("vit-other-size", _vit, _other_size, run_encoder, _interpolated, loss="last_hidden_state"),
    Case("vit-classifier", _vit_classifier, vit_inputs, run_classifier),
    Case("vit-large-384", _vit_large, _large_inputs, run_classifier, large=True),
    Case("deit-classifier", _deit, vit_inputs, run_classifier),
]
