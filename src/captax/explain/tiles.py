"""One grid over a picture that a model reads as tiles and as a whole.

`tiles` are (rows, columns) of tiles, (0, 0) where there are none, and `grid` is the grid of cells
in each view. Tiles come first, in row order, then the whole picture. The grid over all has the
cells of the tiles:

    2 x 1 tiles of 2 x 2 cells:  4 x 2 cells, each of which the whole view shows in half a cell.
"""

import numpy as np
from jaxtyping import Float, Int

from captax.images.geometry import Size


def whole_grid(tiles: Size, grid: Size) -> Size:
    """The rows and columns of the grid over the whole picture."""
    return max(tiles[0], 1) * grid[0], max(tiles[1], 1) * grid[1]


def paste(
    attention: Float[np.ndarray, "*some places"], tiles: Size, grid: Size
) -> Float[np.ndarray, "*some cells"]:
    """Attention to all views of a picture, as attention to the grid over the whole.

    What a cell of the whole view has is shared by the cells of the tiles that lie in it. Without
    tiles nothing changes.
    """
    rows, columns = tiles
    if not rows * columns:
        return attention
    some = attention.shape[:-1]
    views = attention.reshape(*some, -1, *grid)
    parts = views[..., : rows * columns, :, :].reshape(*some, rows, columns, *grid)
    fine = parts.swapaxes(-3, -2).reshape(*some, rows * grid[0], columns * grid[1])
    whole = views[..., rows * columns, :, :] / (rows * columns)
    fine = fine + whole.repeat(rows, axis=-2).repeat(columns, axis=-1)
    return fine.reshape(*some, -1)


def cells(
    pixels: tuple[int, ...], tiles: Size, whole: Size
) -> tuple[Int[np.ndarray, "*views height"], Int[np.ndarray, "*views width"]]:
    """The row and the column of the `whole` grid in which each line of pixels lies.

    `pixels` is the shape of the picture, [*views height width 3].
    """
    height, width = pixels[-3:-1]
    rows, columns = _cells(height, whole[0]), _cells(width, whole[1])
    if not tiles[0] * tiles[1]:
        return rows, columns
    down, across = whole[0] // tiles[0], whole[1] // tiles[1]
    places = [divmod(tile, tiles[1]) for tile in range(tiles[0] * tiles[1])]
    of_rows = [row * down + _cells(height, down) for row, _ in places]
    of_columns = [column * across + _cells(width, across) for _, column in places]
    return np.stack([*of_rows, rows]), np.stack([*of_columns, columns])


def _cells(side: int, count: int) -> Int[np.ndarray, " side"]:
    """Which of `count` cells each of so many pixels lies in."""
    return np.arange(side) * count // side
