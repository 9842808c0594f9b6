"""Turns an encoder's tokens into tokens as wide as a language model's embeddings.

They take places among the embeddings of words as they are: where a language model scales its words'
embeddings, as Gemma does, the picture's are not scaled.
"""

from flax import nnx
from jaxtyping import Array, Float

from captax.models.config import ConfigError
from captax.models.encoders import Features
from captax.models.modules import Linear


def pixel_shuffle(
    tokens: Float[Array, "*batch places width"], grid: tuple[int, int], factor: int
) -> Float[Array, "*batch fewer wider"]:
    """Join each square of `factor` x `factor` cells of the grid into one token, row by row.

    Shi et al. (https://arxiv.org/abs/1609.05158) do the reverse.
    """
    *batch, _, width = tokens.shape
    rows, columns = shuffled(grid, factor)
    cells = tokens.reshape(*batch, rows, factor, columns, factor, width).swapaxes(-4, -3)
    return cells.reshape(*batch, rows * columns, factor**2 * width)


def shuffled(grid: tuple[int, int], factor: int) -> tuple[int, int]:
    """The rows and columns that `pixel_shuffle` leaves.

    Raises `ConfigError` if the grid cannot be divided into such squares.
    """
    rows, columns = grid
    if rows % factor or columns % factor:
        raise ConfigError(
            f"scale_factor={factor} does not divide the {rows} x {columns} cells of the encoder's "
            "grid; change it, image_size or patch_size"
        )
    return rows // factor, columns // factor


class Connector(nnx.Module):
    """Maps `Features` of an encoder to `Features` of the language model's width."""

    def grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """The rows and columns of the tokens that it makes of a grid of the encoder's."""
        return grid

    def __call__(self, features: Features) -> Features:
        """One token for each cell of `grid`."""
        raise NotImplementedError


class LinearConnector(Connector):
    """A linear layer, as in PaliGemma (https://arxiv.org/abs/2407.07726, section 3.1)."""

    def __init__(
        self, width_in: int, width_out: int, *, rngs: nnx.Rngs | None, std: float | None = None
    ):
        self.proj = Linear(width_in, width_out, rngs=rngs, std=std)

    def __call__(self, features: Features) -> Features:
        return Features(self.proj(features.tokens), features.grid, features.lead, features.mask)


class ShuffleConnector(Connector):
    """Pixel shuffle and a linear layer, as in Idefics3 (https://arxiv.org/abs/2408.12637)."""

    def __init__(
        self,
        width_in: int,
        width_out: int,
        factor: int,
        *,
        rngs: nnx.Rngs | None,
        std: float | None = None,
    ):
        self.factor = factor
        self.proj = Linear(width_in * factor**2, width_out, rngs=rngs, bias=False, std=std)

    def grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        return shuffled(grid, self.factor)

    def __call__(self, features: Features) -> Features:
        tokens = pixel_shuffle(features.tokens, features.grid, self.factor)
        return Features(self.proj(tokens), self.grid(features.grid))
