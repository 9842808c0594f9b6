"""ResNets as torchvision and timm save them: a state dictionary without a config."""

import re
from collections.abc import Mapping
from pathlib import Path

from captax.checkpoints.state import CheckpointError, fill
from captax.checkpoints.weights import open_weights
from captax.models.resnet import REDUCTION, ResNet, ResNetConfig, canonical

CONVOLUTION = re.compile(
    r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.convolution\.weight"
)


def load_resnet(path: Path) -> ResNet:
    """Load the ResNet in a weight file: `resnet18` to `resnet152` by torchvision's names.

    If the file has the last layer, the model is a classifier whose labels have no names (`LABEL_0`
    and so on). Nothing in the file is executed. Raises `CheckpointError` when the file holds
    another model.
    """
    tensors = open_weights(path)
    config = resnet_config({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if config is None:
        raise CheckpointError(
            f"{path}: not a ResNet: its tensors do not have a ResNet's names (conv1, "
            "layer1.0.conv1, fc, ...); give any other model as a directory with its config.json"
        )
    return fill(ResNet(config, rngs=None), tensors, where=str(path), layout=config.layout())


def resnet_config(shapes: Mapping[str, tuple[int, ...]]) -> ResNetConfig | None:
    """The config of the ResNet that has tensors of these names and shapes, or None.

    What the shapes cannot tell is assumed to be as in torchvision: a bottleneck halves the picture
    in its middle convolution, and the first stage does not halve it.
    """
    spelt = {canonical(name): shape for name, shape in shapes.items()}
    stages: dict[int, dict[int, dict[int, int]]] = {}  # channels of every convolution
    for name, shape in spelt.items():
        if (match := CONVOLUTION.fullmatch(name)) and len(shape) == 4:
            stage, block, layer = map(int, match.groups())
            stages.setdefault(stage, {}).setdefault(block, {})[layer] = shape[0]
    first = [stages.get(i, {}).get(0, {}) for i in range(len(stages))]
    stem = spelt.get("embedder.embedder.convolution.weight", ())
    head = spelt.get("classifier.1.weight", (0, 0))
    if not first or not all(first) or len(stem) != 4 or len(head) != 2:
        return None
    sizes = tuple(layers[max(layers)] for layers in first)
    if min(*sizes, stem[0]) < REDUCTION:
        return None
    return ResNetConfig(
        embedding_size=stem[0],
        hidden_sizes=sizes,
        depths=tuple(len(stages[i]) for i in range(len(stages))),
        layer_type="bottleneck" if max(first[0]) == 2 else "basic",
        labels=tuple(f"LABEL_{i}" for i in range(head[0])),
    )
