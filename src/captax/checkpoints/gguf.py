"""GGUF files, in which llama.cpp keeps language models: one file of metadata and narrow weights.

The format is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
Metadata is read with the header; a tensor is read, and widened to float32, when it is asked for.
Nothing is executed, and no length in the file is trusted before it was compared with the file.

Legend: `blocks` groups of 32 or 256 weights that share scales.
"""

import dataclasses
import math
import os
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from jaxtyping import Float, UInt8

from captax.checkpoints.lazy import BFLOAT16, LazyTensor, is_shape, stored
from captax.checkpoints.state import CheckpointError
from captax.errors import quoted
from captax.files import open_regular

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# A vocabulary of 262,000 tokens takes 10 MB; a larger header is an attack on memory.
HEADER_LIMIT = 100 * 2**20
_MOST_TENSORS, _MOST_KEYS, _MOST_AXES = 100_000, 10_000, 4
_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_STRING, _ARRAY = 8, 9


@dataclasses.dataclass(frozen=True)
class Gguf:
    """What a file holds: values by key, and tensors by name, to be read one by one.

    Arrays of numbers are NumPy's; arrays of texts are lists. `held` has the numbers of weights by
    type. Narrow ones count as bfloat16, which rounds them by less than they were rounded already.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, LazyTensor]
    held: Mapping[str, int]

    def one(self, key: str, default: Any = None) -> Any:
        """A number, a truth value or a text. Raises `CheckpointError` for an array."""
        found = self.metadata.get(key, default)
        if isinstance(found, list | np.ndarray):
            raise CheckpointError(
                f"{self.path}: {key} is an array, which is not supported; give another model"
            )
        return found


def is_gguf(path: Path) -> bool:
    """Whether this is a file that begins as GGUF does."""
    try:
        with open_regular(path) as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def open_gguf(path: Path) -> Gguf:
    """Read the header of a file.

    Raises `CheckpointError` when it is not such a file, is cut short, describes itself wrongly, or
    holds weights in a form that captax does not read.
    """
    try:
        with open_regular(path) as file:
            return _open(path, file)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


class _Header:
    """Reads the header piece by piece, and refuses what the file is too short for."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.file = path, file
        self.size = file.seek(0, os.SEEK_END)
        self.left = min(self.size, HEADER_LIMIT)
        file.seek(0)

    def bytes(self, count: int) -> bytes:
        if count > self.left:
            self.refuse(
                f"has a header of more than {HEADER_LIMIT:,} bytes"
                if self.size > HEADER_LIMIT
                else "is cut short within its header"
            )
        self.left -= count
        return self.file.read(count)

    def number(self, kind: str) -> Any:
        (value,) = struct.unpack(kind, self.bytes(struct.calcsize(kind)))
        return value

    def text(self) -> str:
        return self.bytes(self.number("<Q")).decode("utf-8", "surrogateescape")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            kind, count = self.number("<I"), self.number("<Q")
            if kind == _STRING:
                if count > self.left // 8:  # each has a length of 8 bytes
                    self.bytes(self.left + 1)
                return [self.text() for _ in range(count)]
            dtype = self._scalar(kind)
            return np.frombuffer(self.bytes(count * dtype.itemsize), dtype)
        dtype = self._scalar(kind)
        value = np.frombuffer(self.bytes(dtype.itemsize), dtype)[0]
        # A float32 in as few digits as tell it: 1e-05, and not 9.999999747378752e-06.
        return float(str(value)) if dtype == np.float32 else value.item()

    def _scalar(self, kind: int) -> np.dtype:
        if kind not in _SCALARS:
            self.refuse(f"has metadata of the unknown type {kind}")
        return np.dtype(_SCALARS[kind])

    def refuse(self, what: str) -> NoReturn:
        raise CheckpointError(f"{self.path}: {what}; download it again")


def _open(path: Path, file: BinaryIO) -> Gguf:
    header = _Header(path, file)
    if header.size < 24 or header.bytes(4) != MAGIC:
        raise CheckpointError(f"{path}: not a GGUF file; give a model.gguf of llama.cpp")
    version = header.number("<I")
    if version not in VERSIONS:
        raise CheckpointError(
            f"{path}: GGUF version {version} is not supported; convert it with llama.cpp's scripts"
        )
    count, keys = header.number("<Q"), header.number("<Q")
    if count > _MOST_TENSORS or keys > _MOST_KEYS:
        header.refuse(f"claims {count:,} tensors and {keys:,} keys")
    metadata = {}
    for _ in range(keys):
        key = header.text()
        if key in metadata:
            header.refuse(f"has the key {quoted(key)} twice")
        metadata[key] = header.value(header.number("<I"))
    infos = [_info(header) for _ in range(count)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 2**20:
        header.refuse(f"general.alignment is {quoted(alignment)}")
    begin = -(-file.tell() // alignment) * alignment
    tensors: dict[str, LazyTensor] = {}
    held: Counter[str] = Counter()
    for name, shape, kind, offset in infos:
        if name in tensors:
            header.refuse(f"has the tensor {quoted(name)} twice")
        tensors[name] = _tensor(header, name, shape, kind, begin + offset)
        held[_PLAIN.get(kind, BFLOAT16).name] += math.prod(shape)
    return Gguf(path, metadata, tensors, held)


def _info(header: _Header) -> tuple[str, tuple[int, ...], int, int]:
    """A tensor's name, shape, type and place among the values."""
    name, axes = header.text(), header.number("<I")
    if axes > _MOST_AXES:
        header.refuse(f"{quoted(name)} has {axes} axes")
    shape = tuple(header.number("<Q") for _ in range(axes))[::-1]
    return name, shape, header.number("<I"), header.number("<Q")


def _tensor(
    header: _Header, name: str, shape: tuple[int, ...], kind: int, offset: int
) -> LazyTensor:
    if not is_shape(shape) or not shape:
        header.refuse(f"{quoted(name)} has the shape {quoted(list(shape))}")
    values = math.prod(shape)
    if kind in _PLAIN:
        dtype = _PLAIN[kind]
        size, read = values * dtype.itemsize, stored(header.path, dtype, shape, offset)
    elif kind in _NARROW:
        form = _NARROW[kind]
        if shape[-1] % form.weights:
            header.refuse(f"{quoted(name)} has rows of {shape[-1]}, not whole blocks")
        size = values // form.weights * form.bytes
        read = _narrow(header.path, form, shape, offset)
    else:
        known = ", ".join(["F32", "F16", "BF16", *(form.name for form in _NARROW.values())])
        raise CheckpointError(
            f"{header.path}: {quoted(name)} has weights of type {kind}, which is not supported; "
            f"give a file with {known}"
        )
    if offset + size > header.size:
        header.refuse(f"is cut short: {quoted(name)} ends beyond it")
    return read


def _narrow(path: Path, form: "_Form", shape: tuple[int, ...], offset: int) -> LazyTensor:
    """A narrow tensor, which is widened as it is read, some thousand blocks at a time."""
    rows = shape[0] if len(shape) > 1 else 1
    row = math.prod(shape) // form.weights // max(rows, 1)  # blocks

    def part(first: int = 0, count: int = rows) -> Float[np.ndarray, "..."]:
        begin = offset + first * row * form.bytes
        blocks = stored(path, np.dtype(np.uint8), (count * row, form.bytes), begin).read()
        found = np.empty((len(blocks), form.weights), np.float32)
        for i in range(0, len(blocks), _AT_ONCE):
            found[i : i + _AT_ONCE] = form.widen(blocks[i : i + _AT_ONCE])
        return found.reshape(shape if count == rows else (count, *shape[1:]))

    return LazyTensor(shape, np.dtype(np.float32), part, part if len(shape) > 1 else None)


_AT_ONCE = 4096
_Blocks = UInt8[np.ndarray, "blocks bytes"]
_Weights = Float[np.ndarray, "blocks weights"]


@dataclasses.dataclass(frozen=True)
class _Form:
    """A narrow form: how many weights a block has in how many bytes, and what they are."""

    name: str
    weights: int
    bytes: int
    widen: Callable[[_Blocks], _Weights]


def _half(blocks: _Blocks, begin: int) -> Float[np.ndarray, "blocks 1"]:
    """The half-precision number at a byte of each block."""
    return blocks[:, begin : begin + 2].copy().view("<f2").astype(np.float32)


def _nibbles(packed: _Blocks) -> UInt8[np.ndarray, "blocks values"]:
    """The low halves of some bytes, and then their high halves."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _fifth_bits(packed: _Blocks) -> UInt8[np.ndarray, "blocks 32"]:
    """32 bits, one a weight, as the fifth bit of each."""
    bits = packed.copy().view("<u4") >> np.arange(32, dtype=np.uint32)
    return ((bits & 1) << 4).astype(np.uint8)


def _q4_0(blocks: _Blocks) -> _Weights:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks: _Blocks) -> _Weights:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]) + _half(blocks, 2)


def _q5_0(blocks: _Blocks) -> _Weights:
    codes = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return _half(blocks, 0) * (codes.astype(np.float32) - 16)


def _q5_1(blocks: _Blocks) -> _Weights:
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return _half(blocks, 0) * codes + _half(blocks, 2)


def _q8_0(blocks: _Blocks) -> _Weights:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8)


def _scales_and_minima(packed: _Blocks) -> tuple[_Weights, _Weights]:
    """The 8 scales and 8 minima of 6 bits each that Q4_K and Q5_K pack into 12 bytes."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _scaled(blocks: _Blocks, codes: UInt8[np.ndarray, "blocks 8 32"]) -> _Weights:
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    scales, minima = _half(blocks, 0) * scales, _half(blocks, 2) * minima
    return (scales[..., None] * codes - minima[..., None]).reshape(len(blocks), 256)


def _in_pairs(packed: _Blocks) -> UInt8[np.ndarray, "blocks 8 32"]:
    """The halves of 128 bytes: 32 low ones, the same bytes' high ones, and so on."""
    bytes = packed.reshape(-1, 4, 1, 32)
    return np.concatenate([bytes & 15, bytes >> 4], axis=2).reshape(-1, 8, 32)


def _q4_k(blocks: _Blocks) -> _Weights:
    return _scaled(blocks, _in_pairs(blocks[:, 16:]))


def _q5_k(blocks: _Blocks) -> _Weights:
    fifth = blocks[:, 16:48, None] >> np.arange(8, dtype=np.uint8) & 1
    return _scaled(blocks, _in_pairs(blocks[:, 48:]) | fifth.swapaxes(1, 2) << 4)


def _q6_k(blocks: _Blocks) -> _Weights:
    low = blocks[:, :128].reshape(-1, 2, 2, 32)
    low = np.concatenate([low & 15, low >> 4], axis=2)  # [blocks 2 4 32]
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([[0], [2], [4], [6]], np.uint8)
    codes = (low | (high & 3) << 4).reshape(-1, 16, 16).astype(np.float32) - 32
    scales = _half(blocks, 208) * blocks[:, 192:208].view(np.int8)
    return (scales[..., None] * codes).reshape(len(blocks), 256)


_PLAIN = {0: np.dtype("<f4"), 1: np.dtype("<f2"), 30: BFLOAT16}
# By the numbers that ggml gives them.
_NARROW = {
    2: _Form("Q4_0", 32, 18, _q4_0),
    3: _Form("Q4_1", 32, 20, _q4_1),
    6: _Form("Q5_0", 32, 22, _q5_0),
    7: _Form("Q5_1", 32, 24, _q5_1),
    8: _Form("Q8_0", 32, 34, _q8_0),
    12: _Form("Q4_K", 256, 144, _q4_k),
    13: _Form("Q5_K", 256, 176, _q5_k),
    14: _Form("Q6_K", 256, 210, _q6_k),
}
