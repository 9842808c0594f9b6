"""Read the tensors of a PyTorch checkpoint without PyTorch and without running anything in it.

A `.pth` file is a pickle, and unpickling runs whatever the file names. Here only the handful of
names that a dictionary of tensors needs are recognised, each stands for an inert record of ours,
and any other name is refused. The format is that of `torch.save` before PyTorch 1.6: four pickles
(magic number, version, system, object), a pickled list of storage keys, then every storage as a
64-bit count and its raw little-endian values.
"""

import collections
import dataclasses
import math
import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from captax.checkpoints.state import CheckpointError

MAGIC = 0x1950A86A20F9469CFC6C
STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class TorchFileError(CheckpointError):
    """A file is not a PyTorch checkpoint, or holds more than tensors."""


@dataclasses.dataclass
class _Tensor:
    """A view into a storage whose values come later in the file."""

    storage: tuple[str, np.dtype]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(
    storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    """Knows tensors, storages and ordered dictionaries; refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in STORAGE_DTYPES:
            return np.dtype(STORAGE_DTYPES[name])
        raise TorchFileError(f"the file asks to run {module}.{name}, which is not a tensor")

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype]:
        # ("storage", type, key, device, count, view), where view is None in whole checkpoints.
        if not (isinstance(pid, tuple) and len(pid) == 6 and pid[0] == "storage"):
            raise TorchFileError("the file holds a reference that is not to a tensor's storage")
        if not isinstance(pid[1], np.dtype) or pid[5] is not None:
            raise TorchFileError("the file holds a storage of an unknown kind")
        return str(pid[2]), pid[1]


def read_torch_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Tensors by name, in the order of the file.

    Raises `TorchFileError` when the file is cut short, is no checkpoint, or names anything to
    execute; nothing in it is executed.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _read(file)
    except TorchFileError as error:
        raise TorchFileError(f"{path}: {error}; do not use it") from None
    except FileNotFoundError:
        raise TorchFileError(f"{path}: no such file; give the path of a .pth checkpoint") from None
    except Exception as error:  # A corrupt pickle can raise nearly anything.
        raise TorchFileError(
            f"{path}: not a readable PyTorch checkpoint ({type(error).__name__}: {error}); "
            "download it again"
        ) from None


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    if _Unpickler(file).load() != MAGIC:
        raise ValueError("wrong magic number")
    _Unpickler(file).load()  # Protocol version.
    _Unpickler(file).load()  # Sizes of C types on the writer's machine.
    tensors = _Unpickler(file).load()
    if not isinstance(tensors, dict):
        raise ValueError("holds no dictionary of tensors")
    views = {name: value for name, value in tensors.items() if isinstance(value, _Tensor)}
    dtypes = dict(view.storage for view in views.values())
    storages = {}
    for key in _Unpickler(file).load():
        count = int(np.frombuffer(file.read(8), "<i8")[0])
        dtype = dtypes[key]
        raw = file.read(count * dtype.itemsize)
        if count < 0 or len(raw) != count * dtype.itemsize:
            raise ValueError("the file is cut short")
        storages[key] = np.frombuffer(raw, dtype)
    return {name: _view(storages[view.storage[0]], view) for name, view in views.items()}


def _view(storage: np.ndarray, view: _Tensor) -> np.ndarray:
    """Cut a tensor out of its storage, refusing what would reach outside or repeat it."""
    count = math.prod(view.shape)
    last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
    if count and (
        view.offset < 0
        or min(view.strides, default=0) < 0
        # A stride of 0 could make of one value more than fits in memory.
        or max(last + 1, count) > len(storage)
    ):
        raise ValueError("a tensor lies outside its storage")
    strides = tuple(s * storage.itemsize for s in view.strides)
    return np.lib.stride_tricks.as_strided(
        storage[view.offset :], view.shape, strides, writeable=False
    ).copy()
