"""ResNets as torchvision, and timm after it, keep them: a state dictionary, and no config."""

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
    """The ResNet in a weight file: `resnet18` to `resnet152` by torchvision's names.

    With a last layer it is a classifier of labels without names. Nothing in the file is executed.
    Raises `CheckpointError` when it holds something else.
    """
    tensors = open_weights(path)
    config = resnet_config({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if config is None:
        raise CheckpointError(
            f"{path}: no ResNet by its tensors' names (conv1, layer1.0.conv1, fc, ...); a file "
            "without a config.json can hold nothing else"
        )
    return fill(ResNet(config, rngs=None), tensors, where=str(path), layout=config.layout())


def resnet_config(shapes: Mapping[str, tuple[int, ...]]) -> ResNetConfig | None:
    """The config of the ResNet that has tensors of these names and shapes; None if none has.

    What they cannot tell is taken to be as in torchvision: bottlenecks halve the picture in their
    middle convolution, and the first stage does not.
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
