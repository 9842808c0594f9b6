"""ResNet: its pieces against plain arithmetic. checkpoints/test_golden.py compares the whole."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from captax.checkpoints.directory import load_model, save_model
from captax.checkpoints.state import export, parameters, rebuilder
from captax.models.config import ConfigError
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.registry import build
from captax.models.resnet import BatchNorm, Embedder, ResNet, ResNetConfig
from golden.families import CASES

SMALL = ResNetConfig(embedding_size=4, hidden_sizes=(4, 8), depths=(1, 2), layer_type="basic")


@pytest.mark.slow
def test_it_can_be_cut_before_every_block() -> None:
    resnet = ResNet(SMALL, rngs=nnx.Rngs(0))
    pixels = jax.random.normal(jax.random.key(0), (2, 45, 64, 3))
    whole = resnet(pixels)
    assert whole.grid == (6, 8) and resnet.features_width == whole.tokens.shape[-1] == 8
    assert len(resnet.parts()) == 4
    for depth in range(len(resnet.parts()) + 1):
        cut = resnet.last_parts(resnet.first_parts(pixels, depth), depth, (45, 64))
        np.testing.assert_allclose(cut.tokens, whole.tokens, atol=1e-5)
        assert (cut.grid, cut.lead) == (whole.grid, 0)


def test_batch_norm_keeps_to_its_statistics_unless_told_to_take_the_batchs() -> None:
    norm = BatchNorm(3, rngs=nnx.Rngs(0))
    kept = {"scale": [2, 3, 1], "bias": [0, 1, -1], "mean": [1, 0, 5], "variance": [4, 1, 9]}
    for name, values in kept.items():
        setattr(norm, name, nnx.Param(jnp.array(values, jnp.float32)))
    x = np.random.default_rng(0).normal(3, 2, (2, 5, 4, 3)).astype(np.float32)
    want = (x - [1, 0, 5]) / np.sqrt(np.array([4, 1, 9]) + 1e-5) * [2, 3, 1] + [0, 1, -1]
    np.testing.assert_allclose(norm(jnp.asarray(x)), want, rtol=1e-5, atol=1e-5)
    norm.of_batch = True
    mean, deviation = x.mean((0, 1, 2)), np.sqrt(x.var((0, 1, 2)) + 1e-5)
    want = (x - mean) / deviation * [2, 3, 1] + [0, 1, -1]
    np.testing.assert_allclose(norm(jnp.asarray(x)), want, rtol=1e-5, atol=1e-5)


def test_statistics_get_no_gradient() -> None:
    norm = BatchNorm(3, rngs=nnx.Rngs(0))
    rebuild = rebuilder(norm)
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    gradients = jax.grad(lambda values: (rebuild(values)(x) ** 3).sum())(parameters(norm))
    assert not gradients["mean"].any() and not gradients["variance"].any()
    assert gradients["scale"].all() and gradients["bias"].all()


@pytest.mark.parametrize("sides", [(9, 12), (1, 2)])
def test_the_stem_halves_as_xlas_window_does(sides: tuple[int, int]) -> None:
    """In value and gradient, also where all is negative: the edge is not a zero."""
    config = ResNetConfig(embedding_size=3, hidden_act="tanh")
    stem = Embedder(config, rngs=nnx.Rngs(0))
    rows, columns = sides
    stem.convolution.norm.bias = nnx.Param(jnp.full(3, -0.5))

    def windows(x: jax.Array) -> jax.Array:
        x = jnp.tanh(stem.convolution(x))
        return nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))

    pixels = 0.1 * jax.random.normal(jax.random.key(0), (2, 2 * rows, 2 * columns, 3))
    np.testing.assert_array_equal(stem(pixels), windows(pixels))
    weights = jax.random.normal(jax.random.key(1), stem(pixels).shape)
    got, want = (jax.grad(lambda x, f=f: (f(x) * weights).sum())(pixels) for f in (stem, windows))
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_what_batch_norm_counted_is_not_needed_and_not_kept(tmp_path: Path) -> None:
    stored = CASES["resnet"].stored
    counted = safetensors.numpy.load_file(stored / "model.safetensors")
    names = [name for name in counted if name.endswith("num_batches_tracked")]
    assert len(names) == sum(name.endswith("running_mean") for name in counted)
    want = parameters(load_model(stored))
    for value in (None, np.array(7)):
        folder = tmp_path / str(value)
        folder.mkdir()
        shutil.copy(stored / "config.json", folder)
        changed = {name: value for name in names if value is not None}
        plain = {name: tensor for name, tensor in counted.items() if name not in names}
        safetensors.numpy.save_file({**plain, **changed}, folder / "model.safetensors")
        got = load_model(folder)
        for name, tensor in parameters(got).items():
            np.testing.assert_array_equal(tensor, want[name])
        saved = export(got, got.config.layout(), dtype="bfloat16")
        assert all(saved[name].dtype == np.int64 and saved[name] == 0 for name in names)


def test_a_captioner_with_it_is_saved_and_loaded(tmp_path: Path) -> None:
    decoder = {
        "model_type": "captax-transformer",
        "vocab_size": 9,
        "width": 8,
        "layers": 1,
        "heads": 2,
        "mlp_width": 8,
        "max_positions": 6,
        "features_width": 8,
        "grid": [2, 2],
    }
    config = {
        "model_type": "captax-encoder-decoder",
        "encoder": SMALL.write(),
        "decoder": decoder,
    }
    model = build(config, rngs=nnx.Rngs(0))
    assert isinstance(model, EncoderDecoder)
    save_model(tmp_path, model)
    again = load_model(tmp_path)
    assert isinstance(again, EncoderDecoder) and again.encoder.config == SMALL
    want = parameters(model)
    assert parameters(again).keys() == want.keys()
    for name, value in parameters(again).items():
        np.testing.assert_array_equal(value, want[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_type": "wide"}, "layer_type='wide' must be basic or bottleneck"),
        ({"depths": [1, 2, 3]}, "hidden_sizes and depths must have the same length"),
        ({"num_channels": 1}, "num_channels=1"),
    ],
)
def test_configs_of_other_networks_are_refused(changes: dict, message: str) -> None:
    config = json.loads((CASES["resnet"].stored / "config.json").read_text())
    with pytest.raises(ConfigError, match=message):
        ResNetConfig.read({**config, "hidden_sizes": [8, 16], "depths": [1, 1], **changes})
