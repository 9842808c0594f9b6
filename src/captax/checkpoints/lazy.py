"""A tensor on disk: its shape and dtype are known, and its values are read on demand."""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

from captax.errors import CheckpointError
from captax.files import open_regular

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT8 = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in (
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
    )
}
# Bytes of a file that are held at once while a tensor is cast, or laid out in another order.
PIECE = 4 * 2**20
# The limits of what NumPy can index. A larger shape is refused, even if it has a 0 in it.
_MOST_VALUES = 2**56
_MOST_AXES = 32


@dataclasses.dataclass(frozen=True)
class LazyCodes:
    """A matrix in so many `bits`: `read()` gives the codes and scales of a `Quantised`.

    A row has so many `groups`; `dtype` is the type of their scales.
    """

    bits: int
    groups: int
    dtype: np.dtype
    read: Callable[[], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """`read()` reads this tensor alone into a fresh array; nothing stays mapped or cached.

    `part(first, count)`, where there is one, reads so many rows: parts along the first axis.
    `codes`, where there are some, are what its numbers are made of.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    part: Callable[[int, int], np.ndarray] | None = None
    codes: LazyCodes | None = None

    def rows(self, first: int, count: int) -> np.ndarray:
        """So many rows; the whole is read if there is no `part`."""
        if self.part is None:
            return self.read()[first : first + count]
        return self.part(first, count)

    def read_into(self, array: np.ndarray) -> None:
        """Read into `array`, which has this shape and any type and order, a piece at a time."""
        if self.part is None or not self.shape:
            array[...] = self.read()
            return
        rows = self.shape[0]
        row_bytes = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        count = max(1, PIECE // row_bytes)
        for first in range(0, rows, count):
            array[first : first + count] = self.part(first, min(count, rows - first))


def stored(path: Path, dtype: np.dtype, shape: tuple[int, ...], offset: int) -> LazyTensor:
    """A tensor whose values lie in row-major order at byte `offset` of `path`."""

    def part(first: int, count: int) -> np.ndarray:
        begin = offset + first * math.prod(shape[1:]) * dtype.itemsize
        return _read(path, dtype, (count, *shape[1:]), begin)

    return LazyTensor(shape, dtype, functools.partial(_read, path, dtype, shape, offset), part)


def strided(
    path: Path, dtype: np.dtype, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> LazyTensor:
    """A tensor whose neighbours along each axis lie `strides` values apart."""
    row_major = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    if 0 in shape or all(
        size == 1 or have == want
        for size, have, want in zip(shape, strides, row_major, strict=True)
    ):
        return stored(path, dtype, shape, offset)

    def read() -> np.ndarray:
        span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        values = _read(path, dtype, (span,), offset)
        steps = tuple(stride * dtype.itemsize for stride in strides)
        return np.ndarray(shape, dtype, values, strides=steps).copy()

    return LazyTensor(shape, dtype, read)


def transposed(tensor: LazyTensor | np.ndarray) -> LazyTensor:
    """A tensor with its axes in the reverse order."""

    def read() -> np.ndarray:
        return (tensor.read() if isinstance(tensor, LazyTensor) else tensor).T

    return LazyTensor(tuple(tensor.shape)[::-1], tensor.dtype, read)


def is_shape(value: object) -> bool:
    """Whether `value`, read from a file, can be the shape of an array."""
    return (
        isinstance(value, tuple | list)
        and len(value) <= _MOST_AXES
        and all(type(size) is int and 0 <= size < _MOST_VALUES for size in value)
        and math.prod(max(size, 1) for size in value) < _MOST_VALUES
    )


def _read(path: Path, dtype: np.dtype, shape: tuple[int, ...], offset: int) -> np.ndarray:
    # The file is not mapped: touched pages would count as memory until it is closed.
    raw = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
    try:
        with open_regular(path) as file:
            file.seek(offset)
            done = 0
            while done < len(raw) and (count := file.readinto(raw[done:].data)):
                done += count
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    if done < len(raw):
        raise CheckpointError(f"{path}: ends before its last tensor; download it again")
    return raw.view(dtype).reshape(shape)
