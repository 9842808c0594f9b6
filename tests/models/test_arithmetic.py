"""Pictures that go through a model a few at a time."""

import jax
import numpy as np
import pytest

from captax.models.arithmetic import map_pictures
from captax.models.encoders import Features


def look(pixels: jax.Array) -> Features:
    return Features(tokens=(2 * pixels + 1).reshape(len(pixels), -1, 3) ** 2, grid=(2, 2))


@pytest.mark.parametrize("batch", [1, 2, 5, 6])
def test_pictures_mapped_a_few_at_a_time_are_the_same_pictures(batch: int) -> None:
    pixels = jax.random.normal(jax.random.key(0), (batch, 2, 2, 3))
    features = jax.jit(lambda pixels: map_pictures(look, pixels))(pixels)
    assert features.grid == (2, 2)
    np.testing.assert_allclose(features.tokens, look(pixels).tokens, atol=1e-6)
