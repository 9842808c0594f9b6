"""ConvNeXt, bare and as a classifier."""

from typing import Any

from golden.case import Case, Inputs, random_pixels
from golden.families.resnet import ask_states, run_channels_first, run_classifier_channels_first

SMALL = {"num_stages": 3, "hidden_sizes": [8, 12, 20], "depths": [1, 2, 1]}
# In a new model the blocks change next to nothing.
SCALE = {"layer_scale_init_value": 0.5}


def _convnext(full: bool) -> Any:
    from transformers import ConvNextConfig, ConvNextModel

    return ConvNextModel(ConvNextConfig(**({} if full else SMALL), **SCALE))


def _classifier(full: bool) -> Any:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    labels = {i: f"thing {i}" for i in range(1000 if full else 7)}
    config = ConvNextConfig(**({} if full else SMALL), **SCALE, id2label=labels)
    return ConvNextForImageClassification(config)


def _inputs(full: bool) -> Inputs:
    height, width = (224, 224) if full else (44, 61)  # what is left over is cut off
    return {"pixel_values": random_pixels(2, 3, height, width)}


CASES = [
    Case("convnext", _convnext, _inputs, run_channels_first, ask_states, loss="last_hidden_state"),
    Case("convnext-classifier", _classifier, _inputs, run_classifier_channels_first, ask_states),
]
