import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from captax.models.config import ConfigError
from captax.models.connectors import LinearConnector, ShuffleConnector, pixel_shuffle
from captax.models.encoders import Features


def test_pixel_shuffle_joins_squares_of_cells_in_row_order() -> None:
    cells = jnp.arange(4 * 6).reshape(1, 24, 1).astype(jnp.float32)
    got = pixel_shuffle(cells, (4, 6), 2)
    assert got.shape == (1, 6, 4)
    np.testing.assert_array_equal(got[0, 0], [0, 1, 6, 7])
    np.testing.assert_array_equal(got[0, 1], [2, 3, 8, 9])
    np.testing.assert_array_equal(got[0, 3], [12, 13, 18, 19])


def test_pixel_shuffle_keeps_the_channels_of_a_cell_together() -> None:
    cells = jnp.arange(2 * 2 * 3).reshape(4, 3).astype(jnp.float32)
    np.testing.assert_array_equal(pixel_shuffle(cells, (2, 2), 2)[0], np.arange(12))


def test_connectors_say_which_grid_they_leave() -> None:
    features = Features(jnp.ones((2, 3, 24, 5)), grid=(4, 6))
    shuffle = ShuffleConnector(5, 7, 2, rngs=nnx.Rngs(0))(features)
    assert (shuffle.tokens.shape, shuffle.grid) == ((2, 3, 6, 7), (2, 3))
    linear = LinearConnector(5, 7, rngs=nnx.Rngs(0))(features)
    assert (linear.tokens.shape, linear.grid) == ((2, 3, 24, 7), (4, 6))


def test_a_grid_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ConfigError, match="scale_factor=3 does not divide the 4 x 6 cells"):
        ShuffleConnector(5, 7, 3, rngs=None).grid((4, 6))
