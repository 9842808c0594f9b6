"""Pictures that go through a model a few at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from captax.models.arithmetic import largest, map_pictures
from captax.models.encoders import Features
from captax.models.tracing import portable


def look(pixels: jax.Array) -> Features:
    return Features(tokens=(2 * pixels + 1).reshape(len(pixels), -1, 3) ** 2, grid=(2, 2))


@pytest.mark.parametrize("batch", [1, 2, 5, 6])
def test_pictures_mapped_a_few_at_a_time_are_the_same_pictures(batch: int) -> None:
    pixels = jax.random.normal(jax.random.key(0), (batch, 2, 2, 3))
    features = jax.jit(lambda pixels: map_pictures(look, pixels))(pixels)
    assert features.grid == (2, 2)
    np.testing.assert_allclose(features.tokens, look(pixels).tokens, atol=1e-6)


def test_the_largest_values_are_found_in_their_plain_form() -> None:
    x = jnp.array([[0.1, 0.7, 0.2, 0.7], [3.0, -1.0, 2.0, 0.0]])
    with portable():
        values, places = largest(x, 3)
    assert places.tolist() == [[1, 3, 2], [0, 2, 3]]
    np.testing.assert_array_equal(values, largest(x, 3)[0])
    np.testing.assert_array_equal(places, largest(x, 3)[1])
