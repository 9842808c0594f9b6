"""ResNets by torchvision's names, without a config."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from captax.checkpoints.directory import load_model, save_model
from captax.checkpoints.state import CheckpointError, export, parameters
from captax.checkpoints.torchvision import load_resnet, resnet_config
from captax.models.resnet import ResNet, ResNetConfig
from golden.case import pixels
from golden.families import CASES

# Of a bottleneck network of 1, 2 and 1 blocks: torchvision's modules and transformers'.
BOTTLENECK = {
    "conv1": "embedder.embedder.convolution",
    "bn1": "embedder.embedder.normalization",
    "layer1.0.conv1": "encoder.stages.0.layers.0.layer.0.convolution",
    "layer1.0.bn1": "encoder.stages.0.layers.0.layer.0.normalization",
    "layer1.0.conv2": "encoder.stages.0.layers.0.layer.1.convolution",
    "layer1.0.bn2": "encoder.stages.0.layers.0.layer.1.normalization",
    "layer1.0.conv3": "encoder.stages.0.layers.0.layer.2.convolution",
    "layer1.0.bn3": "encoder.stages.0.layers.0.layer.2.normalization",
    "layer1.0.downsample.0": "encoder.stages.0.layers.0.shortcut.convolution",
    "layer1.0.downsample.1": "encoder.stages.0.layers.0.shortcut.normalization",
    "layer2.0.conv1": "encoder.stages.1.layers.0.layer.0.convolution",
    "layer2.0.bn1": "encoder.stages.1.layers.0.layer.0.normalization",
    "layer2.0.conv2": "encoder.stages.1.layers.0.layer.1.convolution",
    "layer2.0.bn2": "encoder.stages.1.layers.0.layer.1.normalization",
    "layer2.0.conv3": "encoder.stages.1.layers.0.layer.2.convolution",
    "layer2.0.bn3": "encoder.stages.1.layers.0.layer.2.normalization",
    "layer2.0.downsample.0": "encoder.stages.1.layers.0.shortcut.convolution",
    "layer2.0.downsample.1": "encoder.stages.1.layers.0.shortcut.normalization",
    "layer2.1.conv1": "encoder.stages.1.layers.1.layer.0.convolution",
    "layer2.1.bn1": "encoder.stages.1.layers.1.layer.0.normalization",
    "layer2.1.conv2": "encoder.stages.1.layers.1.layer.1.convolution",
    "layer2.1.bn2": "encoder.stages.1.layers.1.layer.1.normalization",
    "layer2.1.conv3": "encoder.stages.1.layers.1.layer.2.convolution",
    "layer2.1.bn3": "encoder.stages.1.layers.1.layer.2.normalization",
    "layer3.0.conv1": "encoder.stages.2.layers.0.layer.0.convolution",
    "layer3.0.bn1": "encoder.stages.2.layers.0.layer.0.normalization",
    "layer3.0.conv2": "encoder.stages.2.layers.0.layer.1.convolution",
    "layer3.0.bn2": "encoder.stages.2.layers.0.layer.1.normalization",
    "layer3.0.conv3": "encoder.stages.2.layers.0.layer.2.convolution",
    "layer3.0.bn3": "encoder.stages.2.layers.0.layer.2.normalization",
    "layer3.0.downsample.0": "encoder.stages.2.layers.0.shortcut.convolution",
    "layer3.0.downsample.1": "encoder.stages.2.layers.0.shortcut.normalization",
}
# Of a basic network of one block in each of two stages, the first of which changes no width.
BASIC = {
    "conv1": "resnet.embedder.embedder.convolution",
    "bn1": "resnet.embedder.embedder.normalization",
    "layer1.0.conv1": "resnet.encoder.stages.0.layers.0.layer.0.convolution",
    "layer1.0.bn1": "resnet.encoder.stages.0.layers.0.layer.0.normalization",
    "layer1.0.conv2": "resnet.encoder.stages.0.layers.0.layer.1.convolution",
    "layer1.0.bn2": "resnet.encoder.stages.0.layers.0.layer.1.normalization",
    "layer2.0.conv1": "resnet.encoder.stages.1.layers.0.layer.0.convolution",
    "layer2.0.bn1": "resnet.encoder.stages.1.layers.0.layer.0.normalization",
    "layer2.0.conv2": "resnet.encoder.stages.1.layers.0.layer.1.convolution",
    "layer2.0.bn2": "resnet.encoder.stages.1.layers.0.layer.1.normalization",
    "layer2.0.downsample.0": "resnet.encoder.stages.1.layers.0.shortcut.convolution",
    "layer2.0.downsample.1": "resnet.encoder.stages.1.layers.0.shortcut.normalization",
    "fc": "classifier.1",
}


def renamed(tensors: dict[str, np.ndarray], table: dict[str, str]) -> dict[str, np.ndarray]:
    """Tensors of transformers' names by torchvision's; the table must name every module."""
    names = {theirs: ours for ours, theirs in table.items()}
    out = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        out[f"{names[module]}.{kind}"] = tensor
    assert {name.rpartition(".")[0] for name in out} == table.keys()
    return out


@pytest.mark.slow
def test_a_network_computes_what_it_does_by_transformers_names(tmp_path: Path) -> None:
    case = CASES["resnet"]
    tensors = safetensors.numpy.load_file(case.stored / "model.safetensors")
    path = tmp_path / "resnet.safetensors"
    safetensors.numpy.save_file(renamed(tensors, BOTTLENECK), path)
    model = load_resnet(path)
    known = load_model(case.stored)
    assert model.config == known.config
    inputs, want = case.golden()
    tokens = model(jnp.asarray(pixels(inputs))).tokens
    last = want["last_hidden_state"]
    np.testing.assert_allclose(tokens.mT.reshape(last.shape), last, atol=1e-4)


def test_a_basic_classifier_is_found_with_its_labels_and_can_be_saved(tmp_path: Path) -> None:
    config = ResNetConfig(
        embedding_size=4,
        hidden_sizes=(4, 6),
        depths=(1, 1),
        layer_type="basic",
        labels=("LABEL_0", "LABEL_1", "LABEL_2"),
    )
    want = ResNet(config, rngs=nnx.Rngs(0))
    path = tmp_path / "resnet.safetensors"
    safetensors.numpy.save_file(renamed(export(want, config.layout()), BASIC), path)
    got = load_resnet(path)
    assert got.config == config
    save_model(tmp_path, got)
    for model in (got, load_model(tmp_path)):
        for name, value in parameters(model).items():
            np.testing.assert_array_equal(value, parameters(want)[name])


def test_the_published_depths_are_told_apart() -> None:
    """By names and shapes as they are in torchvision's files."""
    for depths, layer, sizes in (
        ((2, 2, 2, 2), "basic", (64, 128, 256, 512)),
        ((3, 4, 6, 3), "basic", (64, 128, 256, 512)),
        ((3, 4, 6, 3), "bottleneck", (256, 512, 1024, 2048)),
        ((3, 8, 36, 3), "bottleneck", (256, 512, 1024, 2048)),
    ):
        shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7), "fc.bias": (1000,)}
        shapes["fc.weight"] = (1000, sizes[-1])
        for i, (depth, size) in enumerate(zip(depths, sizes, strict=True)):
            for j in range(depth):
                block, inner = f"layer{i + 1}.{j}", size // 4 if layer == "bottleneck" else size
                shapes[f"{block}.conv1.weight"] = (inner, 1, 1, 1)
                shapes[f"{block}.conv2.weight"] = (inner, inner, 3, 3)
                if layer == "bottleneck":
                    shapes[f"{block}.conv3.weight"] = (size, inner, 1, 1)
        found = resnet_config(shapes)
        assert found is not None and len(found.labels) == 1000
        assert (found.depths, found.layer_type, found.hidden_sizes) == (depths, layer, sizes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.weight": None}, "not a ResNet: its tensors do not have a ResNet's names"),
        ({"layer2.0.conv2.weight": (3, 3, 3, 3)}, "does not fit"),
        ({"fc.weight": ()}, "not a ResNet"),
        ({"conv1.weight": (0, 3, 7, 7)}, "not a ResNet"),
        ({"layer1.0.conv3.weight": (3, 2, 1, 1)}, "not a ResNet"),
        ({"layer4.0.conv1.weight": (3, 3, 3, 3)}, "not a ResNet"),
        ({"layer3.1.conv1.weight": (3, 3, 3, 3)}, "missing encoder.stages.2.layers.1"),
        ({"layer1.0.se.fc1.weight": (3, 3)}, "unexpected layer1.0.se.fc1.weight"),
    ],
)
def test_other_networks_are_refused(
    change: dict[str, tuple[int, ...] | None], message: str, tmp_path: Path
) -> None:
    tensors = safetensors.numpy.load_file(CASES["resnet"].stored / "model.safetensors")
    by_name = renamed(tensors, BOTTLENECK)
    if "layer4.0.conv1.weight" in change:  # a stage is missing before it
        by_name = {name: x for name, x in by_name.items() if not name.startswith("layer3")}
    for name, shape in change.items():
        if shape is None:
            del by_name[name]
        else:
            by_name[name] = np.zeros(shape, np.float32)
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(by_name, path)
    with pytest.raises(CheckpointError, match=message):
        load_resnet(path)
