"""PyTorch's files, read without PyTorch and without running what they say."""

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captax.checkpoints.torch_file import TorchFileError, read_torch_file

Write = Callable[..., Path]


def test_tensors_come_back_by_name_and_in_order(torch_file: Write, torch_format: Any) -> None:
    storage, tensor = torch_format.Storage, torch_format.tensor
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((4, 3, 2, 2)).astype(np.float32)
    shared = storage(np.arange(12, dtype=np.float32))
    content = OrderedDict(
        [
            ("z.weight", tensor(storage(kernel.reshape(-1)), 0, (4, 3, 2, 2), (12, 4, 2, 1))),
            ("rows", tensor(shared, 0, (3, 4), (4, 1))),
            ("transposed", tensor(shared, 0, (4, 3), (1, 4))),
            ("middle_column", tensor(shared, 1, (3,), (4,))),
            ("last", tensor(shared, 11, (), ())),
            ("batches", tensor(storage(np.array([7])), 0, (), ())),
            ("nothing", tensor(storage(np.zeros(0, np.float32)), 0, (0, 3), (3, 1))),
            ("half", tensor(storage(np.array([0.5, -2], np.float16)), 0, (2,), (1,))),
            ("double", tensor(storage(np.array([1e-300])), 0, (1,), (1,))),
            ("bytes", tensor(storage(np.array([255], np.uint8)), 0, (1,), (1,))),
            ("flags", tensor(storage(np.array([True, False])), 0, (2,), (1,))),
            ("epoch", 3),
        ]
    )
    tensors = read_torch_file(torch_file(content))
    assert list(tensors) == [name for name in content if name != "epoch"]
    np.testing.assert_array_equal(tensors["z.weight"], kernel)
    rows = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(tensors["rows"], rows)
    np.testing.assert_array_equal(tensors["transposed"], rows.T)
    np.testing.assert_array_equal(tensors["middle_column"], [1, 5, 9])
    assert tensors["last"] == 11 and tensors["last"].shape == ()
    assert tensors["batches"] == 7 and tensors["batches"].dtype == np.int64
    assert tensors["nothing"].shape == (0, 3)
    np.testing.assert_array_equal(tensors["half"], np.array([0.5, -2], np.float16), strict=True)
    np.testing.assert_array_equal(tensors["double"], np.array([1e-300]), strict=True)
    assert tensors["bytes"].dtype == np.uint8 and tensors["bytes"][0] == 255
    np.testing.assert_array_equal(tensors["flags"], np.array([True, False]), strict=True)
    tensors["rows"][0, 0] = 5  # a copy of its own, not a view of the others'
    assert tensors["transposed"][0, 0] == 0


@pytest.mark.parametrize("where", ["tensor", "header", "metadata"])
@pytest.mark.parametrize(
    ("module", "name", "argument"),
    [
        ("os", "system", "touch {}"),
        ("posix", "system", "touch {}"),
        ("builtins", "eval", "open({!r}, 'w')"),
        ("__builtin__", "eval", "open({!r}, 'w')"),
        ("torch", "load", "{}"),
        ("collections", "OrderedDict.fromkeys", "{}"),
    ],
)
def test_a_file_that_would_run_something_is_refused_by_name_and_nothing_runs(
    torch_file: Write,
    torch_format: Any,
    tmp_path: Path,
    where: str,
    module: str,
    name: str,
    argument: str,
) -> None:
    marker = tmp_path / "ran"
    call = torch_format.Call(
        torch_format.Global(module, name), (argument.format(os.fspath(marker)),)
    )
    good = torch_format.tensor(torch_format.Storage(np.zeros(1, np.float32)), 0, (1,), (1,))
    if where == "tensor":
        content = torch_format.bytes({"weight": good, "other": call})
    elif where == "metadata":
        content = torch_format.bytes(OrderedDict({"weight": good, "_metadata": [call]}))
    else:  # instead of the magic number, the first thing that is read
        content = torch_format.bytes({"weight": good})
        content = torch_format.bytes(call)[len(pickle.dumps(0x1950A86A20F9469CFC6C, 2)) :] + content
        content = content[content.index(module.encode()) - 1 :]
    path = torch_file(content)
    with pytest.raises(TorchFileError, match=f"weights.pth: .* run {module}.{name}") as caught:
        read_torch_file(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_a_newer_pickle_cannot_run_anything_either(torch_file: Write, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (os.fspath(tmp_path / "ran"),)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TorchFileError, match="mkdir"):
            read_torch_file(torch_file(pickle.dumps(Evil(), protocol)))
    assert not (tmp_path / "ran").exists()


def test_a_file_cut_anywhere_is_refused_in_one_line(torch_file: Write, torch_format: Any) -> None:
    values = torch_format.Storage(np.arange(5, dtype=np.float32))
    whole = torch_format.bytes(
        {
            "a": torch_format.tensor(values, 0, (5,), (1,)),
            "b": torch_format.tensor(values, 2, (), ()),
        }
    )
    assert list(read_torch_file(torch_file(whole))) == ["a", "b"]
    for size in range(len(whole)):
        with pytest.raises(TorchFileError, match=r"weights\.pth: ") as caught:
            read_torch_file(torch_file(whole[:size]))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "offset", "shape", "strides"),
    [
        (6, 0, (7,), (1,)),
        (6, 6, (1,), (1,)),
        (6, 6, (), ()),
        (6, 0, (2, 3), (4, 1)),
        (6, -1, (2,), (1,)),
        (6, 5, (3,), (-1,)),
        (6, 0, (2,), (2**62,)),
        (6, 0, (-2,), (1,)),
        (0, 0, (), ()),
        (0, 0, (1,), (1,)),
        (6, 0, (7,), (0,)),  # one value again and again could fill any memory
        (6, 0, (10**15,), (0,)),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(
    torch_file: Write,
    torch_format: Any,
    size: int,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> None:
    storage = torch_format.Storage(np.zeros(size, np.float32))
    path = torch_file({"weight": torch_format.tensor(storage, offset, shape, strides)})
    with pytest.raises(TorchFileError, match="not a readable"):
        read_torch_file(path)


def test_what_is_no_checkpoint_is_refused(torch_file: Write, torch_format: Any) -> None:
    not_a_dictionary = torch_format.bytes([1, 2])
    wrong_magic = pickle.dumps(5, 2) + torch_format.bytes({})
    for content in (b"", b"not a pickle", b"PK\x03\x04zip", not_a_dictionary, wrong_magic):
        with pytest.raises(TorchFileError, match=r"weights\.pth: not a readable PyTorch"):
            read_torch_file(torch_file(content))
    with pytest.raises(TorchFileError, match="no such file"):
        read_torch_file("/nowhere/weights.pth")
