"""ResNet, bare and as a classifier, with either kind of block."""

from typing import Any

from captax.models.observing import observe
from golden.case import Case, Inputs, Outputs, pixels, random_pixels

SMALL = {"embedding_size": 6, "hidden_sizes": [8, 16, 24], "depths": [1, 2, 1]}
BASIC = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}


def _resnet(full: bool) -> Any:
    from transformers import ResNetConfig, ResNetModel

    return _calm(ResNetModel(ResNetConfig(**({} if full else SMALL))), full)


def _classifier(full: bool) -> Any:
    """It halves the picture where the others do not."""
    from transformers import ResNetConfig, ResNetForImageClassification

    labels = {i: f"thing {i}" for i in range(1000 if full else 7)}
    other = {"downsample_in_first_stage": True, "downsample_in_bottleneck": True}
    config = ResNetConfig(**({} if full else SMALL | other), id2label=labels)
    return _calm(ResNetForImageClassification(config), full)


def _basic(full: bool) -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = BASIC if full else SMALL | {"layer_type": "basic", "hidden_act": "gelu"}
    return _calm(ResNetForImageClassification(ResNetConfig(**sizes, num_labels=3)), full)


def _calm(model: Any, full: bool) -> Any:
    """Weights are made five times as large in small models, which here are large enough."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and not full:
            parameter.data /= 5
    return model


def _inputs(full: bool) -> Inputs:
    height, width = (224, 224) if full else (44, 61)  # odd sizes at every stage
    return {"pixel_values": random_pixels(2, 3, height, width)}


def ask_states(model: Any, tensors: dict[str, Any]) -> Any:
    """What transformers' model computes, with its hidden states."""
    return model(**tensors, output_hidden_states=True)  # it has no attentions to give


def run_channels_first(model: Any, inputs: Inputs) -> Outputs:
    """What a bare encoder computes, as transformers lays out grids."""
    features, seen = observe(model, pixels(inputs))
    batch, _, width = features.tokens.shape
    tokens = features.tokens.reshape(batch, *features.grid, width)
    return {"last_hidden_state": tokens.transpose(0, 3, 1, 2), **_channels_first(seen)}


def run_classifier_channels_first(model: Any, inputs: Inputs) -> Outputs:
    """What a classifier computes, as transformers lays out grids."""
    logits, seen = observe(model.classify, pixels(inputs))
    return {"logits": logits, **_channels_first(seen)}


def _channels_first(seen: Outputs) -> Outputs:
    return {"hidden_states": [x.transpose(0, 3, 1, 2) for x in seen["hidden_states"]]}


CASES = [
    Case("resnet", _resnet, _inputs, run_channels_first, ask_states, loss="last_hidden_state"),
    Case("resnet-classifier", _classifier, _inputs, run_classifier_channels_first, ask_states),
    Case("resnet-basic", _basic, _inputs, run_classifier_channels_first, ask_states),
]
