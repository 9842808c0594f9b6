"""Captioners that are shown pictures at their own size, on small Qwens with random weights."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import captax
from captax.cli.main import app
from captax.cli.options import spelt
from captax.errors import CaptaxError, CheckpointError, OptionError
from captax.images import ImageError, read_video
from captax.models.patches import Patches, in_squares
from captax.models.prompt import Prompt
from captax.pipelines.native import NativeCaptioner
from video_files import write_video
from vision_language_files import write

FAMILIES = ("qwen2.5-vl", "qwen3-vl")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> NativeCaptioner:
    return captax.load(write("qwen3-vl", tmp_path_factory.mktemp("qwen")))


@pytest.fixture(scope="module")
def pictures(examples: Path) -> list[Image.Image]:
    """Of several shapes: wide, tall, square, too large, and too small."""
    cat = Image.open(examples / "cat.jpg").convert("RGB")
    return [cat.resize(size) for size in ((90, 50), (40, 96), (64, 64), (300, 200), (9, 7))]


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_does_not_depend_on_the_batch(
    name: str, pictures: list[Image.Image], tmp_path: Path
) -> None:
    captioner = captax.load(write(name, tmp_path))
    prompts = ["look red", "look", "look red red square", "blue", "red look"]
    places = [captioner.places(captioner.prepare(picture)) for picture in pictures]
    assert places == [6 * 3, 2 * 6, 4 * 4, 6 * 4, 3 * 2]
    options = {"num_beams": 2, "max_new_tokens": 6}
    together = captioner.caption(pictures, prompt=prompts, **options)
    for picture, prompt, found in zip(pictures, prompts, together, strict=True):
        [alone] = captioner.caption(picture, prompt=prompt, **options)
        assert alone.tokens == found.tokens
        assert alone.score == pytest.approx(found.score, abs=1e-5)
    assert len({found.tokens for found in together}) > 1
    scores = captioner.score(pictures[:3], together[:3], prompt="look", **options)
    assert all(np.isfinite(scores))
    [again] = captioner.score(pictures[1], together[1:2], prompt="look", **options)
    assert again == pytest.approx(together[1].score, abs=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_do_not_depend_on_padding(name: str, tmp_path: Path) -> None:
    """Neither on patches behind a picture's own nor on tokens behind its prompt."""
    model = captax.load_model(write(name, tmp_path))
    pixels = np.random.default_rng(0).standard_normal((1, 48, 80, 3)).astype(np.float32)
    grids = np.array([[6, 10]])
    patches = in_squares(pixels, 8, 2)
    filled = np.pad(patches, ((0, 0), (0, 36), (0, 0)), constant_values=7.0)
    tokens = np.array([[6, 7, *[39] * 15, 8, 9, 10]])
    longer = np.pad(tokens, ((0, 0), (0, 12)), constant_values=39)
    said = jnp.array([[11, 12, 13, 14]])

    def read(shown: Any, prompt: Prompt) -> jax.Array:
        answer = jax.jit(lambda shown: model.predict(model.encode(shown), prompt, said))
        return answer(jax.tree.map(jnp.asarray, shown))

    want = read(pixels, Prompt(jnp.asarray(tokens)))
    for shown in (Patches(patches, grids), Patches(filled, grids)):
        for prompt in (tokens, longer):
            got = read(shown, Prompt(jnp.asarray(prompt), jnp.array([20])))
            np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["gemma3-vision", pytest.param("qwen2.5-vl", marks=pytest.mark.slow)]
)
def test_pictures_together_and_videos_do_not_depend_on_the_batch(
    name: str, pictures: list[Image.Image], tmp_path: Path
) -> None:
    """And those of few different numbers share few programs."""
    captioner = captax.load(write(name, tmp_path), frames=3)
    assert captioner.frames == 3
    clip = write_video(tmp_path / "clip.mp4")
    shown = [pictures[:3], pictures[0], [pictures[3], *pictures[1:4]], clip, read_video(clip, 3)]
    together = captioner.caption(shown, prompt="look", max_new_tokens=4)
    assert together[3].tokens == together[4].tokens
    assert len(captioner._programs._kept) <= 3  # one picture, up to four, and videos
    for source, found in zip(shown, together, strict=True):
        [alone] = captioner.caption([source], prompt="look", max_new_tokens=4)
        assert alone.tokens == found.tokens
        assert alone.score == pytest.approx(found.score, abs=1e-5)
    [first] = captioner.caption([[pictures[0]]], prompt="look", max_new_tokens=4)
    assert first.tokens == together[1].tokens
    scores = captioner.score(shown[:1], together[:1], prompt="look")
    assert scores == pytest.approx([together[0].score], abs=1e-4)
    with pytest.raises(ImageError, match="an empty list of pictures"):
        captioner.caption([[]])
    with pytest.raises(ImageError, match="is a video or a sound, not a picture"):
        captioner.explain(clip, "red")


def test_frames_of_a_video_are_held_no_larger_than_the_model_reads_them(
    qwen: NativeCaptioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A still picture may have many more pixels."""
    monkeypatch.setattr("captax.images.native.FRAME_PLACES", 4)
    assert qwen.processor.frame_size < qwen.processor.decode_size
    clip = write_video(tmp_path / "clip.mp4", (0, 200), size=(320, 320))
    assert {frame.size for frame in qwen.read(clip).frames} == {(80, 80)}


@pytest.mark.slow
def test_pictures_of_many_sizes_need_few_programs(tmp_path: Path) -> None:
    captioner = captax.load(write("qwen3-vl", tmp_path), max_pixels=16 * 16 * 300)
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 400, (50, 2))
    made = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    places = {captioner.places(captioner.prepare(each)) for each in made}
    assert len(places) > 20 and min(places) < 64 and max(places) > 256
    chosen = [made[index] for index in rng.integers(0, 50, 500)]
    # So that some batches hold small pictures alone, too.
    chosen[:250] = sorted(chosen[:250], key=lambda each: each.size)
    assert len(captioner.caption(chosen, max_new_tokens=2)) == 500
    assert len(captioner._programs._kept) <= 8


def test_saving_limits_and_what_they_cost(
    qwen: NativeCaptioner, pictures: list[Image.Image], tmp_path: Path
) -> None:
    qwen.save(tmp_path)
    again = captax.load(tmp_path)
    assert again.processor == qwen.processor
    assert again.caption(pictures[0], max_new_tokens=5) == qwen.caption(
        pictures[0], max_new_tokens=5
    )
    fewer = captax.load(tmp_path, max_pixels=4 * 256)
    assert fewer.places(fewer.prepare(pictures[3])) <= 4
    assert "up to 4 tokens" in fewer.cost and "up to 32 tokens" in qwen.cost
    more = captax.load(tmp_path, min_pixels=16 * 256)
    assert more.places(more.prepare(pictures[4])) >= 16
    with pytest.raises(ImageError, match="max_pixels"):
        captax.load(tmp_path, max_pixels=255)
    with pytest.raises(OptionError, match="`image_size` is for models that see a picture as tiles"):
        captax.load(tmp_path, image_size=64)


@pytest.mark.parametrize("name", ["min_pixels", "max_pixels"])
def test_limits_are_refused_where_pictures_have_one_size(name: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="at its own size") as error:
        captax.load(write("paligemma", tmp_path), **{name: 5000})
    assert spelt(str(error.value)).startswith(f"--{name.replace('_', '-')} is for")


def test_files_of_different_checkpoints_are_refused(qwen: NativeCaptioner, tmp_path: Path) -> None:
    qwen.save(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "patch_size": 16}))
    with pytest.raises(CheckpointError, match="patches of 16 pixels in squares of 2"):
        captax.load(tmp_path)


def test_a_prepared_picture_is_that_of_the_model(
    qwen: NativeCaptioner, pictures: list[Image.Image]
) -> None:
    prepared = qwen.processor.prepare(pictures[0])
    assert qwen.prepare(prepared) is prepared
    other = captax.images.ImageProcessor((33, 32)).prepare(pictures[0])
    with pytest.raises(ImageError, match="prepared as"):
        qwen.prepare(other)
    narrow = Image.new("RGB", (2010, 10))
    with pytest.raises(ImageError, match="200 times as long"):
        qwen.caption(narrow)


@pytest.mark.slow
def test_words_are_explained_on_the_grid_of_the_picture(
    qwen: NativeCaptioner, pictures: list[Image.Image]
) -> None:
    methods = ("attention", "gradient")
    for picture, grid in zip(pictures[:2], ((3, 6), (6, 2)), strict=True):
        found = qwen.explain(picture, "red blue", prompt="look", methods=methods)
        assert found.grid == grid
        for method in methods:
            assert found.weights(method).shape[1:] == grid
    [score] = qwen.score(picture, "red blue", prompt="look", length_penalty=1.0)
    assert found.caption.score == pytest.approx(score, abs=1e-4)


@pytest.mark.slow
def test_the_command_says_what_a_picture_costs(
    qwen: NativeCaptioner, examples: Path, tmp_path: Path
) -> None:
    qwen.save(tmp_path / "saved")
    options = ("--model", tmp_path / "saved", "--max-new-tokens", 4, "--out", tmp_path / "c.jsonl")
    said = ["caption", *map(str, (examples / "cat.jpg", *options))]
    plain = CliRunner().invoke(app, said)
    assert plain.exit_code == 0, plain.output
    assert "up to 32 tokens; --max-pixels 2048 makes it a quarter" in plain.stderr
    with pytest.raises(CaptaxError, match="max_pixels"):  # a job goes on with the same limits
        CliRunner().invoke(app, [*said, "--max-pixels", "2048"], catch_exceptions=False)
