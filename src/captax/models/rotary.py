"""Rotary positions: queries and keys are turned by angles that grow with their positions.

Su et al. (https://arxiv.org/abs/2104.09864). A head's first half holds the cosines' parts and its
second half the sines', as in transformers.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Where tokens are: one number for each, or one on each of several axes.
Positions = Int[Array, "#rows time"] | Int[Array, "axes #rows time"]
# Cosines and sines [rows time head/2].
Turns = tuple[Float[Array, "#rows time half"], Float[Array, "#rows time half"]]


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's stretching of slow angles, for texts longer than `original_positions`.

    Angles with wavelengths above `original_positions / low` are divided by `factor`, those below
    `original_positions / high` stay, and between them the change is gradual.
    """

    factor: float
    low: float
    high: float
    original_positions: int


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Angles of `position / theta ** (2 i / head_dim)`, for the pairs `i` of a head's values.

    Positions are divided by `factor`, or stretched by `llama3`. Where positions have several axes,
    pair `i` is turned by that on `axes[i]`. The angles begin anew in each of `parts` equal parts of
    the pairs.
    """

    head_dim: int
    theta: float = 10_000.0
    factor: float = 1.0
    llama3: Llama3Scaling | None = None
    axes: tuple[int, ...] | None = None
    parts: int = 1

    def frequencies(self) -> Float[np.ndarray, " half"]:
        """The angle of each pair at position 1."""
        width = self.head_dim // self.parts
        exponents = np.arange(0, width, 2, dtype=np.float64) / width
        found = np.tile(self.theta**-exponents / self.factor, self.parts)
        if (scaling := self.llama3) is None:
            return found
        turns = scaling.original_positions * found / (2 * math.pi)
        share = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
        return found * (share + (1 - share) / scaling.factor)

    def turns(self, positions: Positions) -> Turns:
        """Cosines and sines for these positions, in float32."""
        frequencies = jnp.asarray(self.frequencies(), jnp.float32)
        if positions.ndim == 3:
            of_pairs = jnp.moveaxis(positions[np.array(self.axes)], 0, -1)
        else:
            of_pairs = positions[..., None]
        angles = of_pairs.astype(jnp.float32) * frequencies
        return jnp.cos(angles), jnp.sin(angles)


def turn(
    x: Float[Array, "rows time heads head"], turns: Turns
) -> Float[Array, "rows time heads head"]:
    """The heads of each place, turned by its angles."""
    cosines, sines = (each[:, :, None] for each in turns)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = [first * cosines - second * sines, second * cosines + first * sines]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
