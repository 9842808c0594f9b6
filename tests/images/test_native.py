import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from captax.images import ImageError, NativeProcessor, load_processor
from captax.images.geometry import within_budget

SMALL = NativeProcessor(patch=8, merge=2, min_pixels=1024, max_pixels=8192)


@pytest.mark.parametrize(
    ("shape", "resized"),
    [
        ((64, 64), (64, 64)),
        ((50, 90), (48, 96)),
        ((200, 300), (64, 96)),
        ((7, 9), (32, 48)),
        ((1, 200), (16, 464)),
        ((200, 1), (464, 16)),
    ],
)
def test_aspect_ratios_stay_within_the_budget(
    shape: tuple[int, int], resized: tuple[int, int]
) -> None:
    prepared = SMALL.prepare(Image.new("RGB", shape[::-1]))
    assert prepared.pixels.shape == (*resized, 3) and prepared.pixels.dtype == np.uint8
    assert prepared.boxes == ((0, 0, 1, 1),)
    assert SMALL.prepare(prepared) is prepared


def test_no_picture_becomes_more_tokens_than_are_told() -> None:
    for side in (1, 3, 16, 33, 100, 999):
        for other in range(side, 200 * side, 37 * side):
            for size in ((side, other), (other, side)):
                rows, columns = within_budget(size, 16, 1024, 8192)
                assert rows % 16 == columns % 16 == 0
                assert 0 < rows * columns // 16**2 <= SMALL.most_places


def test_config_round_trip(tmp_path) -> None:
    config = json.loads(json.dumps(SMALL.to_config()))
    assert NativeProcessor.from_config(config) == SMALL
    SMALL.save(tmp_path)
    assert load_processor(tmp_path) == SMALL
    assert SMALL.size == (80, 80) and SMALL.most_tiles == (0, 0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"size": {"height": 9, "width": 9}}, r"must be \{shortest_edge, longest_edge\}"),
        ({"size": 9}, "size=9 is not supported"),
        ({"max_pixels": True}, "max_pixels=True must be a whole number"),
        ({"max_pixels": 700, "min_pixels": 1}, "a max_pixels of at least 784"),
        ({"max_pixels": 2000}, "in this order"),
        ({"patch_size": 0}, "patches of 0 pixels"),
        ({"merge_size": 1.5}, "merge_size=1.5 must be a whole number"),
        ({"do_resize": False}, "do_resize=False"),
        ({"do_center_crop": True}, "do_center_crop=True"),
    ],
)
def test_what_a_config_cannot_ask_for(config, message) -> None:
    with pytest.raises(ImageError, match=message):
        NativeProcessor.from_config(config)


def test_a_frame_is_read_no_larger_than_it_is_prepared() -> None:
    usual = NativeProcessor(patch=14, merge=2, min_pixels=28**2, max_pixels=28**2 * 16384)
    assert usual.decode_size == (3585, 3585) and usual.frame_size == (776, 776)
    small = dataclasses.replace(usual, max_pixels=28**2 * 100)
    assert small.frame_size == small.decode_size == (281, 281)
    frame = Image.new("RGB", (1920, 1080))
    for processor in (usual, small):
        height, width, _ = processor.prepare_frame(frame).pixels.shape
        assert height * width <= processor.frame_size[0] ** 2
