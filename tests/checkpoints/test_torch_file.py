"""PyTorch's files, read without PyTorch and without running what they say."""

import copyreg
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from captax.checkpoints import torch_file as module
from captax.checkpoints import torch_pickle
from captax.checkpoints.state import CheckpointError
from captax.checkpoints.torch_file import TorchFileError, open_torch_file, read_torch_file

Write = Callable[..., Path]


@pytest.fixture(params=["legacy", "zip"])
def container(request: pytest.FixtureRequest, torch_format: Any) -> Callable[[Any], bytes]:
    """The content in one container and in the other."""
    return torch_format.zip if request.param == "zip" else torch_format.bytes


def test_tensors_come_back_by_name_and_in_order(
    torch_file: Write, torch_format: Any, container: Callable[[Any], bytes]
) -> None:
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
    tensors = read_torch_file(torch_file(container(content)))
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
    lazy = open_torch_file(torch_file(container(content)))
    for name, value in tensors.items():
        assert (lazy[name].shape, lazy[name].dtype) == (value.shape, value.dtype)
        np.testing.assert_array_equal(lazy[name].read(), value)
    tensors["rows"][0, 0] = 5  # a copy of its own, not a view of the others'
    assert tensors["transposed"][0, 0] == 0


@pytest.mark.parametrize(
    "dtype",
    [
        *("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
        *("float8_e8m0fnu", "uint16", "uint32", "uint64", "int16", "int8", "complex64"),
    ],
)
def test_every_dtype_keeps_its_bits(
    torch_file: Write, torch_format: Any, container: Callable[[Any], bytes], dtype: str
) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    raw = np.random.default_rng(0).integers(0, 256, 12 * kind.itemsize, np.uint8)
    values = torch_format.Storage(raw.view(kind))
    parameter = torch_format.Call(
        torch_format.Global("torch._utils", "_rebuild_parameter"),
        (torch_format.tensor(values, 0, (3, 4), (4, 1)), True, OrderedDict()),
    )
    content = {"whole": parameter, "part": torch_format.tensor(values, 5, (2, 2), (4, 2))}
    tensors = read_torch_file(torch_file(container(content)))
    assert tensors["whole"].dtype == tensors["part"].dtype == kind
    assert tensors["whole"].tobytes() == raw.tobytes()
    items = raw.reshape(12, kind.itemsize)
    assert tensors["part"].tobytes() == items[[5, 7, 9, 11]].tobytes()


def test_the_only_dictionary_of_tensors_within_is_taken(
    torch_file: Write, torch_format: Any, container: Callable[[Any], bytes]
) -> None:
    weight = torch_format.tensor(torch_format.Storage(np.ones(2, np.float32)), 0, (2,), (1,))
    state = {"state": {0: {"step": weight}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    content = {"epoch": 3, "state_dict": {"w": weight}, "optimizer": state, "args": ("a", None)}
    assert list(read_torch_file(torch_file(container(content)))) == ["w"]
    for several, found in (
        ({"model": {"w": weight}, "ema": {"w": weight}}, "'model', 'ema'"),
        ({"w": weight, "ema": {"w": weight}}, "'the file itself', 'ema'"),
    ):
        with pytest.raises(TorchFileError, match=rf"several dictionaries of tensors \({found}\)"):
            read_torch_file(torch_file(container(several)))
    for none in ({}, {"a": {"b": {"w": weight}}}, [weight], weight, {3: weight}):
        with pytest.raises(TorchFileError, match=r"no dictionary of tensors|named by text, not 3"):
            read_torch_file(torch_file(container(none)))


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


def test_a_file_cut_anywhere_is_refused_in_one_line(
    torch_file: Write, torch_format: Any, container: Callable[[Any], bytes]
) -> None:
    values = torch_format.Storage(np.arange(5, dtype=np.float32))
    whole = container(
        {
            "a": torch_format.tensor(values, 0, (5,), (1,)),
            "b": torch_format.tensor(values, 2, (), ()),
        }
    )
    assert list(read_torch_file(torch_file(whole))) == ["a", "b"]
    for size in range(0, len(whole), 1 if whole[:2] != b"PK" else 7):
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
    container: Callable[[Any], bytes],
    size: int,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> None:
    storage = torch_format.Storage(np.zeros(size, np.float32))
    path = torch_file(container({"weight": torch_format.tensor(storage, offset, shape, strides)}))
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


@pytest.mark.parametrize(
    ("instructions", "named"),
    [
        (b"\x82\x07.", "EXT1"),
        (b"\x83\x07\x00.", "EXT2"),
        (b"\x84\x07\x00\x00\x00.", "EXT4"),
        (b"cos\nsystem\n(X\x01\x00\x00\x00xtR.", "run os.system"),
        (b"(X\x01\x00\x00\x00xios\nsystem\n.", "run os.system"),
        (b"(cos\nsystem\nX\x01\x00\x00\x00xo.", "run os.system"),
        (b"\x8c\x02os\x8c\x06system\x93(X\x01\x00\x00\x00xtR.", "run os.system"),
        (b"(icollections\nOrderedDict\n.", "makes an object of collections OrderedDict"),
        (b"(ccollections\nOrderedDict\no.", "OBJ"),
        (b"ccollections\nOrderedDict\n)\x81.", "NEWOBJ"),
        (b"ccollections\nOrderedDict\n)}\x92.", "NEWOBJ_EX"),
        (b"ccollections\nOrderedDict\n(]tR.", "a call"),
        (b"ctorch\nFloatStorage\n)R.", "a call"),
        (b"}(X\x01\x00\x00\x00xtR.", "a call"),
        (b"ctorch._utils\n_rebuild_tensor_v2\nN}X\x05\x00\x00\x00itemsNs\x86b.", "attributes of"),
        (b"ctorch\nFloatStorage\n}b.", "attributes of"),
        (b"Pkey\n.", "PERSID"),
        (b"X\x01\x00\x00\x00xQ.", "not to a tensor's storage"),
        (b"\x97.", "NEXT_BUFFER"),
    ],
)
def test_no_instruction_that_could_run_something_is_followed(
    torch_file: Write, torch_format: Any, instructions: bytes, named: str
) -> None:
    copyreg.add_extension("os", "system", 7)
    try:
        with pytest.raises(TorchFileError, match=f"{named}.*; do not use it"):
            read_torch_file(torch_file(torch_format.zip(b"\x80\x02" + instructions)))
    finally:
        copyreg.remove_extension("os", "system", 7)


def test_attributes_that_a_file_sets_reach_nothing(torch_file: Write, torch_format: Any) -> None:
    weight = torch_format.tensor(torch_format.Storage(np.ones(1, np.float32)), 0, (1,), (1,))

    class Dictionary(OrderedDict):
        def __reduce__(self) -> tuple:
            attributes = {"items": None, "values": None, "_metadata": {}}
            function = torch_format.Global("collections", "OrderedDict")
            return function, (), (attributes, attributes), None, iter({"w": weight}.items())

    assert read_torch_file(torch_file(torch_format.zip(Dictionary())))["w"] == 1
    assert list(OrderedDict(a=1).items()) == [("a", 1)]


NONE = "holds no dictionary of tensors"


@pytest.mark.parametrize(
    ("instructions", "match"),
    [
        (b"}r\xff\xff\xff\xff.", NONE),  # a memo of four thousand million places
        (b"}p99999999999\n.", NONE),
        (b"\x8e" + struct.pack("<Q", 2**60) + b".", "ValueError|MemoryError"),
        (b"\x8d" + struct.pack("<Q", 2**60) + b".", "ValueError|MemoryError"),
        (b"\x96" + struct.pack("<Q", 2**60) + b".", "ValueError|MemoryError"),
        (b"\x8b\xff\xff\xff\x7f.", "ValueError"),
        (b"I" + b"9" * 100_000 + b"\n.", "ValueError"),
        # Of what is hashed: tuples in tuples, deep enough, overflow the interpreter's stack.
        (b"}N" + b"\x85" * 1_000 + b"Ns.", "has keys other than text and numbers"),
        (b"}]Ns.", "has keys other than text and numbers"),
        (b"(]Nd.", "has keys other than text and numbers"),
        (b"](X\x01\x00\x00\x00xNu.", "has keys other than text and numbers"),
        (b"]X\x01\x00\x00\x00x\x93.", r"run \[\]\.x"),
        (b"X\x0c\x00\x00\x00torch._utils]\x93.", r"run torch\._utils\.\[\]"),
        (b"}Na.", "appends to something other than a list"),
        (b"N" + b"\x85" * 1_000 + b".", NONE),
        (b"\x85.", "takes more from its stack than it put there"),
        (b"h\x05.", "KeyError"),
        (b"t.", "IndexError"),
        (b"N", "ValueError"),
    ],
)
def test_a_hostile_pickle_costs_little_and_crashes_nothing(
    torch_file: Write, torch_format: Any, instructions: bytes, match: str
) -> None:
    path = torch_file(torch_format.zip(b"\x80\x02" + instructions))
    tracemalloc.start()
    try:
        with pytest.raises(TorchFileError, match=match):
            read_torch_file(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def _nested(levels: int) -> bytes:
    """Instructions for tuples within tuples, with two to the power of `levels` members."""
    return b"N" + b"".join(b"r%sj%s\x86" % (2 * (struct.pack("<I", n),)) for n in range(levels))


@pytest.mark.parametrize(
    ("instructions", "match"),
    [
        (_nested(100) + b"X\x01\x00\x00\x00x\x93.", r"asks to run \(\(\("),
        (b"X\x01\x00\x00\x00x" + _nested(100) + b"\x93.", r"asks to run x\.\(\(\("),
        (_nested(100) + b"Q.", "not to a tensor's storage"),
        (_nested(100) + b".", NONE),
        (b"c" + b"x" * 10**6 + b"\ny\n.", "asks to run xxx"),
        # Numbers whose hash is not kept, and numbers that have the same hash.
        (b"}\x8b" + struct.pack("<I", 10**6) + b"\1" * 10**6 + b"q\0Nsh\0Ns.", "too large"),
        (b"}\x8a\x0a" + b"\1" * 10 + b"Ns.", "has keys other than text and numbers"),
    ],
)
def test_a_file_that_multiplies_what_it_holds_is_read_in_linear_time(
    torch_file: Write, torch_format: Any, instructions: bytes, match: str
) -> None:
    path = torch_file(torch_format.zip(b"\x80\x02" + instructions))
    with pytest.raises(TorchFileError, match=match) as raised:
        read_torch_file(path)
    assert len(str(raised.value)) < 1000


def test_a_pickle_of_too_many_instructions_is_refused(
    torch_file: Write, torch_format: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_pickle, "MOST_INSTRUCTIONS", 1000)
    path = torch_file(torch_format.zip(b"\x80\x02" + b"]" * 1000 + b"."))
    with pytest.raises(TorchFileError, match="more than 1,000 instructions"):
        read_torch_file(path)


def test_one_dictionary_named_very_many_times_is_looked_through_once(
    torch_file: Write, torch_format: Any
) -> None:
    many = 40_000
    big = b"}(" + b"".join(b"M%sN" % struct.pack("<H", n) for n in range(many)) + b"uq\0"
    named = b"".join(b"M%sh\0" % struct.pack("<H", n) for n in range(many))
    path = torch_file(torch_format.zip(b"\x80\x02" + big + b"}(" + named + b"u."))
    with pytest.raises(TorchFileError, match=NONE):
        read_torch_file(path)


def test_a_zip_that_lies_is_refused(
    torch_file: Write, torch_format: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = torch_format.Storage(np.arange(4, dtype=np.float32))
    content = {"w": torch_format.tensor(storage, 0, (4,), (1,))}
    key = f"data/{id(storage)}"
    whole = torch_format.zip(content)
    assert len(read_torch_file(torch_file(whole))["w"]) == 4

    def refused(changed: bytes, match: str) -> None:
        assert changed != whole
        with pytest.raises(TorchFileError, match=match):
            open_torch_file(torch_file(changed))

    refused(torch_format.zip(content, compression=zipfile.ZIP_DEFLATED), "is compressed")
    refused(torch_format.zip(content, byteorder=b"big"), "big-endian machine")
    refused(torch_format.zip(content, **{key: b"12345678"}), "has 8 bytes, not 16")
    refused(torch_format.zip(content, **{key: b"1" * 32}), "has 32 bytes, not 16")
    refused(whole.replace(key.encode(), b"data/" + b"x" * (len(key) - 5)), "KeyError")
    refused(torch_format.zip(content, **{"constants.pkl": b"N."}), "TorchScript program")
    refused(whole.replace(b"data.pkl", b"data.bin"), "that torch.save did not write")
    directory = whole.index(b"PK\x01\x02")
    entry = whole.index(b"PK\x01\x02", directory + 4)  # of byteorder
    entry = whole.index(b"PK\x01\x02", entry + 4)  # of the storage
    for place, format, value in ((42, "<I", 2**31), (42, "<I", 3), (8, "<H", 1)):
        changed = bytearray(whole)
        struct.pack_into(format, changed, entry + place, value)
        refused(bytes(changed), "lies outside the file|or encrypted|not a readable")
    for place in (20, 24):  # both sizes
        struct.pack_into("<I", (changed := bytearray(whole)), entry + place, 10**6)
        refused(bytes(changed), "lies outside|has 1000000 bytes")
    monkeypatch.setattr(module, "PICKLE_LIMIT", 100)
    with pytest.raises(TorchFileError, match=r"data\.pkl has \d+ bytes, far more"):
        read_torch_file(torch_file(whole))


def test_a_file_that_shrinks_after_it_was_opened_is_refused(
    torch_file: Write, torch_format: Any, container: Callable[[Any], bytes]
) -> None:
    storage = torch_format.Storage(np.arange(400, dtype=np.float32))
    whole = container({"w": torch_format.tensor(storage, 0, (400,), (1,))})
    path = torch_file(whole)
    tensor = open_torch_file(path)["w"]
    path.write_bytes(whole[:1000])
    with pytest.raises(CheckpointError, match=r"weights\.pth: ends before its last tensor"):
        tensor.read()
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        tensor.read()
