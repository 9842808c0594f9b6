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


@pytest.mark.parametrize("grid", [(14, 14), (3, 5), (1, 1), (8, 6)])
def test_a_stretched_grid_is_adaptive_average_pooling(grid: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    tokens = np.random.default_rng(0).standard_normal((2, 1 + 48, 5)).astype(np.float32)
    features = Features(tokens=jnp.asarray(tokens), grid=(8, 6), lead=1).stretched(grid)
    assert (features.grid, features.lead) == (grid, 1)
    np.testing.assert_array_equal(features.tokens[:, 0], tokens[:, 0])  # CLS has no place
    places = torch.tensor(tokens[:, 1:]).reshape(2, 8, 6, 5).permute(0, 3, 1, 2)
    want = torch.nn.functional.adaptive_avg_pool2d(places, grid).permute(0, 2, 3, 1)
    np.testing.assert_allclose(features.tokens[:, 1:], want.reshape(2, -1, 5), atol=1e-6)
