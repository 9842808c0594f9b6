"""Tiles against transformers' own image processors, those that resize with Pillow."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captax
from captax.images import TileProcessor, load_processor
from vision_language_files import write

pytestmark = pytest.mark.parity

CONFIGS: list[tuple[str, dict[str, Any]]] = [
    ("Idefics3", {}),
    ("SmolVLM", {"size": {"longest_edge": 1024}, "max_image_size": {"longest_edge": 256}}),
    ("SmolVLM", {"size": {"longest_edge": 150}, "max_image_size": {"longest_edge": 40}}),
    ("Idefics3", {"do_image_splitting": False, "resample": 3}),
    ("Idefics3", {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 64}}),
    (
        "SmolVLM",
        {
            "size": {"longest_edge": 96},
            "max_image_size": {"longest_edge": 28},
            "resample": 2,
            "image_mean": [0.1, 0.2, 0.3],
            "image_std": [0.3, 0.2, 0.1],
        },
    ),
]
# (height, width): of many aspect ratios, lines, one pixel, and larger than the longest edge.
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


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*s, 3), np.uint8)) for s in SHAPES]


def reference(name: str) -> Any:
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, f"{name}ImageProcessorPil")


@pytest.mark.parametrize(("name", "config"), CONFIGS)
def test_views_and_files_both_ways(name: str, config: dict[str, Any], tmp_path: Path) -> None:
    theirs = reference(name)(**config)
    ours = TileProcessor.from_config({"image_processor_type": f"{name}ImageProcessor", **config})
    for image in pictures():
        # Without rescaling the reference gives the bytes.
        options = {"do_rescale": False, "do_normalize": False, "return_row_col_info": True}
        want = theirs(image, **options)
        got = ours.prepare(image)
        views = np.asarray(want["pixel_values"][0]).transpose(0, 2, 3, 1)
        assert got.grid == (want["rows"][0][0], want["cols"][0][0]), image.size
        assert got.views.shape == views.shape, image.size
        assert (got.views == views).all(), image.size
    last = np.asarray(theirs(image)["pixel_values"][0]).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours.normalize(got.views), last, rtol=0, atol=1e-5)
    # What transformers writes of it, alone and nested as it writes whole processors.
    theirs.save_pretrained(tmp_path)
    assert load_processor(tmp_path) == ours
    (tmp_path / "preprocessor_config.json").unlink()
    nested = {"image_processor": theirs.to_dict(), "processor_class": f"{name}Processor"}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert load_processor(tmp_path) == ours
    # What we write of it.
    back = tmp_path / "back"
    back.mkdir()
    ours.save(back)
    transformers = pytest.importorskip("transformers")
    again = transformers.AutoImageProcessor.from_pretrained(back, backend="pil")
    same = np.asarray(again(image)["pixel_values"][0]).transpose(0, 2, 3, 1)
    assert (same == last).all()


@pytest.mark.parametrize("name", ["Idefics3", "SmolVLM"])
@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"split": False}, {"do_image_splitting": False}),
        ({"longest_edge": 100}, {"size": {"longest_edge": 100}}),
        (
            {"longest_edge": 100, "split": False},
            {"size": {"longest_edge": 100}, "do_image_splitting": False},
        ),
    ],
)
def test_fewer_views_are_those_of_the_reference(
    name: str, changes: dict[str, Any], options: dict[str, Any]
) -> None:
    config = {"size": {"longest_edge": 160}, "max_image_size": {"longest_edge": 40}}
    theirs = reference(name)(**config)
    ours = TileProcessor.from_config({"image_processor_type": f"{name}ImageProcessor", **config})
    ours = dataclasses.replace(ours, **changes)
    plain = {"do_rescale": False, "do_normalize": False, "return_row_col_info": True}
    for image in pictures():
        want = theirs(image, **plain, **options)
        got = ours.prepare(image)
        views = np.asarray(want["pixel_values"][0]).transpose(0, 2, 3, 1)
        assert got.grid == (want["rows"][0][0], want["cols"][0][0]), image.size
        assert len(got.views) <= ours.most_views
        assert (got.views == views).all(), image.size
    square = ours.prepare(Image.new("RGB", (77, 77)))
    assert len(square.views) == ours.most_views


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("split", [True, False])
def test_a_whole_prompt_is_that_of_the_reference(split: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    captioner = captax.load(write("smolvlm", tmp_path), image_splitting=split)
    captioner.save(tmp_path / "saved")
    processor = transformers.Idefics3Processor(
        transformers.Idefics3ImageProcessorPil.from_pretrained(tmp_path / "saved"),
        transformers.AutoTokenizer.from_pretrained(tmp_path / "saved"),
        **json.loads((tmp_path / "saved" / "processor_config.json").read_text()),
    )
    for image in pictures():
        picture = captioner.prepare(image)
        text = captioner.prompt_format.text("look red", pictures=["<image>"])
        want = processor(text=text, images=[image], add_special_tokens=False)
        [asked] = captioner._asked(["look red"], "", False)
        got = captioner._whole_prompt(asked, picture, captioner.generation)
        assert got == list(want["input_ids"][0]), image.size
        assert got.count(39) == captioner.places(picture)
        assert split or captioner.places(picture) == captioner.model.config.places
