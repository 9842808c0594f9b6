"""A writer of PyTorch's file format before 1.6, so that no test needs PyTorch."""

import dataclasses
import io
import pickle
import struct
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
    "int64": "LongStorage",
    "int32": "IntStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
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


def tensor(storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Call:
    """A view of a storage."""
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, (storage, offset, shape, strides, False, OrderedDict()))


class Writer(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Python's own pickler, for it can be taught to name what it does not have."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file, protocol=2)
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
        kind = Global("torch", KINDS[obj.values.dtype.name])
        return ("storage", kind, key, "cpu", obj.values.size, None)


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
        file.write(struct.pack("<q", storage.values.size) + storage.values.tobytes())
    return file.getvalue()


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
    """The pieces of the format: `Global`, `Call`, `Storage`, `tensor`, `torch_bytes`."""
    from types import SimpleNamespace

    return SimpleNamespace(
        Global=Global, Call=Call, Storage=Storage, tensor=tensor, bytes=torch_bytes
    )
