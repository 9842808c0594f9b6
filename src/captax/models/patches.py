"""Turns pictures into tokens: patches and their position embeddings."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

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
