"""A writer of PyTorch's two file formats, so that no test needs PyTorch."""

import dataclasses
import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

KINDS = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
}


@dataclasses.dataclass
class Global:
    """A name that the file asks its reader to import."""

    module: str
    name: str

    def __call__(self) -> None:
        """The pickler wants what it writes calls of to be callable."""


@dataclasses.dataclass
class Call:
    """A call that the file asks its reader to make."""

    function: Global
    arguments: tuple


@dataclasses.dataclass(eq=False)
class Storage:
    """The memory that tensors are views of."""

    values: np.ndarray

    @property
    def kind(self) -> Global:
        """Dtypes that came late have no storages of their own, but lie in bytes."""
        if self.values.dtype.name in KINDS:
            return Global("torch", KINDS[self.values.dtype.name])
        return Global("torch.storage", "UntypedStorage")

    @property
    def size(self) -> int:
        """In values, or in bytes."""
        return self.values.size if self.values.dtype.name in KINDS else self.values.nbytes


def tensor(storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Call:
    """A view of a storage."""
    arguments = (storage, offset, shape, strides, False, OrderedDict())
    if storage.kind.name != "UntypedStorage":
        return Call(Global("torch._utils", "_rebuild_tensor_v2"), arguments)
    dtype = Global("torch", storage.values.dtype.name)
    return Call(Global("torch._utils", "_rebuild_tensor_v3"), (*arguments, dtype))


class Writer(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Python's own pickler, for it can be taught to name what it does not have."""

    def __init__(self, file: io.BytesIO, *, view: bool = True):
        super().__init__(file, protocol=2)
        self.view = (None,) if view else ()
        self.storages: dict[str, Storage] = {}

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        else:
            super().save(obj, save_persistent_id)

    def reducer_override(self, obj: Any) -> Any:
        return (obj.function, obj.arguments) if isinstance(obj, Call) else NotImplemented

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        key = str(id(obj))
        self.storages[key] = obj
        return ("storage", obj.kind, key, "cpu", obj.size, *self.view)


def torch_bytes(content: Any) -> bytes:
    """What `torch.save(content, file, _use_new_zipfile_serialization=False)` writes."""
    file = io.BytesIO()
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"long": 4}}
    for header in (0x1950A86A20F9469CFC6C, 1001, system):
        pickle.dump(header, file, protocol=2)
    writer = Writer(file)
    writer.dump(content)
    pickle.dump(sorted(writer.storages), file, protocol=2)
    for _, storage in sorted(writer.storages.items()):
        file.write(struct.pack("<q", storage.size) + storage.values.tobytes())
    return file.getvalue()


def zip_bytes(content: Any, *, compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    """What `torch.save(content, file)` writes; `members` are further ones, or replace some.

    Content that is bytes is the pickle itself.
    """
    pickled = io.BytesIO(content if isinstance(content, bytes) else b"")
    writer = Writer(pickled, view=False)
    if not isinstance(content, bytes):
        writer.dump(content)
    files = {"data.pkl": pickled.getvalue(), "byteorder": b"little"}
    files |= {f"data/{key}": x.values.tobytes() for key, x in writer.storages.items()}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", compression) as file:
        for name, value in (files | {"version": b"3\n"} | members).items():
            file.writestr(f"archive/{name}", value)
    return archive.getvalue()


@pytest.fixture
def torch_file(tmp_path: Path) -> Callable[..., Path]:
    """Write content, or raw bytes, as a .pth file."""

    def write(content: Any) -> Path:
        path = tmp_path / "weights.pth"
        path.write_bytes(content if isinstance(content, bytes) else torch_bytes(content))
        return path

    return write


@pytest.fixture
def torch_format() -> Any:
    """The pieces of the format: `Global`, `Call`, `Storage`, `tensor`, and the two containers."""
    from types import SimpleNamespace

    return SimpleNamespace(
        Global=Global, Call=Call, Storage=Storage, tensor=tensor, bytes=torch_bytes, zip=zip_bytes
    )
