"""BART: what checkpoints of it spell in other ways, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from captax.checkpoints.directory import load_model, save_model
from captax.checkpoints.state import parameters
from captax.models.bart import BartConfig
from captax.models.registry import ConfigError, read_config
from golden.families import CASES

STORED = CASES["bart"].stored


def test_a_config_is_recognised_and_has_the_defaults_of_transformers() -> None:
    config = read_config({"model_type": "bart"})
    assert isinstance(config, BartConfig)
    assert (config.d_model, config.decoder_layers, config.roles().start) == (1024, 12, 2)


@pytest.mark.parametrize(
    "said",
    [
        {"normalize_before": True},
        {"tie_word_embeddings": False},
        {"decoder_layerdrop": 0.1},
        {"d_model": 30, "encoder_attention_heads": 4, "decoder_attention_heads": 5},
    ],
    ids=lambda said: next(iter(said)),
)
def test_models_that_captax_does_not_have_are_refused(said: dict) -> None:
    with pytest.raises(
        ConfigError, match="^bart: .*" + (next(iter(said)) if len(said) == 1 else "30")
    ):
        read_config({"model_type": "bart", **said})


def test_checkpoints_of_the_model_without_a_head(tmp_path: Path) -> None:
    """As facebook/bart-base has them: older names, all of the tied ones, and no bias."""
    tensors = safetensors.numpy.load_file(STORED / "model.safetensors")
    bare = {
        name.removeprefix("model."): value
        for name, value in tensors.items()
        if name != "final_logits_bias"
    }
    for half in ("encoder", "decoder"):
        bare[f"{half}.embed_tokens.weight"] = bare["shared.weight"]
        bare[f"{half}.version"] = np.array([3.0], np.float32)
    safetensors.numpy.save_file(bare, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((STORED / "config.json").read_bytes())
    got, want = parameters(load_model(tmp_path)), parameters(load_model(STORED))
    assert want.keys() - got.keys() == {"decoder.bias"}
    for name, value in got.items():
        np.testing.assert_array_equal(value, want[name])
    # It is saved without the bias, and read again.
    (tmp_path / "again").mkdir()
    save_model(tmp_path / "again", load_model(tmp_path))
    assert parameters(load_model(tmp_path / "again")).keys() == got.keys()
