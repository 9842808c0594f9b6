"""Matrices of weights in 8 or 4 bits: codes, and the scales that turn them into numbers.

Only weights are narrow; what is multiplied by them is not. A scale is of a group of a row's values,
of whatever size, or of a whole row. Products read the codes and widen them a block at a time, so a
wide copy of a whole matrix is never in memory.
"""

from types import EllipsisType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Int8, UInt8

QUANTISED = {"int8": 8, "int4": 4}  # types by their bits
GROUP = 32  # values of a row that share a scale, with 4 bits; with 8 bits a whole row does
# Smaller matrices are little of a model's memory.
LEAST = 1 << 12
_AT_ONCE = 1 << 22  # values that are quantised at a time


@struct.dataclass
class Quantised:
    """A matrix `[width_out width_in]`: codes times the scale of their group.

    With 8 bits a code is a byte. With 4 bits, a byte has the code of a value of the row's first
    half in its low bits and that of the second half in its high ones, each plus 8. `dtype` is the
    type of products with it.
    """

    codes: Int[Any, "width_out bytes"] | UInt8[Any, "width_out bytes"]
    scales: Float[Any, "width_out groups"]
    name: str = struct.field(pytree_node=False)

    @property
    def dtype(self) -> Any:
        """The type of the numbers that the codes stand for."""
        return jnp.dtype(self.name)

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return 8 if self.codes.dtype == jnp.int8 else 4

    @property
    def shape(self) -> tuple[int, int]:
        """The matrix's."""
        out, width = self.codes.shape
        return out, width * 8 // self.bits

    @property
    def ndim(self) -> int:
        return 2

    @property
    def size(self) -> int:
        """How many numbers there are."""
        out, width = self.shape
        return out * width

    def __getitem__(self, whole: EllipsisType) -> "Quantised":
        return self  # as an array in a parameter answers

    def astype(self, dtype: Any) -> Float[Array, "width_out width_in"]:
        """The numbers."""
        return _scaled(_values(self.codes), self.scales).astype(dtype)

    def look_up(self, tokens: Int[Array, "*shape"]) -> Float[Array, "*shape width_in"]:
        """Rows of the matrix."""
        codes, scales = self.codes[tokens], self.scales[tokens]
        flat = _scaled(
            _values(codes.reshape(-1, codes.shape[-1])), scales.reshape(-1, scales.shape[-1])
        )
        return flat.reshape(*tokens.shape, -1)

    def factors(
        self,
    ) -> tuple[Float[Array, "width_out width_in"], Float[Array, " width_out"] | None]:
        """A matrix in the type of products, and what its rows are still to be multiplied by.

        A code is exact in every type, so the scale of a whole row can wait.
        """
        values = _values(self.codes)
        if self.scales.shape[1] == 1:
            return values.astype(self.dtype), self.scales[:, 0]
        return _scaled(values, self.scales).astype(self.dtype), None

    def part(self, first: Int[Any, ""], count: int) -> "Quantised":
        """So many rows of the matrix."""
        codes, scales = (
            jax.lax.dynamic_slice_in_dim(x, first, count) for x in (self.codes, self.scales)
        )
        return Quantised(codes, scales, self.name)


def _values(codes: Array) -> Float[Array, "rows width"]:
    """The codes as numbers."""
    if codes.dtype == jnp.int8:
        return codes.astype(jnp.float32)
    both = jnp.concatenate([codes & 15, codes >> 4], axis=-1)
    return both.astype(jnp.float32) - 8


def packed(values: Int8[np.ndarray, "rows width"]) -> UInt8[np.ndarray, "rows bytes"]:
    """Codes of 4 bits as `Quantised` keeps them; the width is even."""
    shifted = (values + 8).astype(np.uint8)
    middle = values.shape[1] // 2
    return shifted[:, :middle] | shifted[:, middle:] << 4


def unpacked(codes: UInt8[np.ndarray, "rows bytes"]) -> Int8[np.ndarray, "rows width"]:
    """What was `packed`."""
    return np.concatenate([codes & 15, codes >> 4], axis=-1).astype(np.int8) - 8


def _scaled(values: Array, scales: Array) -> Float[Array, "rows width"]:
    rows, width = values.shape
    groups = values.reshape(rows, scales.shape[1], -1)
    return (groups * scales.astype(jnp.float32)[..., None]).reshape(rows, width)


def fits(shape: tuple[int, ...]) -> bool:
    """Whether a parameter of this shape can be quantised, and is worth it."""
    return len(shape) == 2 and shape[0] * shape[1] >= LEAST and shape[1] % (2 * GROUP) == 0


def groups_of(width: int, bits: int) -> int:
    """The number of groups that `quantise` divides a row into."""
    return 1 if bits == 8 else width // GROUP


def quantise(values: np.ndarray, bits: int, dtype: str) -> Quantised:
    """A matrix in codes of so many bits; `dtype` is the type of products with it, and of scales.

    The largest value of a group, with its sign, gets the lowest code with 4 bits; with 8 bits codes
    are symmetric.
    """
    rows, width = values.shape
    groups = groups_of(width, bits)
    codes = np.empty((rows, width * bits // 8), np.int8 if bits == 8 else np.uint8)
    scales = np.empty((rows, groups), jnp.dtype(dtype))
    step = max(1, _AT_ONCE // width)
    for first in range(0, rows, step):
        part = slice(first, first + step)
        grouped = values[part].astype(np.float32).reshape(-1, groups, width // groups)
        place = np.abs(grouped).argmax(-1)[..., None]
        top = np.take_along_axis(grouped, place, -1)[..., 0]
        scales[part] = np.abs(top) / 127 if bits == 8 else top / -8
        used = scales[part].astype(np.float32)[..., None]
        exact = np.divide(grouped, used, out=np.zeros_like(grouped), where=used != 0)
        low, high = (-127, 127) if bits == 8 else (-8, 7)
        found = np.clip(np.rint(exact), low, high).reshape(-1, width).astype(np.int8)
        codes[part] = packed(found) if bits == 4 else found
    return Quantised(jnp.asarray(codes), jnp.asarray(scales), dtype)
