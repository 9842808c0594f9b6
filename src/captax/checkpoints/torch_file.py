"""Read the tensors of a PyTorch checkpoint without PyTorch and without running anything in it.

There are two containers. Since PyTorch 1.6 the file is a zip archive: it has the pickle
`<name>/data.pkl`, and each storage, uncompressed, as `<name>/data/<key>`. Before 1.6 the file has,
one after another, four pickles (magic number, version, system, object), a pickled list of storage
keys, then every storage as a 64-bit count and its values. Values are little-endian. A storage is
read only when its tensor is asked for.
"""

import io
import math
import os
import struct
import zipfile
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from captax.checkpoints.lazy import LazyTensor, strided
from captax.checkpoints.torch_pickle import TensorView, TorchFileError, load
from captax.errors import quoted
from captax.files import open_regular

MAGIC = 0x1950A86A20F9469CFC6C
# A tensor takes about 150 bytes of pickle. A hostile pickle can take 70 times its size in memory.
PICKLE_LIMIT = 16 * 2**20


def read_torch_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Tensors by name, in the order of the file, as `open_torch_file` finds them."""
    return {name: tensor.read() for name, tensor in open_torch_file(path).items()}


def open_torch_file(path: str | os.PathLike[str]) -> dict[str, LazyTensor]:
    """Tensors by name, in the order of the file, to be read one by one.

    Tensors may lie in the file's dictionary, or in the only dictionary of tensors within it, as in
    `{"epoch": 3, "state_dict": {...}}`. Raises `TorchFileError` when the file is cut short, is no
    checkpoint, or names anything to execute; nothing in it is executed.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            content, find = _open_zip(file) if is_zip else _open_legacy(file)
        return {
            name: _view(path, tensor, *find[tensor.storage.key])
            for name, tensor in _tensors(content).items()
        }
    except TorchFileError as error:
        raise TorchFileError(f"{path}: {_line(error)}") from None
    except FileNotFoundError:
        raise TorchFileError(f"{path}: no such file; give the path of a .pth checkpoint") from None
    except Exception as error:  # A corrupt pickle can raise nearly anything.
        reason = f"{type(error).__name__}: {_line(error)}"
        raise TorchFileError(
            f"{path}: not a readable PyTorch checkpoint ({reason}); download it again"
        ) from None


def _line(error: Exception) -> str:
    """The error as one line of at most 300 characters, since it may quote the file."""
    return " ".join(str(error).split())[:300]


def _open_zip(file: BinaryIO) -> tuple[Any, dict[str, tuple[int, int]]]:
    """The pickled object, and the byte offset and size of every storage."""
    end = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise ValueError("a zip archive that torch.save did not write")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in members:
        raise TorchFileError("is a TorchScript program; save its state_dict() instead")

    def place(name: str) -> tuple[int, int]:
        member = members[folder + name]
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise ValueError(f"{name} is compressed or encrypted")
        file.seek(member.header_offset)
        signature, name_size, extra_size = struct.unpack("<4s22xHH", file.read(30))
        start = member.header_offset + 30 + name_size + extra_size
        if (
            signature != b"PK\x03\x04"
            or start + member.file_size > end
            or (member.compress_size != member.file_size)
        ):
            raise ValueError(f"{name} lies outside the file")
        return start, member.file_size

    def read(name: str) -> bytes:
        start, size = place(name)
        if size > PICKLE_LIMIT:
            raise ValueError(f"{name} has {size} bytes, far more than tensors need")
        file.seek(start)
        return file.read(size)

    if folder + "byteorder" in members and read("byteorder") != b"little":
        raise ValueError("written on a big-endian machine, which is not supported")
    content, storages = load(io.BytesIO(read("data.pkl")))
    places = {}
    for key, storage in storages.items():
        places[key] = place(f"data/{key}")
        if places[key][1] != storage.size:
            raise ValueError(f"storage {key} has {places[key][1]} bytes, not {storage.size}")
    return content, places


def _open_legacy(file: BinaryIO) -> tuple[Any, dict[str, tuple[int, int]]]:
    """What `_open_zip` returns, for the format before PyTorch 1.6."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    pickles = io.BytesIO(file.read(min(end, PICKLE_LIMIT)))
    if load(pickles)[0] != MAGIC:
        raise ValueError("wrong magic number")
    load(pickles)  # Protocol version.
    system = load(pickles)[0]
    if not isinstance(system, dict) or not system.get("little_endian", True):
        raise ValueError("written on a big-endian machine, which is not supported")
    content, storages = load(pickles)
    keys = load(pickles)[0]
    places = {}
    start = pickles.tell()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("a list of storages that are not named by text")
    for key in keys:
        file.seek(start)
        (count,) = struct.unpack("<q", file.read(8))
        storage = storages[key]
        if count != storage.values:
            raise ValueError(f"storage {key} has {count} values, expected {storage.values}")
        places[storage.key] = start + 8, storage.size
        start += 8 + storage.size
        if start > end:
            raise ValueError("the file is cut short")
    return content, places


def _tensors(content: Any) -> dict[str, TensorView]:
    """The one dictionary of tensors: the content itself or one of its values."""
    if not isinstance(content, dict):
        raise ValueError("holds no dictionary of tensors")
    candidates = {}
    known: dict[int, bool] = {}  # the same dictionary can be there very many times
    for where, value in [("the file itself", content), *content.items()]:
        if isinstance(value, dict):
            if id(value) not in known:
                known[id(value)] = any(isinstance(each, TensorView) for each in value.values())
            if known[id(value)]:
                candidates[where] = value
    if not candidates:
        raise ValueError("holds no dictionary of tensors")
    if len(candidates) > 1:
        names = ", ".join(map(quoted, islice(candidates, 5)))
        names += ", ..." if len(candidates) > 5 else ""
        raise TorchFileError(f"holds several dictionaries of tensors ({names}); save one by itself")
    (tensors,) = candidates.values()
    if unnamed := [name for name in tensors if not isinstance(name, str)]:
        raise ValueError(f"tensors are named by text, not {quoted(unnamed[0])}")
    return {name: value for name, value in tensors.items() if isinstance(value, TensorView)}


def _view(path: Path, tensor: TensorView, start: int, size: int) -> LazyTensor:
    """A tensor in its storage of `size` bytes; it must stay inside and not repeat the storage."""
    count = math.prod(tensor.shape)
    last = tensor.offset + sum(
        (n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True)
    )
    if count and (
        tensor.offset < 0
        or min(tensor.strides, default=0) < 0
        # A stride of 0 could repeat one value until it does not fit in memory.
        or max(last + 1, count) * tensor.dtype.itemsize > size
    ):
        raise ValueError("a tensor lies outside its storage")
    offset = start + (tensor.offset * tensor.dtype.itemsize if count else 0)
    return strided(path, tensor.dtype, tensor.shape, tensor.strides, offset)
