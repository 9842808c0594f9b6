"""Pictures that no caption fits."""

import numpy as np

from captax.images.synthetic import synthetic_pictures


def test_a_seed_draws_the_same_pictures_and_another_seed_others() -> None:
    first, again, other = (
        [np.asarray(picture) for picture in synthetic_pictures(24, seed=seed)] for seed in (1, 1, 2)
    )
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert not any(np.array_equal(*pair) for pair in zip(first, other, strict=True))
    for place, pixels in enumerate(first):
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and min(pixels.shape[:2]) >= 200
        # Noise differs from place to place, a blank page does not, and a chart does a little.
        spread = pixels.std((0, 1)).mean()
        assert (spread < 4) == (place % 3 == 1)
        if place % 3 == 2:
            assert (np.diff(pixels.astype(int), axis=1) == 0).all(-1).mean() > 0.8
