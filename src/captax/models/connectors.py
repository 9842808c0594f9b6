"""Turns an encoder's tokens into tokens as wide as a language model's embeddings.

They take places among the embeddings of words as they are: where a language model scales its words'
embeddings, as Gemma does, the picture's are not scaled.
"""

import dataclasses
import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from captax.models.arithmetic import ACTIVATIONS
from captax.models.config import ConfigError
from captax.models.encoders import Features
from captax.models.modules import Linear, NormConfig


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


class MlpConnector(Connector):
    """Two linear layers, as in LLaVA 1.5 (https://arxiv.org/abs/2310.03744).

    Unless `lead` tokens are kept, only those of the grid are mapped.
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        *,
        rngs: nnx.Rngs | None,
        lead: bool,
        activation: str = "gelu",
        bias: bool = True,
        std: float | None = None,
    ):
        self.first = Linear(width_in, width_out, rngs=rngs, bias=bias, std=std)
        self.second = Linear(width_out, width_out, rngs=rngs, bias=bias, std=std)
        self.activation, self.lead = activation, lead

    def __call__(self, features: Features) -> Features:
        lead = features.lead if self.lead else 0
        tokens = features.tokens[:, features.lead - lead :]
        activation = ACTIVATIONS[self.activation]
        return Features(self.second(activation(self.first(tokens))), features.grid, lead)


class PoolConnector(Connector):
    """The mean of squares of cells, a norm and a product, as in Gemma 3.

    Gemma Team (https://arxiv.org/abs/2503.19786), section 2.1. `cells` of them are left.
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        cells: int,
        norm: NormConfig,
        *,
        rngs: nnx.Rngs | None,
        std: float | None = None,
    ):
        self.side = math.isqrt(cells)
        self.norm = norm.build(width_in, rngs=rngs)
        self.proj = Linear(width_in, width_out, rngs=rngs, bias=False, std=std)

    def grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        if grid[0] != grid[1] or self.side == 0 or grid[0] % self.side:
            raise ConfigError(
                f"mm_tokens_per_image={self.side**2} does not divide the {grid[0]} x {grid[1]} "
                "cells of the encoder's grid in squares; change it, image_size or patch_size"
            )
        return self.side, self.side

    def __call__(self, features: Features) -> Features:
        rows, columns = self.grid(features.grid)
        batch, _, width = features.tokens.shape
        part = features.grid[0] // rows
        cells = features.tokens.reshape(batch, rows, part, columns, part, width).mean((2, 4))
        tokens = self.proj(self.norm(cells.reshape(batch, rows * columns, width)))
        return Features(tokens, (rows, columns))


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


class Merger(nnx.Module):
    """Squares of tokens, which follow each other, to one token each: a norm and two linear layers.

    The norm is that of each token or, if it comes `after`, that of those of a square together.
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        factor: int,
        norm: NormConfig,
        *,
        rngs: nnx.Rngs | None,
        after: bool = False,
        std: float | None = None,
    ):
        self.factor, self.after = factor, after
        wide = width_in * factor**2
        self.norm = norm.build(wide if after else width_in, rngs=rngs)
        self.first = Linear(wide, wide, rngs=rngs, std=std)
        self.second = Linear(wide, width_out, rngs=rngs, std=std)

    def __call__(
        self, tokens: Float[Array, "*batch places width"]
    ) -> Float[Array, "*batch fewer wider"]:
        """One token for each square."""
        *batch, places, width = tokens.shape
        shape = (*batch, places // self.factor**2, width * self.factor**2)
        x = self.norm(tokens.reshape(shape)) if self.after else self.norm(tokens).reshape(shape)
        return self.second(ACTIVATIONS["gelu"](self.first(x)))


class MergeConnector(Connector):
    """Mergers of the last tokens and of those of some earlier layers, as in Qwen3-VL.

    Bai et al. (https://arxiv.org/abs/2511.21631).
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        factor: int,
        norm: NormConfig,
        *,
        levels: int,
        rngs: nnx.Rngs | None,
        std: float | None = None,
    ):
        shape = (width_in, width_out, factor)
        self.factor = factor
        self.last = Merger(*shape, norm, rngs=rngs, std=std)
        self.deep = nnx.List(
            [Merger(*shape, norm, rngs=rngs, after=True, std=std) for _ in range(levels)]
        )

    def grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        return grid[0] // self.factor, grid[1] // self.factor

    def __call__(self, features: Features) -> Features:
        mask, deep, grids = features.mask, None, features.grids
        tokens = self.last(features.tokens)
        if features.deep is not None:
            levels = [merger(features.deep[:, i]) for i, merger in enumerate(self.deep)]
            deep = jnp.stack(levels, axis=1)
        return dataclasses.replace(
            features,
            tokens=tokens,
            grid=self.grid(features.grid) if mask is None else (1, tokens.shape[1]),
            mask=None if mask is None else mask[:, :: self.factor**2],
            grids=None if grids is None else grids // self.factor,
            deep=deep,
        )
