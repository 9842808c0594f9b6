import numpy as np
import pytest
from PIL import Image

from captax.images import ImageError, ImageProcessor, Prepared, decode

CUTTING = ImageProcessor((24, 20), "shortest_edge", 32)


def picture(height: int = 37, width: int = 61) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def test_a_prepared_picture_is_taken_as_it_is() -> None:
    prepared = CUTTING.prepare(picture())
    assert prepared.pixels.shape == (24, 20, 3) and prepared.pixels.dtype == np.uint8
    assert (CUTTING([prepared]) == CUTTING([picture()])).all()
    assert CUTTING.prepare(prepared) is prepared
    assert (np.asarray(CUTTING.view(prepared)) == prepared.pixels).all()
    assert (np.asarray(decode(prepared)) == prepared.pixels).all()


def test_it_says_which_part_of_the_picture_it_shows() -> None:
    assert CUTTING.prepare(picture()).seen == CUTTING.fit(picture()).seen
    assert CUTTING.prepare(picture(), whole=True).seen == (0, 0, 1, 1)


def test_whole_a_picture_is_stretched_and_not_cut() -> None:
    want = picture().resize((20, 24), Image.Resampling.BICUBIC)
    assert (CUTTING.prepare(picture(), whole=True).pixels == np.asarray(want)).all()


def test_one_prepared_for_another_size_is_refused() -> None:
    with pytest.raises(ImageError, match=r"prepared as \[9, 9, 3\] and the model takes \[24, 20"):
        CUTTING([Prepared(np.zeros((9, 9, 3), np.uint8))])
