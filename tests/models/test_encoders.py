"""What vision encoders share: a chain of parts that can be cut anywhere."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, TypeCheckError

from captax.models.encoders import Features, ShapeError, VisionEncoder


class Chain(VisionEncoder):
    def parts(self) -> list[Any]:
        return [lambda x: 2 * x, lambda x: x + 1, lambda x: x**2]

    @property
    def image_size(self) -> tuple[int, int]:
        return 2, 2

    def features(self, x: Array, image_size: tuple[int, int]) -> Features:
        return Features(tokens=x.reshape(x.shape[0], -1, 3), grid=image_size)


def test_an_encoder_cut_anywhere_is_the_same_encoder() -> None:
    pixels = jnp.arange(12.0).reshape(1, 2, 2, 3)
    whole = (2 * pixels + 1) ** 2
    for depth in range(4):
        features = Chain().last_parts(Chain().first_parts(pixels, depth), depth)
        np.testing.assert_array_equal(features.tokens, whole.reshape(1, 4, 3))
    np.testing.assert_array_equal(Chain().first_parts(pixels, 2), 2 * pixels + 1)
    assert Chain()(pixels).grid == (2, 2)


def test_pixels_laid_out_otherwise_are_refused() -> None:
    for shape in ((1, 3, 2, 2), (2, 2, 3)):
        with pytest.raises((ShapeError, TypeCheckError), match=r"batch height width 3"):
            Chain()(jnp.zeros(shape))
