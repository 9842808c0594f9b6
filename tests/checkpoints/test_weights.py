"""Weights of checkpoint directories, tensor by tensor."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from captax.checkpoints.state import CheckpointError
from captax.checkpoints.weights import NAMES, LazyTensor, open_weights

TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array(7, np.int64),
    "none": np.zeros((0, 4), np.float32),
    "flags": np.array([True, False, True]),
    "brain": np.arange(5).astype(ml_dtypes.bfloat16),
    "bytes": np.arange(3, dtype=np.uint8),
}


def save(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
    return path


def raw(path: Path, header: Any, values: bytes = b"", *, length: int | None = None) -> Path:
    """A file whose header is what it is given."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + values)
    return path


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def index(path: Path, places: dict[str, Any]) -> None:
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))


def check(opened: dict[str, LazyTensor], tensors: dict[str, np.ndarray]) -> None:
    assert opened.keys() == tensors.keys()
    for name, want in tensors.items():
        assert (opened[name].shape, opened[name].dtype) == (want.shape, want.dtype)
        got = opened[name].read()
        np.testing.assert_array_equal(got, want, strict=True)
        assert got.flags.writeable and got.flags.c_contiguous


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "model.safetensors", TENSORS)
    check(open_weights(path), TENSORS)
    check(open_weights(tmp_path), TENSORS)
    tensor = open_weights(path)["b"]
    tensor.read()[:] = 0
    np.testing.assert_array_equal(tensor.read(), TENSORS["b"])  # fresh every time


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("BF16", "bfloat16"),
        *((f"F{8 * size}", f"float{8 * size}") for size in (2, 4, 8)),
        *((f"I{8 * size}", f"int{8 * size}") for size in (1, 2, 4, 8)),
        *((f"U{8 * size}", f"uint{8 * size}") for size in (1, 2, 4, 8)),
        *(("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2"), ("F8_E8M0", "float8_e8m0fnu")),
        ("C64", "complex64"),
    ],
)
def test_every_dtype_keeps_its_bits(tmp_path: Path, kind: str, dtype: str) -> None:
    wanted = np.dtype(getattr(ml_dtypes, dtype, dtype))
    values = np.random.default_rng(0).bytes(6 * wanted.itemsize)
    header = {"w": entry(0, len(values), [2, 3], kind)}
    tensor = open_weights(raw(tmp_path / "x.safetensors", header, values))["w"]
    assert tensor.dtype == tensor.read().dtype == wanted
    assert tensor.read().tobytes() == values


@hypothesis.given(st.dictionaries(st.text(max_size=4), st.lists(st.integers(0, 3), max_size=3)))
@hypothesis.settings(
    max_examples=25, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_any_names_and_shapes_are_read(tmp_path: Path, shapes: dict[str, list[int]]) -> None:
    shapes.pop("__metadata__", None)
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    tensors = {name: np.asarray(value) for name, value in tensors.items()}
    check(open_weights(save(tmp_path / "x.safetensors", tensors)), tensors)


def test_forms_are_looked_for_in_order(
    tmp_path: Path, torch_format: Any, torch_file: Callable[[Any], Path]
) -> None:
    def torch(value: float) -> bytes:
        storage = torch_format.Storage(np.full(2, value, np.float32))
        content = {"w": torch_format.tensor(storage, 0, (2,), (1,))}
        return torch_format.zip(content) if value == 3 else torch_format.bytes(content)

    def found() -> float:
        return float(open_weights(tmp_path)["w"].read()[0])

    (tmp_path / "pytorch_model-1.bin").write_bytes(torch(4))
    index(tmp_path / "pytorch_model.bin.index.json", {"w": "pytorch_model-1.bin"})
    assert found() == 4
    (tmp_path / "pytorch_model.bin").write_bytes(torch(3))
    assert found() == 3
    save(tmp_path / "model-1.safetensors", {"w": np.full(2, 2, np.float32)})
    index(tmp_path / "model.safetensors.index.json", {"w": "model-1.safetensors"})
    assert found() == 2
    save(tmp_path / "model.safetensors", {"w": np.full(2, 1, np.float32)})
    assert found() == 1


def test_shards_are_one_set_of_weights(tmp_path: Path) -> None:
    names = list(TENSORS)
    parts = {"model-1-of-2.safetensors": names[:2], "model-2-of-2.safetensors": names[2:]}
    for shard, some in parts.items():
        save(tmp_path / shard, {name: TENSORS[name] for name in some})
    path = tmp_path / "model.safetensors.index.json"
    places = {name: shard for shard, some in parts.items() for name in some}
    index(path, places)
    check(open_weights(tmp_path), TENSORS)

    def refused(places: Any, match: str) -> None:
        index(path, places)
        with pytest.raises(CheckpointError, match=match):
            open_weights(tmp_path)

    lacking = dict.fromkeys("vwxyz", "model-1-of-2.safetensors")
    refused(places | lacking, r"index.json: names 'v', 'w', 'x', \.\.\., which the shards lack")
    refused(
        places | {"z": "model-3-of-2.safetensors"}, "names model-3-of-2.safetensors, which is m"
    )
    refused(places | {"z": "m" * 300}, "names m+, which is missing")
    for shard in ("../x.safetensors", "/etc/passwd", "a/b", "..", "", ".x", "a\\b", "C:x", 3, None):
        (tmp_path.parent / "x.safetensors").write_bytes((tmp_path / names_of(places)).read_bytes())
        refused({"b": shard}, "which is not a file of the checkpoint|which is missing")
    for none in ({}, [], None, "x"):
        refused(none, "has no weight_map of its tensors")
    path.write_text("[1]")
    with pytest.raises(CheckpointError, match="has no weight_map of its tensors"):
        open_weights(tmp_path)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        open_weights(tmp_path)


def names_of(places: dict[str, str]) -> str:
    return next(iter(places.values()))


def test_a_directory_without_weights_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no weights; looked for model.safetensors, .*"
    ) as no:
        open_weights(tmp_path)
    assert all(name in str(no.value) for name in NAMES)
    for name in ("flax_model.msgpack", "tf_model.h5"):
        (tmp_path / name).touch()
    with pytest.raises(
        CheckpointError, match="only Flax and TensorFlow weights, which are not sup"
    ):
        open_weights(tmp_path)
    with pytest.raises(CheckpointError, match=r"nowhere: cannot be read \(No such file"):
        open_weights(tmp_path / "nowhere")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "model.safetensors", {"w": TENSORS["b"], "x": TENSORS["brain"]})
    whole = path.read_bytes()
    for changed in (*(whole[:size] for size in range(len(whole))), whole + b"\0"):
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: ") as caught:
            open_weights(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "values", "match"),
    [
        ({"w": entry(0, 8, [3])}, 8, "of w do not fit"),
        ({"w": entry(0, 8, [2])}, 12, "has 81 bytes, and its header describes 77"),
        ({"w": entry(0, 80, [20])}, 8, "header describes"),
        ({"w": entry(4, 8, [1])}, 8, "w does not begin where"),
        ({"w": entry(-4, 0, [1])}, 0, "of w do not fit"),
        ({"w": entry(8, 0, [-2])}, 8, "of w do not fit"),
        ({"w": entry(0, 8, [2]), "x": entry(4, 8, [1])}, 8, "x does not begin where"),
        ({"w": entry(0, 8, [2]), "x": entry(0, 8, [2])}, 8, "x does not begin where"),
        ({"w": entry(0, 4, [1]), "x": entry(8, 12, [1])}, 12, "x does not begin where"),
        ({"w": entry(0, 0, [0, 2**62])}, 0, "of w do not fit"),
        ({"w": entry(0, 0, [0, 2**40, 2**40])}, 0, "of w do not fit"),
        ({"w": entry(0, 4, [1] * 65)}, 4, "of w do not fit"),
        ({"w": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, 4, "of w do not fit"),
        ({"w": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, 4, "of w do not fit"),
        ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, 4, "of w do not fit"),
        ({"w": {"dtype": "F32", "shape": [1]}}, 4, "of w do not fit"),
        ({"w": [1]}, 4, "of w do not fit"),
        (
            {"w": entry(0, 1, [2], "F4")},
            1,
            "'w' has dtype 'F4', which is not supported; convert it",
        ),
        ({"a\nb": [1]}, 0, "of a b do not fit"),
        (b'{"w": 1, "w": 2}', 0, "has a name twice"),
        (b'{"w": ' + b"[" * 100_000, 0, "not JSON"),
        (b'{"w": ' + b"9" * 10_000 + b"}", 0, "not JSON"),
        (b'{"\xff": 1}', 0, "not JSON"),
    ],
)
def test_a_header_that_lies_is_refused(
    tmp_path: Path, header: Any, values: int, match: str
) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        open_weights(raw(tmp_path / "x.safetensors", header, bytes(values)))
    assert "\n" not in str(caught.value) and "x.safetensors: " in str(caught.value)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**40, 26 * 2**20, 100])
def test_a_header_longer_than_the_file_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(CheckpointError, match="header"):
        open_weights(raw(tmp_path / "x.safetensors", {}, length=length))


def test_what_are_no_weights_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n")
    with pytest.raises(CheckpointError, match="is a git-lfs pointer"):
        open_weights(path)
    path.write_text("<!doctype html>")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        open_weights(tmp_path)
    path.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not a readable PyTorch checkpoint"):
        open_weights(tmp_path)


@pytest.mark.slow
def test_only_the_tensors_that_are_asked_for_take_memory(tmp_path: Path, torch_format: Any) -> None:
    """A child reads 400 MB, a tensor at a time, and says how far its memory grew."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("needs /proc")
    values = np.ones(25 * 2**20 // 4, np.float32)
    tensors = {f"w{i}": values for i in range(16)}
    storages = [torch_format.Storage(values) for _ in tensors]
    views = {
        name: torch_format.tensor(storage, 0, values.shape, (1,))
        for name, storage in zip(tensors, storages, strict=True)
    }
    save(tmp_path / "w.safetensors", tensors)
    (tmp_path / "zip.bin").write_bytes(torch_format.zip(views))
    (tmp_path / "legacy.bin").write_bytes(torch_format.bytes(views))
    code = """
import sys
from pathlib import Path
from captax.checkpoints.weights import open_weights

def memory(kind):
    status = Path("/proc/self/status").read_text()
    return int(status.split(kind + ":")[1].split()[0]) / 1024

tensors = open_weights(Path(sys.argv[1]))
before = memory("VmRSS")
kept = []
for tensor in tensors.values():
    value = tensor.read()
    if sys.argv[2] == "keep":
        kept.append(value)
print(memory("VmHWM") - before)
"""
    for name in ("w.safetensors", "zip.bin", "legacy.bin"):
        # The system counts the pages of a thread a few at a time, so memory is known by and large.
        for how, least, most in (("drop", 20, 80), ("keep", 0.95 * 400, 1.3 * 400)):
            command = [sys.executable, "-c", code, str(tmp_path / name), how]
            grown = float(subprocess.run(command, check=True, capture_output=True).stdout)
            print(f"{name}, {how}: {grown:.0f} MB")
            assert least <= grown < most
