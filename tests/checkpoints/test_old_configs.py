"""Shapes of configs that the reference still loads, although nobody writes them any more."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from captax.checkpoints.weights import open_weights
from captax.images import ImageProcessor
from captax.models.config import ConfigError
from captax.models.vit import ViTConfig


def test_a_square_may_be_two_sides() -> None:
    config = ViTConfig.read({"image_size": [32, 32], "patch_size": [8, 8]})
    assert (config.picture, config.patch_size) == ((32, 32), 8)
    with pytest.raises(ConfigError, match="patch_size"):
        ViTConfig.read({"image_size": [32, 32], "patch_size": [8, 4]})


def test_a_processor_s_size_may_be_a_list(tmp_path: Path) -> None:
    old = {"feature_extractor_type": "ViTFeatureExtractor", "image_mean": [0.5] * 3}
    old |= {"image_std": [0.5] * 3, "do_resize": True, "do_normalize": True, "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**old, "size": [32, 48]}))
    assert ImageProcessor.load(tmp_path).size == (32, 48)


def test_shards_may_lie_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    safetensors.numpy.save_file({"x": np.ones(3)}, tmp_path / "shards" / "1.safetensors")
    index = {"weight_map": {"x": "shards/1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert list(open_weights(tmp_path)) == ["x"]


def test_token_ids_may_be_whole_floats() -> None:
    from captax.generation.config import GenerationConfig
    from captax.models.config import Roles

    stored = {"pad_token_id": 1.0, "eos_token_id": [2.0, 3], "decoder_start_token_id": 4}
    config = GenerationConfig.read(stored, Roles())
    assert (config.pad_token_id, config.eos_token_id) == (1, (2, 3))
    assert type(config.pad_token_id) is int
