"""Swin Transformer V2, bare and as a classifier, with windows of several kinds."""

from typing import Any

from captax.models.observing import observe
from golden.case import Case, Inputs, Outputs, pixels, random_pixels

# Windows of 4 x 4 in grids of 12 x 12, 6 x 6 and 3 x 3: moved ones, padded ones, and one smaller.
SMALL = {
    "image_size": 48,
    "embed_dim": 8,
    "depths": [2, 2, 1],
    "num_heads": [1, 2, 4],
    "window_size": 4,
    "pretrained_window_sizes": [0, 0, 0],
    "drop_path_rate": 0.0,
}


def _swinv2(full: bool) -> Any:
    from transformers import Swinv2Config, Swinv2Model

    return Swinv2Model(Swinv2Config(**({} if full else SMALL)), add_pooling_layer=False)


def _classifier(full: bool) -> Any:
    from transformers import Swinv2Config, Swinv2ForImageClassification

    labels = {i: f"thing {i}" for i in range(1000 if full else 7)}
    other = {"pretrained_window_sizes": [3, 3, 2], "qkv_bias": False, "hidden_act": "gelu_new"}
    config = Swinv2Config(**({} if full else SMALL | other), id2label=labels)
    return Swinv2ForImageClassification(config)


def _inputs(full: bool) -> Inputs:
    side = 224 if full else 48
    return {"pixel_values": random_pixels(2, 3, side, side)}


def _other_size(full: bool) -> Inputs:
    """Pictures that are no whole number of patches, and grids of odd sides."""
    height, width = (160, 288) if full else (41, 66)
    return {"pixel_values": random_pixels(2, 3, height, width)}


def _run(model: Any, inputs: Inputs) -> Outputs:
    features, seen = observe(model, pixels(inputs))
    return {"last_hidden_state": features.tokens, **seen}


def _classify(model: Any, inputs: Inputs) -> Outputs:
    logits, _ = observe(model.classify, pixels(inputs))
    return {"logits": logits}


def _ask(model: Any, tensors: dict[str, Any]) -> Any:
    return model(**tensors)


CASES = [
    Case("swinv2", _swinv2, _inputs, _run, _ask, loss="last_hidden_state"),
    Case("swinv2-other-size", _swinv2, _other_size, _run, _ask, loss="last_hidden_state"),
    Case("swinv2-classifier", _classifier, _inputs, _classify, _ask),
]
