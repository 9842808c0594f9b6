"""Taggers: loaded from the published files, and what they say of pictures."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import captax
import tagger_files
from captax.checkpoints.directory import load_model
from captax.errors import CaptaxError, OptionError
from captax.images import ImageError
from captax.pipelines.conversion import convert
from captax.pipelines.tagger import Tagger, Tagging
from captax.text.tags import Tag


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tagger_files.write(tmp_path_factory.mktemp("tagger") / "wd")


@pytest.fixture(scope="module")
def tagger(directory: Path) -> Tagger:
    loaded = captax.load(directory)
    assert isinstance(loaded, Tagger)
    return loaded


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    shapes = (40, 60), (70, 30), (32, 32)
    return [Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)) for shape in shapes]


def _probabilities(directory: Path, picture: Image.Image) -> dict[str, float]:
    """As the published code computes them: a white square, bicubic, blue first, sigmoid."""
    side = max(picture.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    small = square.resize((tagger_files.SIDE, tagger_files.SIDE), Image.Resampling.BICUBIC)
    pixels = (np.asarray(small, np.float32) / 255 - 0.5) / 0.5
    model: Any = load_model(directory)
    logits = np.asarray(model.classify(jnp.asarray(pixels[None, ..., ::-1])))[0]
    return dict(zip(tagger_files.TAGS, 1 / (1 + np.exp(-logits.astype(float))), strict=True))


def test_probabilities_are_those_of_the_published_code(
    tagger: Tagger, directory: Path, pictures: list[Image.Image]
) -> None:
    for picture, found in zip(
        pictures, tagger.tag(pictures, general=0.0, character=0.0), strict=True
    ):
        want = _probabilities(directory, picture)
        assert {tag.tag: tag.probability for tag in found.tags} == pytest.approx(
            {name: value for name, value in want.items() if tagger_files.TAGS[name] != 9},
            abs=1e-5,
        )
        assert found.rating is not None
        best = max(("general", "sensitive"), key=lambda name: want[name])
        assert (found.rating.tag, found.rating.category) == (best, "rating")
        assert found.rating.probability == pytest.approx(want[best], abs=1e-5)


def test_each_category_has_its_threshold_and_the_most_probable_come_first(
    tagger: Tagger, pictures: list[Image.Image]
) -> None:
    [every] = tagger.tag(pictures[0], general=0.0, character=0.0)
    for category in ("general", "character"):
        probable = [tag.probability for tag in every.tags if tag.category == category]
        assert len(probable) > 1 and probable == sorted(probable, reverse=True)
    assert [tag.category for tag in every.tags] == ["general"] * 4 + ["character"] * 2
    second = every.tags[1].probability
    [few] = tagger.tag(pictures[0], general=second, character=1.0)
    assert few.tags == every.tags[:1] and few.rating == every.rating


def test_excluded_tags_never_count_however_they_are_written(
    tagger: Tagger, pictures: list[Image.Image]
) -> None:
    left_out = ["long hair", r"cup \(object\)", "reimu_(touhou)"]
    [found] = tagger.tag(pictures[0], general=0.0, character=0.0, exclude=left_out)
    assert {tag.tag for tag in found.tags} == {"1girl", ">_<", "nobody"}
    with pytest.raises(OptionError, match="'longhair', which is no tag"):
        tagger.tag(pictures[0], exclude=["longhair"])
    with pytest.raises(OptionError, match="is no tag of this model"):
        tagger.tag(pictures[0], exclude=["sensitive"])  # a rating, of which there is always one
    with pytest.raises(OptionError, match="general"):
        tagger.tag(pictures[0], general=float("nan"))


def test_a_broken_picture_is_an_error_in_its_place(
    tagger: Tagger, pictures: list[Image.Image]
) -> None:
    first, second, third = tagger.stream([pictures[0], b"broken", pictures[1]], batch_size=2)
    assert isinstance(second, ImageError)
    assert [first, third] == tagger.tag(pictures[:2], batch_size=8)
    with pytest.raises(ImageError):
        tagger.tag([b"broken"])


def test_the_text_is_what_trainers_read() -> None:
    tags = [("1girl", "general"), ("long_hair", "general"), (">_<", "general")]
    tags += [("reimu_(touhou)", "character")]
    found = Tagging(tuple(Tag(*each, 0.9) for each in tags), Tag("general", "rating", 0.8))
    assert str(found) == "1girl, long hair, >_<, reimu (touhou)"
    assert found.text(keep_underscores=True) == "1girl, long_hair, >_<, reimu_(touhou)"
    assert found.text(escape_parentheses=True, rating=True) == (
        r"rating:general, 1girl, long hair, >_<, reimu \(touhou\)"
    )
    assert str(Tagging(())) == ""


def test_a_converted_tagger_says_the_same(
    tagger: Tagger, directory: Path, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    convert(str(directory), tmp_path / "converted")
    again = captax.load(tmp_path / "converted")
    assert again.tag(pictures[0], general=0.0) == tagger.tag(pictures[0], general=0.0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"architecture": "eva02_large_patch14_448"}, "captax has timm's vit"),
        ({"architecture": ["vit"]}, "is not supported"),
        ({"num_classes": 7}, "is (8, 24), expected (7, 24)"),
        ({"num_classes": -1}, "must be a whole number from 1"),
        ({"model_args": {**tagger_files.VIT["model_args"], "reg_tokens": 4}}, "reg_tokens=4"),
        ({"model_args": {**tagger_files.VIT["model_args"], "act_layer": "wild"}}, "act_layer"),
        ({"model_args": {**tagger_files.VIT["model_args"], "mlp_ratio": "x"}}, "mlp_ratio='x'"),
        ({"model_args": {**tagger_files.VIT["model_args"], "depth": 10**9}}, "num_hidden_layers"),
        ({"model_args": {**tagger_files.VIT["model_args"], "class_token": 3}}, "class_token=3"),
        ({"model_args": [1]}, "must be objects"),
        ({"pretrained_cfg": 5}, "must be objects"),
        (
            {"pretrained_cfg": {**tagger_files.VIT["pretrained_cfg"], "input_size": [3, 40, 40]}},
            "made for pictures of (32, 32)",
        ),
        ({"pretrained_cfg": {"input_size": [3, 32, 48]}}, "[3, 32, 48]"),
        (
            {"pretrained_cfg": {**tagger_files.VIT["pretrained_cfg"], "std": [0, 1, 1]}},
            "config.json: mean",
        ),
        (
            {"pretrained_cfg": {**tagger_files.VIT["pretrained_cfg"], "crop_pct": 1e-9}},
            "crop_pct=1e-09",
        ),
        (
            {"pretrained_cfg": {**tagger_files.VIT["pretrained_cfg"], "interpolation": {}}},
            "interpolation={}",
        ),
    ],
)
def test_a_config_of_another_model_is_refused_in_a_line(
    directory: Path, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    for name in ("model.safetensors", "selected_tags.csv"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(tagger_files.VIT | change))
    with pytest.raises(CaptaxError) as raised:
        captax.load(tmp_path)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_tagger_that_gives_no_numbers_says_so(
    directory: Path, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    for name in ("config.json", "selected_tags.csv"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    tensors = safetensors.numpy.load_file(directory / "model.safetensors")
    tensors["head.bias"][0] = np.nan
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CaptaxError, match="its weights are damaged"):
        captax.load(tmp_path).tag(pictures[0])
