"""Checkpoints rewritten."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import captax
from captax.checkpoints.state import CheckpointError, parameters
from captax.pipelines.conversion import convert

Checkpoint = Callable[[str], Path]


def test_weights_are_cast_and_companions_kept(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = checkpoint("vit-gpt2")
    convert(str(source), tmp_path / "out", dtype="float16")
    tensors = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    original = safetensors.numpy.load_file(source / "model.safetensors")
    assert tensors.keys() == original.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(value, original[name].astype(np.float16), strict=True)
    for name in ("tokenizer.json", "preprocessor_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"
    assert captax.load(tmp_path / "out").generation == captax.load(source).generation


def test_the_tokenizer_of_sources_is_kept(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkpoint("bert2bert"), source)
    (source / "source_tokenizer").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, source / "source_tokenizer" / name)
    convert(str(source), tmp_path / "out")
    kept = tmp_path / "out" / "source_tokenizer"
    assert {path.name for path in kept.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}


def test_old_names_become_todays(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """`gpt2` itself lacks the prefix, and holds masks and a copy of its embedding."""
    source = tmp_path / "old"
    source.mkdir()
    (source / "config.json").write_bytes((checkpoint("gpt2") / "config.json").read_bytes())
    tensors = safetensors.numpy.load_file(checkpoint("gpt2") / "model.safetensors")
    old = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    old["h.0.attn.bias"] = np.ones((1, 1, 20, 20), np.uint8)
    old["h.1.attn.masked_bias"] = np.full(1, -1e4, np.float32)
    old["lm_head.weight"] = old["wte.weight"]
    safetensors.numpy.save_file(old, source / "model.safetensors")
    convert(str(source), tmp_path / "out")
    got = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    assert got.keys() == tensors.keys()
    for name, value in parameters(captax.load_model(tmp_path / "out")).items():
        want = parameters(captax.load_model(checkpoint("gpt2")))[name]
        np.testing.assert_array_equal(value, want)


def test_what_is_nowhere_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"\./nowhere: no such directory"):
        convert("./nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()
