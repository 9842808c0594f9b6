"""Classifiers in timm's form against what timm computed with them."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from captax.checkpoints.directory import load_model, save_model
from captax.models.config import ConfigError
from captax.models.registry import read_config
from golden.timm_side import CASES, STORED


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_computes_what_timm_computes(name: str) -> None:
    golden = np.load(STORED / name / "golden.npz")
    model: Any = load_model(STORED / name)
    got = jax.jit(model.classify)(jnp.asarray(golden["pixels"].transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(got, golden["logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_is_saved_as_it_was(name: str, tmp_path: Path) -> None:
    save_model(tmp_path, load_model(STORED / name))
    got = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    want = safetensors.numpy.load_file(STORED / name / "model.safetensors")
    assert got.keys() == want.keys()
    for key, value in want.items():
        np.testing.assert_array_equal(got[key], value, err_msg=key, strict=True)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.items() > json.loads((STORED / name / "config.json").read_text()).items()


def test_transformers_wrapper_of_timm_is_read_too(tmp_path: Path) -> None:
    """It names a model_type, and puts the tensors under a name of its own."""
    stored = STORED / "swinv2"
    config = json.loads((stored / "config.json").read_text()) | {"model_type": "timm_wrapper"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = safetensors.numpy.load_file(stored / "model.safetensors")
    tensors = {f"timm_model.{name}": value for name, value in tensors.items()}
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    pixels = jnp.ones((1, 64, 64, 3))
    got, want = (load_model(each).classify(pixels) for each in (tmp_path, stored))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(got, want)


def test_the_published_taggers_have_the_shapes_of_their_names() -> None:
    """What they leave out of their configs follows from the name."""

    def read(architecture: str, **arguments: Any) -> Any:
        config = {"architecture": architecture, "num_classes": 3, "model_args": arguments}
        return read_config({**config, "pretrained_cfg": {"input_size": [3, 448, 448]}})

    large = read("vit_large_patch16_384", img_size=448, global_pool="avg", drop_path_rate=0.4)
    assert (large.hidden_size, large.num_hidden_layers, large.grid) == (1024, 24, (28, 28))
    swin = read("swinv2_base_window8_256", window_size=14)
    assert (swin.widths, swin.window_size) == ((128, 256, 512, 1024), 14)
    assert (swin.image_size, swin.depths) == (448, (2, 2, 18, 2))
    base = read("convnext_base", norm_eps=None, use_grn=False)
    assert (base.hidden_sizes, base.depths) == ((128, 256, 512, 1024), (3, 3, 27, 3))


@pytest.mark.parametrize(
    ("architecture", "arguments", "told"),
    [
        ("swinv2_base_window8_256", {"img_size": 448}, "windows must fill the grid"),
        ("swinv2_base_window8_256", {"depths": [2]}, "one number for every stage"),
        ("swinv2_base_window8_256", {"num_heads": [0, 1, 1, 1]}, "num_heads"),
        ("swinv2_base_window8_256", {"qkv_bias": False}, "qkv_bias=False"),
        ("swinv2_base_window8_256", {"labels": ["a"]}, "labels"),
        ("convnext_base", {"use_grn": True}, "use_grn=True"),
        ("convnext_base", {"dims": [8]}, "num_stages"),
        ("convnext_base", {"dims": "wide"}, "hidden_sizes='wide'"),
        ("convnext_base", {"patch_size": 29}, "pictures of 224 are too small"),
        ("convnext_base", {"dims": [8] * 9, "depths": [1] * 9}, "num_stages"),
        ("vit_base_patch16_224", {"img_size": [32, 8]}, "are too small"),
        ("convnextv2_base", {}, "architecture 'convnextv2_base' is not supported"),
        ("vit_base_patch0_224", {}, "patch_size=0"),
        ("vit_base_patch16_224", {"global_pool": "map"}, "global_pool='map'"),
        ("vit_base_patch16_224", {"class_token": False}, "global_pool='token'"),
        ("vit_base_patch16_224", {"embed_dim": 10}, "multiple of the number of heads"),
    ],
)
def test_what_is_not_supported_is_refused_with_its_name(
    architecture: str, arguments: dict[str, Any], told: str
) -> None:
    config = {"architecture": architecture, "num_classes": 3, "model_args": arguments}
    with pytest.raises(ConfigError, match=told) as raised:
        read_config(config)
    assert str(raised.value).startswith(("architecture", architecture))


@pytest.mark.parametrize("name", ["vit-tagger", "convnext", "swinv2"])
def test_narrow_weights_give_nearly_the_same(name: str) -> None:
    golden = np.load(STORED / name / "golden.npz")
    model: Any = load_model(STORED / name, dtype="bfloat16")
    got = jax.jit(model.classify)(jnp.asarray(golden["pixels"].transpose(0, 2, 3, 1)))
    scale = np.abs(golden["logits"]).max()
    np.testing.assert_allclose(got, golden["logits"], atol=0.05 * scale, rtol=0)
