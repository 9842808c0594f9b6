"""Pictures of their own size against transformers' own image processor, which resizes by Pillow."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captax.images import NativeProcessor, load_processor
from captax.models.patches import in_squares

pytestmark = pytest.mark.parity

CONFIGS: list[dict[str, Any]] = [
    {},
    {"min_pixels": 3136, "max_pixels": 12_845_056},  # Qwen2.5-VL's
    {  # Qwen3-VL's
        "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216},
        "patch_size": 16,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
    {"size": {"shortest_edge": 1024, "longest_edge": 40_000}, "patch_size": 8, "resample": 2},
    {"size": {"shortest_edge": 40_000, "longest_edge": 40_000}, "patch_size": 8, "merge_size": 3},
]
# (height, width): of many aspect ratios, lines, one pixel, and more pixels than a budget.
SHAPES = [
    (97, 61),
    (53, 128),
    (64, 64),
    (30, 600),
    (600, 30),
    (1, 200),
    (200, 1),
    (1, 1),
    (5, 3),
    (1500, 1111),
    (360, 1457),
    (29, 28),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_pixels_patches_and_files_both_ways(config: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.models.qwen2_vl.Qwen2VLImageProcessorPil(**config)
    ours = NativeProcessor.from_config(config)
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        image = Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8))
        # Without rescaling the reference gives the bytes.
        want = theirs(image, do_rescale=False, do_normalize=False)
        [(times, rows, columns)] = want["image_grid_thw"]
        got = ours.prepare(image)
        assert got.pixels.shape[:2] == (rows * ours.patch, columns * ours.patch), shape
        patches = in_squares(got.pixels, ours.patch, ours.merge)
        still = np.asarray(want["pixel_values"]).reshape(len(patches), 3, 2, -1)
        assert times == 1 and (still[:, :, 0] == still[:, :, 1]).all()
        assert (patches == still[:, :, 0].swapaxes(1, 2).reshape(patches.shape)).all(), shape
        assert rows * columns <= ours.most_places * ours.merge**2 or ours.min_pixels == 40_000
    last = np.asarray(theirs(image)["pixel_values"]).reshape(len(patches), 3, 2, -1)[:, :, 0]
    normal = in_squares(ours.normalize(got.pixels[None])[0], ours.patch, ours.merge)
    np.testing.assert_allclose(normal, last.swapaxes(1, 2).reshape(normal.shape), rtol=0, atol=1e-5)
    # What transformers writes of it, and what it reads of ours.
    theirs.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert NativeProcessor.from_config(written) == ours
    ours.save(tmp_path)
    assert load_processor(tmp_path) == ours
    again = type(theirs).from_pretrained(tmp_path)
    assert (np.asarray(again(image)["pixel_values"]) == theirs(image)["pixel_values"]).all()
