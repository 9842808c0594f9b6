"""Grids of tokens cut in square windows, in which attention looks.

Legend: `B` batch, `H` `W` height and width, `C` channels, `windows` those of all pictures.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def filled_up(x: Float[Array, "B H W C"], side: int) -> Float[Array, "B H2 W2 C"]:
    """The grid with zeros at its right and its bottom, up to multiples of `side`."""
    rows, columns = (-size % side for size in x.shape[1:3])
    return jnp.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0)))


def cut(x: Float[Array, "B H W C"], side: int) -> Float[Array, "windows tokens C"]:
    """Windows of a grid whose sides are multiples of `side`, picture by picture in row order."""
    batch, height, width, channels = x.shape
    windows = x.reshape(batch, height // side, side, width // side, side, channels)
    return windows.swapaxes(2, 3).reshape(-1, side * side, channels)


def join(
    windows: Float[Array, "windows tokens C"], side: int, size: tuple[int, int]
) -> Float[Array, "B H W C"]:
    """The grid of `size` (height, width) that `cut` gave the windows of."""
    rows, columns = (each // side for each in size)
    grid = windows.reshape(-1, rows, columns, side, side, windows.shape[-1]).swapaxes(2, 3)
    return grid.reshape(-1, *size, windows.shape[-1])
