"""Pictures on a white square."""

import numpy as np
import pytest
from PIL import Image

from captax.images import ImageError, SquareProcessor


def _whole(image: Image.Image, side: int) -> np.ndarray:
    """The square is made whole, and resized."""
    across = max(image.size)
    square = Image.new("RGB", (across, across), "white")
    square.paste(image, ((across - image.width) // 2, (across - image.height) // 2))
    return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", [(50, 50), (90, 31), (31, 90), (1, 7), (16, 16), (5, 4000)])
def test_strips_give_the_pixels_of_the_whole_square(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captax.images.square._STRIP", 500)
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8))
    ready = SquareProcessor(16).prepare(image)
    np.testing.assert_array_equal(ready.pixels, _whole(image, 16))


def test_what_is_seen_reaches_beyond_the_shorter_side() -> None:
    ready = SquareProcessor(8).prepare(Image.new("RGB", (20, 10)))
    assert ready.seen == (0, -0.5, 1, 2)
    assert ready.pixels[0].min() == 255 and ready.pixels[4].max() == 0


def test_the_middle_is_cut_out_of_a_larger_square() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))
    ready = SquareProcessor(16, 20).prepare(image)
    np.testing.assert_array_equal(ready.pixels, _whole(image, 20)[2:18, 2:18])
    assert ready.seen == pytest.approx((0.1, 0.1, 0.8, 0.8))


def test_a_very_long_picture_takes_little_memory() -> None:
    ready = SquareProcessor(8).prepare(Image.new("RGB", (1, 3_000_000)))
    assert ready.pixels.shape == (8, 8, 3)


def test_a_timm_config_says_how_pictures_are_prepared() -> None:
    told = {"input_size": [3, 448, 448], "crop_pct": 0.9, "interpolation": "bilinear"}
    told |= {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}
    processor = SquareProcessor.from_timm({"pretrained_cfg": told})
    assert processor == SquareProcessor(448, 497, "bilinear", (0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    with pytest.raises(ImageError, match="input_size"):
        SquareProcessor.from_timm({})
    with pytest.raises(ImageError, match="2048"):
        SquareProcessor.from_timm({"pretrained_cfg": told | {"input_size": [3, 9999, 9999]}})
