"""Files of weights: safetensors, PyTorch's two containers and the pickle within, indices."""

import io
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from captax.checkpoints.weights import open_weights

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))
from checkpoints import conftest as torch_format  # noqa: E402

KINDS = (
    *("model.safetensors", "mended.safetensors", "pytorch_model.bin", "pickle.bin"),
    *("shards/model.safetensors.index.json", "shards-of-torch/pytorch_model.bin.index.json"),
)
WORDS = (
    *(
        b"/etc/hostname",
        b"../../etc/hostname",
        b"dtype",
        b"shape",
        b"data_offsets",
        b"__metadata__",
        b"weight_map",
        b"metadata",
    ),
    *(b"F32", b"F16", b"BF16", b"I64", b"U8", b"BOOL", b"F8_E4M3", b"C64", b"F4"),
    *(b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"),
    *(b"archive/data.pkl", b"archive/data/0", b"archive/byteorder", b"little", b"big"),
    *(b"cposix\nsystem\n", b"cos\nsystem\n", b"cbuiltins\neval\n", b"c__builtin__\nexec\n"),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_tensor_v3\n"),
    *(b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nFloatStorage\n", b"ctorch\nfloat8_e5m2\n"),
    *(b"ccollections\nOrderedDict\n", b"ctorch.storage\nUntypedStorage\n", b"storage", b"cpu"),
    *(b"(", b")", b"]", b"}", b"\x8f", b"Q", b"R", b"\x81", b"\x92", b"b", b"s", b"u", b"a", b"e"),
    *(b"t", b"\x85", b"\x86", b"\x87", b"l", b"d", b"0", b"1", b"2", b"q\x00", b"h\x00", b"j"),
    *(b"r", b"p0\n", b"g0\n", b"\x94", b"N", b"\x88", b"\x89", b"K\x01", b"M\xff\xff", b"J"),
    *(b"\x8a\x08", b"\x8b", b"I1\n", b"L1L\n", b"F1\n", b"G", b"X\x01\0\0\0a", b"\x8c\x01a"),
    *(
        b"\x8d",
        b"B",
        b"C",
        b"\x8e",
        b"\x96",
        b"\x97",
        b"\x98",
        b"T",
        b"U",
        b"S'a'\n",
        b"V\\u0061\n",
    ),
    *(b"i", b"o", b"\x93", b"P1\n", b"\x82", b"\x83", b"\x84", b"\x90", b"\x91", b"\x95", b"."),
)


class _Writer(torch_format.Writer):
    """Storages under the keys that `finish` has: `0` for the first."""

    def persistent_id(self, obj: Any) -> Any:
        reference = super().persistent_id(obj)
        if reference is None:
            return None
        kind, storage, key, *rest = reference
        return (kind, storage, str(list(self.storages).index(key)), *rest)


def _tensors() -> OrderedDict:
    shared = torch_format.Storage(np.arange(12, dtype=np.float32))
    late = torch_format.Storage(np.arange(4, dtype=np.uint16))
    return OrderedDict(
        a=torch_format.tensor(shared, 0, (3, 4), (4, 1)),
        turned=torch_format.tensor(shared, 1, (3, 3), (1, 3)),
        late=torch_format.tensor(late, 0, (4,), (1,)),
        scalar=torch_format.tensor(shared, 11, (), ()),
    )


def _safetensors() -> bytes:
    arrays = {"a": np.ones((3, 4), "f4"), "b": np.arange(2), "none": np.zeros((0, 3), "f2")}
    return safetensors.numpy.save(arrays, metadata={"format": "pt"})


def prepare(inputs: Path) -> None:
    """Shards beside the indices."""
    for folder, shard, content in (
        ("shards", "part.safetensors", _safetensors()),
        ("shards-of-torch", "part.bin", torch_format.zip_bytes(_tensors())),
    ):
        (inputs / folder).mkdir()
        (inputs / folder / shard).write_bytes(content)


def seeds() -> Iterator[tuple[str, bytes]]:
    """A few tensors in every container, and the smallest checkpoints of the tests."""
    yield "model.safetensors", _safetensors()
    yield "mended.safetensors", _safetensors()
    for name in ("resnet", "resnet-classifier"):
        golden = ROOT / "tests" / "golden" / "checkpoints" / name / "model.safetensors"
        yield "mended.safetensors", golden.read_bytes()
    for content in (_tensors(), {"epoch": 3, "state_dict": _tensors(), "args": (1.5, None, [1])}):
        yield "pytorch_model.bin", torch_format.zip_bytes(content)
        yield "pytorch_model.bin", torch_format.torch_bytes(content)
        file = io.BytesIO()
        _Writer(file, view=False).dump(content)
        yield "pickle.bin", file.getvalue()
    yield "pickle.bin", b"\x80\x02" + b"]" * 500 + b"a" * 499 + b"."
    index = b'{"metadata": {}, "weight_map": {"a": "%s", "%s": "%s"}}'
    st, torch = KINDS[-2:]
    yield st, index % (b"part.safetensors", b"b", b"part.safetensors")
    yield torch, index % (b"part.bin", b"late", b"part.bin")
    yield st, b"[" * 20_000


def finish(kind: str, content: bytes) -> bytes:
    """A mended safetensors file says its header's length; a pickle is put into its container."""
    if kind == "mended.safetensors":
        end = content.rfind(b"}", 0, 100_000) + 1
        return struct.pack("<Q", max(0, end - 8)) + content[8:]
    if kind == "pickle.bin":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            for key, size in enumerate((48, 8)):
                archive.writestr(f"archive/data/{key}", bytes(size))
        return file.getvalue()
    return content


def read(path: Path) -> None:
    """Read every tensor."""
    for tensor in open_weights(path.parent if path.suffix == ".json" else path).values():
        value = tensor.read()
        assert value.shape == tensor.shape and value.dtype == tensor.dtype
