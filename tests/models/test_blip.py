"""BLIP's decoder token by token, its configs as they were once written, and heads of their own."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from captax.checkpoints.directory import load_model, save_model
from captax.errors import CheckpointError
from captax.models.blip import BlipConfig, BlipTextConfig, BlipVisionConfig
from captax.models.config import ConfigError, Roles, read_config
from golden.case import assert_same
from golden.families import CASES

CASE = CASES["blip"]
HEAD = "text_decoder.cls.predictions"
EMBEDDING = "text_decoder.bert.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(CASE.stored / "model.safetensors")


def checkpoint(directory: Path, tensors: dict[str, np.ndarray]) -> Path:
    (directory / "config.json").write_bytes((CASE.stored / "config.json").read_bytes())
    safetensors.numpy.save_file(tensors, directory / "model.safetensors")
    return directory


def logits(model: Any) -> np.ndarray:
    inputs, _ = CASE.golden()
    return np.asarray(CASE.outputs(model, inputs)["logits"])


@pytest.mark.parametrize("prompt", [1, 4])
def test_decoding_with_a_cache_gives_the_logits_of_the_whole_caption(prompt: int) -> None:
    model = load_model(CASE.stored)
    pixels = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    tokens = np.random.default_rng(1).integers(0, 40, (2, 7)).astype(np.int32)
    features = jax.jit(model.encode)(pixels)
    whole = jax.jit(model.read)(features, tokens)
    begin, advance = jax.jit(model.begin, static_argnums=2), jax.jit(model.advance)
    got, cache = begin(features, tokens[:, :prompt], 7 - prompt)
    np.testing.assert_allclose(got, whole[:, prompt - 1], atol=1e-4)
    for t in range(prompt, 7):
        got, cache = advance(tokens[:, t], cache)
        np.testing.assert_allclose(got, whole[:, t], atol=1e-4)


def test_what_older_checkpoints_hold_besides_changes_nothing(
    tensors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Buffers, and copies of what is tied."""
    old = {
        **tensors,
        "text_decoder.bert.embeddings.position_ids": np.arange(12)[None],
        f"{HEAD}.decoder.weight": tensors[EMBEDDING],
        f"{HEAD}.decoder.bias": tensors[f"{HEAD}.bias"],
    }
    got = logits(load_model(checkpoint(tmp_path, old)))
    assert_same({"logits": got}, CASE.golden()[1], tolerance=1e-4)


def test_either_name_of_what_is_tied_will_do(
    tensors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    renamed = {EMBEDDING: f"{HEAD}.decoder.weight", f"{HEAD}.bias": f"{HEAD}.decoder.bias"}
    other = {renamed.get(name, name): value for name, value in tensors.items()}
    got = logits(load_model(checkpoint(tmp_path, other)))
    assert_same({"logits": got}, CASE.golden()[1], tolerance=1e-4)


def test_an_output_layer_of_its_own_is_used_and_saved(
    tensors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Fine-tuned by transformers 4, the output layer and the embedding are two."""
    tuned = {**tensors, f"{HEAD}.decoder.weight": tensors[EMBEDDING][::-1].copy()}
    model = load_model(checkpoint(tmp_path, tuned))
    bias, inputs = tensors[f"{HEAD}.bias"], CASE.golden()[0]
    # The same scores in the opposite order, the bias aside.
    mask = inputs["attention_mask"][:, :, None]
    want = (CASE.golden()[1]["logits"] - bias * mask)[..., ::-1] + bias * mask
    np.testing.assert_allclose(logits(model), want, atol=1e-4)

    saved = tmp_path / "saved"
    saved.mkdir()
    save_model(saved, model)
    again = safetensors.numpy.load_file(saved / "model.safetensors")
    np.testing.assert_array_equal(again[f"{HEAD}.decoder.weight"], tuned[f"{HEAD}.decoder.weight"])
    # Captax's own way to build it, without a look at the tensors.
    described = read_config(json.loads((saved / "config.json").read_text()))
    assert described == model.config


def test_the_heads_of_other_blips_are_reported(
    tensors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    other = {**tensors, "text_encoder.pooler.dense.bias": np.zeros(24, np.float32)}
    with pytest.raises(CheckpointError, match=r"unexpected text_encoder\.pooler\.dense\.bias"):
        load_model(checkpoint(tmp_path, other))


def test_a_config_is_completed_as_transformers_completes_it() -> None:
    described = read_config(
        {
            "model_type": "blip",
            "text_config_dict": {"vocab_size": 50, "encoder_hidden_size": 7, "eos_token_id": 5},
            "vision_config": {"hidden_size": 960},
        }
    )
    want = BlipConfig(
        BlipVisionConfig(hidden_size=960),
        BlipTextConfig(vocab_size=50, encoder_hidden_size=960, eos_token_id=5),
    )
    assert described == want
    assert described.roles() == Roles(start=30522, eos=102, pad=0, binding=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"tie_word_embeddings": False}, "blip: tie_word_embeddings=False"),
        ({"text_config": {"is_decoder": False}}, "blip_text_model: is_decoder=False"),
        ({"vision_config": "base"}, "blip: vision_config='base' must be a JSON object"),
    ],
)
def test_what_is_not_supported_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config({"model_type": "blip", **config})
