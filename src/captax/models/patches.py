"""Turns pictures into tokens: patches and their position embeddings."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jaxtyping import Array, Float, Int, Num

from captax.models.arithmetic import project
from captax.models.modules import Dropout, parameter
from captax.models.windows import cut


class SquareProjection(nnx.Module):
    """Cuts a grid in squares, each of which is projected; what is left over is cut off.

    It is a convolution whose stride is the side of its kernel.
    """

    def __init__(
        self,
        side: int,
        width_in: int,
        width_out: int,
        *,
        rngs: nnx.Rngs | None,
        std: float = 0.02,
    ):
        self.kernel = parameter(rngs, (side, side, width_in, width_out), std=std)
        self.bias = parameter(rngs, (width_out,))
        self.side = side

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C2"]:
        side, kernel = self.side, self.kernel[...]
        rows, columns = (size // side for size in x.shape[1:3])
        squares = cut(x[:, : rows * side, : columns * side], side)
        flat = squares.reshape(len(x), rows, columns, side * side * x.shape[-1])
        return project(flat, kernel.reshape(-1, kernel.shape[-1]).T) + self.bias[...]


@struct.dataclass
class Patches:
    """Pictures of several sizes, cut in patches and filled up to the same number of them.

    The patches of each square that becomes one token follow each other (see `in_squares`). `grids`
    has the rows and columns of patches of each picture. The second axis of the batch, if there is
    one, is of pictures that are shown together. If they are of a video, the values of a patch are
    those of several frames, one after another, and `times` are the positions of each in time. The
    arrays may be NumPy's; inside a compiled program they are JAX's.
    """

    values: Num[Any, "*batch patches values"]
    grids: Int[Any, "*batch 2"]
    times: Int[Any, "*batch"] | None = None

    def cells(self, factor: int) -> tuple[Array, Array, Array]:
        """The row and the column of each patch, and whether it is one; `factor` patches in a row
        are a side of a square.
        """
        count = self.values.shape[1]
        rows, columns = (self.grids[:, axis, None] for axis in (0, 1))
        place = jnp.arange(count)[None]
        square, inner = place // factor**2, place % factor**2
        across = jnp.maximum(columns // factor, 1)
        row = square // across * factor + inner // factor
        column = square % across * factor + inner % factor
        return row, column, place < rows * columns


def in_squares(pixels: Any, patch: int, factor: int) -> Any:
    """Pixels `[*batch height width 3]` as patches `[*batch patches values]`.

    Patches lie in squares of `factor` x `factor`, which follow each other in row order, as do the
    patches of each. The values of a patch are its pixels in row order.
    """
    *batch, height, width, channels = pixels.shape
    rows, columns, first = height // (patch * factor), width // (patch * factor), len(batch)
    parts = pixels.reshape(*batch, rows, factor, patch, columns, factor, patch, channels)
    order = (0, 3, 1, 4, 2, 5, 6)
    parts = parts.transpose(*range(first), *(first + axis for axis in order))
    return parts.reshape(*batch, rows * columns * factor**2, patch**2 * channels)


class PatchEmbedding(nnx.Module):
    """Cuts pictures into patches, projects them, puts learned tokens first, adds positions."""

    def __init__(
        self,
        width: int,
        patch: int,
        grid: tuple[int, int],
        *,
        rngs: nnx.Rngs | None,
        has_cls: bool = True,
        distilled: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        std: float = 0.02,
        position_std: float | None = None,
    ):
        self.patch, self.grid = patch, grid
        self.kernel = parameter(rngs, (patch, patch, 3, width), std=std)
        self.bias = parameter(rngs, (width,)) if bias else None
        self.cls_token = parameter(rngs, (width,), std=std) if has_cls else None
        self.distillation_token = parameter(rngs, (width,), std=std) if distilled else None
        places = has_cls + distilled + grid[0] * grid[1]
        self.positions = parameter(rngs, (places, width), std=position_std or std)
        self.dropout = Dropout(dropout)

    def __call__(
        self, pixels: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch patches channels"]:
        """Tokens of pictures of any size; for another grid the positions are interpolated."""
        batch, height, width, _ = pixels.shape
        side, kernel = self.patch, self.kernel[...]
        rows, columns = height // side, width // side
        whole = pixels[:, : rows * side, : columns * side]
        patches = whole.reshape(batch, rows, side, columns, side, 3).swapaxes(2, 3)
        patches = patches.reshape(batch, rows * columns, -1)
        x = project(patches, kernel.reshape(-1, kernel.shape[-1]).T)
        if self.bias is not None:
            x = x + self.bias[...]
        lead = [t[...] for t in (self.cls_token, self.distillation_token) if t is not None]
        if lead:
            first = jnp.broadcast_to(jnp.stack(lead), (batch, len(lead), x.shape[-1]))
            x = jnp.concatenate([first, x], axis=1)
        return self.dropout(x + self.placed((rows, columns)))

    def placed(self, grid: tuple[int, int]) -> Float[Array, "places width"]:
        """The position embeddings of the special tokens and of the cells of `grid`."""
        lead = self.positions.shape[0] - self.grid[0] * self.grid[1]
        return interpolate_positions(self.positions[...], lead, self.grid, grid)


def interpolate_positions(
    positions: Float[Array, "places width"], lead: int, grid: tuple[int, int], new: tuple[int, int]
) -> Float[Array, "new_places width"]:
    """Position embeddings of another grid, by bicubic interpolation as PyTorch does it.

    The first `lead` belong to no cell and do not change (https://arxiv.org/abs/2010.11929, section
    3.2).
    """
    if grid == new:
        return positions
    places = positions[lead:].reshape(*grid, -1)
    rows, columns = (_bicubic(a, b) for a, b in zip(grid, new, strict=True))
    places = jnp.einsum("Rr,Cc,rcw->RCw", rows, columns, places).astype(positions.dtype)
    return jnp.concatenate([positions[:lead], places.reshape(-1, positions.shape[1])])


def _bicubic(size: int, new: int) -> Float[np.ndarray, "new size"]:
    """Weights of `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`.

    Keys' kernel with a = -0.75, no antialiasing, edges repeated.
    """
    centre = (np.arange(new) + 0.5) * size / new - 0.5
    first = np.floor(centre).astype(int) - 1
    weights = np.zeros((new, size))
    for tap in range(4):
        x = np.abs(centre - (first + tap))
        near = 1.25 * x**3 - 2.25 * x**2 + 1
        far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
        np.add.at(
            weights,
            (np.arange(new), np.clip(first + tap, 0, size - 1)),
            np.where(x <= 1, near, far),
        )
    return weights.astype(np.float32)
