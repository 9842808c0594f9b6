"""EfficientNet-Lite: its one hand-made operation, and its shapes as published."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from captax.models.depthwise import depthwise_convolution
from captax.models.efficientnet import EfficientNetLite, EfficientNetLiteConfig

CONFIG = {
    "model_type": "efficientnet-lite",
    "width_scale": 0.25,
    "depth_scale": 0.5,
    "image_size": 40,
    "num_labels": 3,
}


def grouped(x: Array, kernel: Array, stride: int) -> Array:
    """XLA's own depthwise convolution, padded by XLA."""
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("sides", [(7, 10), (12, 9), (2, 1)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_the_depthwise_convolution_and_its_gradients_are_those_of_xla(
    size: int, stride: int, sides: tuple[int, int]
) -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, *sides, 3))
    kernel = jax.random.normal(keys[1], (size, size, 3))
    out = (2, *(math.ceil(side / stride) for side in sides), 3)
    upstream = jax.random.normal(keys[2], out)

    def both(function: Callable[..., Array]) -> tuple[Array, tuple[Array, Array]]:
        def value_and_pullback(x: Array, kernel: Array, upstream: Array) -> Any:
            value, pullback = jax.vjp(lambda x, kernel: function(x, kernel, stride), x, kernel)
            return value, *pullback(upstream)

        return jax.jit(value_and_pullback)(x, kernel, upstream)

    for got, want in zip(both(depthwise_convolution), both(grouped), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.fixture(scope="module")
def encoder(make_model: Callable[..., Any]) -> EfficientNetLite:
    return make_model(CONFIG)


@pytest.mark.slow
def test_cut_at_any_depth_it_is_the_same_network(
    encoder: EfficientNetLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = jax.random.normal(jax.random.key(0), (2, 40, 40, 3))
    whole = jax.jit(lambda pixels: encoder(pixels).tokens)(pixels)
    # A part is compiled once, instead of once a depth.
    parts = [jax.jit(lambda x, part=part: part(x)) for part in encoder.parts()]
    monkeypatch.setattr(EfficientNetLite, "parts", lambda self: parts)
    assert len(parts) == 12
    for depth in range(len(parts) + 1):
        features = encoder.last_parts(encoder.first_parts(pixels, depth), depth)
        np.testing.assert_allclose(features.tokens, whole, atol=1e-4)
        assert features.grid == encoder.config.grid == (2, 2)
        assert features.tokens.shape == (2, 4, encoder.features_width)


def test_labels_come_from_the_mean_over_the_grid(encoder: EfficientNetLite) -> None:
    pixels = jax.random.normal(jax.random.key(0), (1, 40, 40, 3))
    tokens, logits = jax.jit(lambda p: (encoder(p).tokens, encoder.classify(p)))(pixels)
    layer = encoder.classifier
    want = np.asarray(tokens).mean(1) @ np.asarray(layer.kernel[...]).T + np.asarray(
        layer.bias[...]
    )
    np.testing.assert_allclose(logits, want, atol=1e-5)


@pytest.mark.parametrize("side", [224, 240, 260, 280, 300, 40, 33, 32])
def test_the_grid_is_what_five_halvings_leave(side: int) -> None:
    left = side
    for _ in range(5):
        left = -(-left // 2)
    assert EfficientNetLiteConfig(image_size=side).grid == (left, left)


# Blocks and channels of each stage as the reference code scales them (lite0 to lite4 of
# https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite), picture sides as
# published, and the parameters of PyTorch's ports of it, classifier of 1000 labels included.
PUBLISHED = [
    (0, 224, (1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320), 4_652_008),
    (1, 240, (1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320), 5_416_680),
    (2, 260, (1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352), 6_092_072),
    (3, 280, (1, 3, 3, 5, 5, 6, 1), (24, 32, 48, 96, 136, 232, 384), 8_197_096),
    (4, 300, (1, 4, 4, 6, 6, 8, 1), (24, 32, 56, 112, 160, 272, 448), 13_006_568),
]


@pytest.mark.parametrize(("size", "side", "repeats", "channels", "parameters"), PUBLISHED)
def test_lite0_to_lite4_have_the_published_shapes(
    size: int, side: int, repeats: tuple, channels: tuple, parameters: int
) -> None:
    config = EfficientNetLiteConfig.lite(size, num_labels=1000)
    assert config.image_size == side
    blocks = config.blocks()
    kernels, strides = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1)
    expected, before = [], 32
    for stage, (count, width) in enumerate(zip(repeats, channels, strict=True)):
        for i in range(count):
            stride = strides[stage] if i == 0 else 1
            expected.append((before, width, kernels[stage], stride, 1 if stage == 0 else 6))
            before = width
    assert [
        (b.channels_in, b.channels_out, b.kernel, b.stride, b.expansion) for b in blocks
    ] == expected

    # In the reference every convolution but the classifier is without bias and followed by a batch
    # norm, which has two parameters a channel; here it has one bias a channel instead.
    count = normalised = 0
    for inside, out, kernel, _, expansion in [(3, 32, 3, 2, 0), *expected]:
        if expansion == 0:  # the stem
            count += kernel * kernel * inside * out
            normalised += out
            continue
        wide = inside * expansion
        count += (inside * wide if expansion > 1 else 0) + kernel * kernel * wide + wide * out
        normalised += (wide if expansion > 1 else 0) + wide + out
    count += channels[-1] * 1280  # the head
    normalised += 1280
    count += 1280 * 1000 + 1000  # the classifier
    assert count + 2 * normalised == parameters

    model = EfficientNetLite(config, rngs=None)
    leaves = jax.tree.leaves(model, is_leaf=lambda x: hasattr(x, "shape"))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == count + normalised


def test_it_sees_the_whole_picture(encoder: EfficientNetLite) -> None:
    """No part of the picture is cut off by padding or strides: each corner changes the output."""
    pixels = jnp.zeros((1, 40, 40, 3))
    look = jax.jit(lambda pixels: encoder(pixels).tokens)
    plain = look(pixels)
    for row, column in [(0, 0), (0, 39), (39, 0), (39, 39)]:
        changed = look(pixels.at[0, row, column].set(2.0))
        assert abs(changed - plain).max() > 1e-4
