"""Checkpoint directories: written whole, read back, refused when broken."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from captax.checkpoints.directory import load_model, read_json, save_model, write_directory
from captax.checkpoints.state import CheckpointError, parameters
from captax.files import OutputError

CONFIG = {
    "model_type": "captax-transformer",
    "vocab_size": 5,
    "width": 4,
    "layers": 1,
    "heads": 2,
    "mlp_width": 4,
    "max_positions": 6,
    "dropout": 0.25,
    "features_width": 6,
    "grid": [2, 3],
}


@pytest.fixture
def saved(make_model: Callable[..., Any], tmp_path: Path) -> Path:
    save_model(tmp_path, make_model(CONFIG))
    return tmp_path


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_model_comes_back_as_it_was_saved(
    make_model: Callable[..., Any], tmp_path: Path, dtype: str
) -> None:
    model = make_model(CONFIG)
    save_model(tmp_path, model, dtype=dtype)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written == {**CONFIG, "dtype": dtype}
    stored = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert {value.dtype.name for value in stored.values()} == {dtype}
    loaded = load_model(tmp_path)
    assert loaded.config == model.config and loaded.layers[0].dropout.rate == 0.25
    for name, value in parameters(loaded).items():
        want = np.asarray(parameters(model)[name]).astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(value, want, strict=True)


@pytest.mark.parametrize(
    ("named", "stored", "kept"),
    [
        ({"dtype": "bfloat16"}, "float32", "bfloat16"),
        ({"torch_dtype": "float16"}, "float32", "float16"),
        ({}, "bfloat16", "bfloat16"),
        ({"dtype": "auto"}, "float16", "float16"),
        ({"dtype": None}, "float64", "float32"),
        ({"dtype": "float64"}, "float16", "float32"),
        ({}, "float8_e4m3fn", "bfloat16"),
    ],
)
def test_auto_is_the_type_that_the_checkpoint_has(
    make_model: Callable[..., Any], tmp_path: Path, named: dict[str, Any], stored: str, kept: str
) -> None:
    config = {"model_type": "gpt2", "vocab_size": 5, "n_embd": 4, "n_layer": 1, "n_head": 2}
    save_model(tmp_path, make_model(config))
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    tensors = {name: each.astype(jnp.dtype(stored)) for name, each in tensors.items()}
    # One that is of another type, as normalisations often are, does not decide.
    tensors["transformer.ln_f.weight"] = tensors["transformer.ln_f.weight"].astype(np.float32)
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**config, **named}))
    loaded = load_model(tmp_path, dtype="auto")
    assert {leaf.dtype.name for leaf in parameters(loaded).values()} == {kept}


def test_weights_that_do_not_fit_the_config_are_named(saved: Path) -> None:
    (saved / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": 7, "layers": 2}))
    with pytest.raises(CheckpointError, match=r"embedding is \(5, 4\), expected \(7, 4\)") as error:
        load_model(saved)
    assert "missing layers.1.mlp.up.kernel" in str(error.value)
    assert str(saved) in str(error.value)


def test_broken_directories_are_refused(saved: Path) -> None:
    weights, config = saved / "model.safetensors", saved / "config.json"
    whole = weights.read_bytes()
    for size in (0, 7, 100, len(whole) - 1):
        weights.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"model\.safetensors: "):
            load_model(saved)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"no weights; looked for model\.safetensors"):
        load_model(saved)
    for content in (b"{", b"\xff\xfe", b""):
        config.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"config\.json: not JSON"):
            load_model(saved)
    config.write_text("[1]")
    with pytest.raises(
        CheckpointError, match=r"config\.json: expected a JSON object; download it again"
    ):
        load_model(saved)
    config.unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        read_json(config)


def fill_with(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "config.json").write_text(text)

    return write


def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    best = tmp_path / "run" / "best"
    write_directory(best, fill_with("1"))
    (best / "left-over").write_text("")
    write_directory(best, fill_with("2"))
    assert {path.name for path in best.iterdir()} == {"config.json", "left-over"}
    assert (best / "config.json").read_text() == "2"
    assert [path.name for path in best.parent.iterdir()] == ["best"]


def test_the_old_content_stays_when_writing_fails(tmp_path: Path) -> None:
    best = tmp_path / "best"
    write_directory(best, fill_with("1"))

    def fail(folder: Path) -> None:
        (folder / "config.json").write_text("half")
        raise OSError("no space left on device")

    with pytest.raises(OutputError, match=r"best: cannot be written \(no space"):
        write_directory(best, fail)
    assert (best / "config.json").read_text() == "1"
    write_directory(best, fill_with("2"))  # and nothing half-written is in the way
    assert (best / "config.json").read_text() == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_what_is_no_checkpoint_is_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(b"dear")
    file = tmp_path / "file"
    file.write_text("dear")
    for path in (folder, file):
        with pytest.raises(CheckpointError, match=f"{path.name}: .*not a checkpoint"):
            write_directory(path, fill_with("1"))
    assert (folder / "cat.jpg").read_bytes() == b"dear" and file.read_text() == "dear"
    empty = tmp_path / "empty"
    empty.mkdir()
    write_directory(empty, fill_with("1"))
    assert (empty / "config.json").read_text() == "1"


def test_what_is_no_part_of_a_checkpoint_stays(saved: Path, make_model: Callable[..., Any]) -> None:
    """Notes, a repository and PyTorch's weights; not what would contradict the new checkpoint."""
    (saved / ".git").mkdir()
    (saved / ".git" / "HEAD").write_text("main")
    for name in ("notes.txt", "pytorch_model.bin", "vocab.txt", "model-1-of-2.safetensors"):
        (saved / name).write_text(name)
    write_directory(saved, lambda folder: save_model(folder, make_model(CONFIG, 1)))
    kept = {path.name for path in saved.iterdir()}
    assert kept == {".git", "notes.txt", "pytorch_model.bin", "config.json", "model.safetensors"}
    assert (saved / ".git" / "HEAD").read_text() == "main"
    assert (saved / "notes.txt").read_text() == "notes.txt"


def test_weights_are_of_a_known_type(saved: Path, make_model: Callable[..., Any]) -> None:
    for dtype in ("int16", "float64", "float99"):
        with pytest.raises(
            CheckpointError, match=f"dtype '{dtype}' is not supported; give float32, "
        ):
            load_model(saved, dtype=dtype)
    for dtype in ("int16", "float64", "float99"):
        with pytest.raises(CheckpointError, match=f"dtype '{dtype}'"):
            save_model(saved, make_model(CONFIG), dtype=dtype)


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_a_pipe_or_a_device_is_never_replaced(tmp_path: Path) -> None:
    """Whoever may rename /dev/zero must not lose it to a checkpoint of that name."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(CheckpointError, match="already exists and is not a checkpoint"):
            write_directory(tmp_path / name, lambda folder: None)
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_a_full_disk_is_said_of_the_directory(tmp_path: Path) -> None:
    """Not of the hidden folder, which nobody knows of."""

    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "model.safetensors"))

    with pytest.raises(OutputError, match=r"/new: cannot be written \(No space left"):
        write_directory(tmp_path / "new", full)
    assert list(tmp_path.iterdir()) == []
