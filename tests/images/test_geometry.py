from PIL import Image

from captax.images import ImageProcessor
from captax.images.geometry import Fit, centred


def fit(processor: ImageProcessor, width: int, height: int) -> Fit:
    return processor.fit(Image.new("RGB", (width, height)))


def test_a_cut_picture_says_which_part_was_seen() -> None:
    cut = ImageProcessor(size=(50, 50), resize="shortest_edge", resize_to=100)
    assert fit(cut, 400, 200).seen == (75 / 200, 25 / 100, 50 / 200, 50 / 100)
    assert fit(ImageProcessor(size=(50, 60)), 400, 200).seen == (0, 0, 1, 1)
    padded = ImageProcessor(size=(100, 100), resize="stretch", resize_to=(50, 100))
    assert fit(padded, 10, 10).seen == (0, -0.5, 1, 2)


def test_the_view_is_the_box_in_pixels_of_the_picture() -> None:
    cut = fit(ImageProcessor(size=(50, 50), resize="shortest_edge", resize_to=100), 400, 200)
    assert (cut.resized, cut.box) == ((100, 200), (75, 25, 125, 75))
    assert cut.view == (150, 50, 250, 150)


def test_half_pixels_are_rounded_down() -> None:
    assert centred((5, 8), (2, 3)) == (2, 1, 5, 3)
    assert centred((4, 8), (9, 6)) == (1, -3, 7, 6)
