import json

import numpy as np
import pytest
from PIL import Image

from captax.images import ImageError, ImageProcessor, TileProcessor, load_processor
from captax.images.geometry import longest_edge, tiles

SMALL = TileProcessor(side=16, longest_edge=64)


def picture(height: int, width: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((64, 64), (4, 4)),
        ((33, 61), (3, 4)),
        ((10, 200), (1, 4)),
        ((200, 10), (4, 1)),
        ((1, 300), (1, 4)),
        ((300, 1), (4, 1)),
        ((1, 1), (4, 4)),
        ((500, 400), (4, 4)),
    ],
)
def test_a_picture_becomes_tiles_in_row_order_and_a_whole_view(shape, grid) -> None:
    prepared = SMALL.prepare(picture(*shape))
    rows, columns = grid
    assert prepared.grid == grid == SMALL.grid(shape)
    assert prepared.views.shape == (rows * columns + 1, 16, 16, 3)
    assert prepared.views.dtype == np.uint8
    assert (prepared.views[-1] == prepared.pixels).all()
    stretched = SMALL.resized(picture(*shape), longest_edge(shape, 64, 4096))
    stretched = np.asarray(SMALL.resized(stretched, (rows * 16, columns * 16)))
    for index, (left, top, width, height) in enumerate(prepared.boxes[:-1]):
        y, x = round(top * rows) * 16, round(left * columns) * 16
        assert (width * columns, height * rows) == pytest.approx((1, 1))
        assert (prepared.views[index] == stretched[y : y + 16, x : x + 16]).all()
    assert prepared.boxes[-1] == (0, 0, 1, 1)
    assert len(prepared.boxes) == len(prepared.views)


def test_without_splitting_there_is_one_view() -> None:
    one = TileProcessor(side=16, longest_edge=64, split=False).prepare(picture(33, 61))
    assert one.views.shape == (1, 16, 16, 3)
    assert one.grid == (0, 0) and one.boxes == ((0, 0, 1, 1),)
    fits = TileProcessor(side=64, longest_edge=64).prepare(picture(33, 61))
    assert fits.views.shape == (1, 64, 64, 3) and fits.grid == (0, 0)


def test_no_side_is_longer_than_the_limit() -> None:
    assert longest_edge((100, 50), 5000, 4096) == (4096, 2048)
    assert longest_edge((50, 100), 5000, 4096) == (2048, 4096)
    assert longest_edge((1, 9000), 64, 4096) == (1, 64)


def test_a_line_of_pixels_has_a_row_of_tiles_for_every_edge() -> None:
    # Rounding must not leave a side without any tile.
    for edge in range(1, 3000, 7):
        for size in ((1, edge), (edge, 1)):
            assert min(tiles(size, 364)) == 1


def test_a_prepared_picture_is_taken_as_it_is() -> None:
    prepared = SMALL.prepare(picture(33, 61))
    assert SMALL.prepare(prepared) is prepared
    with pytest.raises(ImageError, match=r"prepared as \[16, 16, 3\] and the model takes \[8, 8"):
        TileProcessor(side=8, longest_edge=64).prepare(prepared)


@pytest.mark.parametrize(
    "processor",
    [
        SMALL,
        TileProcessor(side=364, longest_edge=1456, split=False, resample="bicubic"),
        TileProcessor(side=512, longest_edge=2048, mean=(0.1, 0.2, 0.3), rescale=1.0),
    ],
)
def test_config_round_trip(processor: TileProcessor, tmp_path) -> None:
    config = json.loads(json.dumps(processor.to_config()))
    assert TileProcessor.from_config(config) == processor
    processor.save(tmp_path)
    assert load_processor(tmp_path) == processor


def test_a_checkpoint_says_by_its_class_which_processor_it_has(tmp_path) -> None:
    fixed = ImageProcessor((8, 8))
    fixed.save(tmp_path)
    assert load_processor(tmp_path) == fixed
    nested = {"image_processor": {"image_processor_type": "SmolVLMImageProcessorFast"}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert load_processor(tmp_path) == TileProcessor(side=364, longest_edge=1456)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"size": {"height": 9, "width": 9}}, r"size=.* must be \{longest_edge\}"),
        ({"size": {"longest_edge": True}}, "with a whole number"),
        ({"max_image_size": 364}, "max_image_size=364"),
        ({"max_image_size": {"longest_edge": 0}}, "tiles of 0 pixels"),
        ({"max_image_size": {"longest_edge": 9}}, "more than 32 tiles along a side"),
        ({"do_resize": False}, "do_resize=False"),
        ({"do_center_crop": True}, "do_center_crop=True"),
        ({"image_std": [0.5, 0.5, 0.0]}, "std above 0"),
    ],
)
def test_what_a_config_cannot_ask_for(config, message) -> None:
    with pytest.raises(ImageError, match=message):
        TileProcessor.from_config(config)


def test_a_frame_is_read_for_one_tile() -> None:
    processor = TileProcessor(side=32, longest_edge=128)
    assert processor.decode_size == (128, 128)
    assert processor.frame_size == processor.prepare_frame(picture(90, 160)).pixels.shape[:2]
