"""One grid over a picture that is read as tiles and as a whole."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import captax
from captax.cli.main import app
from captax.explain import ExplainError
from captax.explain.hiding import hidden
from captax.explain.tiles import cells, paste, whole_grid
from captax.images.tiles import TileProcessor
from captax.pipelines.vision_language import VisionLanguageCaptioner
from vision_language_files import write

TILES, GRID = (2, 3), (4, 5)
WHOLE = whole_grid(TILES, GRID)
CAPTION = "red square blue"


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageCaptioner:
    return captax.load(write("smolvlm", tmp_path_factory.mktemp("smolvlm")))


@pytest.fixture(scope="module")
def wide(examples: Path) -> Image.Image:
    """A picture of 2 x 3 tiles."""
    return Image.open(examples / "cat.jpg").convert("RGB").resize((90, 50))


@pytest.mark.parametrize("place", [(0, 0), (3, 4), (5, 11), (7, 14)])
def test_a_cell_of_a_tile_is_where_its_pixels_are(place: tuple[int, int]) -> None:
    """The pixels that `cells` gives to a cell are those of the places that `paste` puts there."""
    side = 20  # pixels: 5 lines a row, 4 a column
    rows, columns = cells((7, side, side, 3), TILES, WHOLE)
    for view, row, column in itertools.product(range(7), range(GRID[0]), range(GRID[1])):
        attention = np.zeros((7, *GRID), np.float32)
        attention[view, row, column] = 1
        pasted = paste(attention.reshape(1, -1), TILES, GRID).reshape(WHOLE)
        lines = slice(row * side // GRID[0], (row + 1) * side // GRID[0])
        dots = slice(column * side // GRID[1], (column + 1) * side // GRID[1])
        inside = (place[0] in rows[view, lines]) and (place[1] in columns[view, dots])
        assert (pasted[place] > 0) == inside
        assert pasted.sum() == pytest.approx(1)


def test_without_tiles_nothing_is_pasted() -> None:
    attention = np.random.default_rng(0).random((2, 3, 20))
    assert paste(attention, (0, 0), GRID) is attention
    assert whole_grid((0, 0), GRID) == GRID


def test_all_views_are_hidden_alike() -> None:
    """Behind the mean of the whole, so that no tile tells what was in it."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 60, 3), np.uint8))
    picture.paste((255, 0, 0), (0, 0, 30, 48))
    shown = TileProcessor(side=20, longest_edge=60).prepare(picture)
    nothing = hidden(shown, "mean")
    assert nothing.views.shape == shown.views.shape and nothing.grid == shown.grid
    assert np.ptp(nothing.views.astype(int), axis=(0, 1, 2)).max() <= 1
    blurred = hidden(shown, "blur")
    assert blurred.tiles is not None and np.ptp(blurred.tiles[..., 0].astype(int)) > 9


def test_maps_lie_over_tiles_and_the_whole(
    smolvlm: VisionLanguageCaptioner, wide: Image.Image
) -> None:
    found = smolvlm.explain(wide, CAPTION, prompt="look")
    shown = smolvlm.prepare(wide)
    side = round(smolvlm.model.config.places**0.5)
    assert shown.grid == (2, 3) and found.grid == (2 * side, 3 * side)
    assert [word.text for word in found.words] == CAPTION.split()
    maps = found.maps()
    assert maps.shape == (3, *found.grid)
    np.testing.assert_allclose(maps.sum((1, 2)), 1, atol=1e-5)
    # One softmax over picture and text.
    looked, read = found.cross_attentions.sum(-1), found.self_attentions.sum(-1)
    np.testing.assert_allclose(looked + read, 1, atol=1e-5)
    assert found.image.size == wide.size
    [score] = smolvlm.score(wide, CAPTION, prompt="look", length_penalty=1.0)
    assert found.logprobs.mean() == pytest.approx(score, abs=1e-4)


@pytest.mark.slow
def test_evidence_is_that_of_the_whole_picture(
    smolvlm: VisionLanguageCaptioner, wide: Image.Image
) -> None:
    """Integrated gradients sum to what hiding all does, over all views."""
    methods = ("integrated", "occlusion")
    found = smolvlm.explain(wide, CAPTION, methods=methods, faithfulness=True)
    nothing = hidden(smolvlm.prepare(wide), "mean")
    hid = smolvlm.explain(nothing, CAPTION)
    assert found.grid == hid.grid
    integrated = found.evidence["integrated"].sum((1, 2))
    np.testing.assert_allclose(integrated, found.logprobs - hid.logprobs, rtol=0.05, atol=1e-4)
    assert found.evidence["occlusion"].shape == (4, *found.grid)
    assert set(found.faithfulness) == {*methods, "random"}


@pytest.mark.slow
def test_pictures_and_prompts_that_see_each_other_are_explained(
    wide: Image.Image, tmp_path: Path
) -> None:
    paligemma = captax.load(write("paligemma", tmp_path))
    found = paligemma.explain(wide, CAPTION, methods=("attention", "gradient"))
    assert found.grid == (4, 4) and found.maps("gradient").shape == (3, 4, 4)
    looked, read = found.cross_attentions.sum(-1), found.self_attentions.sum(-1)
    np.testing.assert_allclose(looked + read, 1, atol=1e-5)
    [score] = paligemma.score(wide, CAPTION, length_penalty=1.0)
    assert found.logprobs.mean() == pytest.approx(score, abs=1e-4)


def test_an_encoder_of_views_has_no_rollout(
    smolvlm: VisionLanguageCaptioner, wide: Image.Image
) -> None:
    with pytest.raises(ExplainError, match="reads a picture in several views; choose attention"):
        smolvlm.explain(wide, CAPTION, methods="rollout")


def test_the_command_explains_an_answer(
    smolvlm: VisionLanguageCaptioner, wide: Image.Image, tmp_path: Path
) -> None:
    picture, model, page = tmp_path / "cat.png", str(tmp_path / "model"), tmp_path / "cat.html"
    wide.save(picture)
    smolvlm.save(model)
    asked = ["--prompt", "look", "--system", "red", "--max-new-tokens", "4", "--feed-back"]
    command = ["explain", str(picture), "--model", model, "--out", str(page), *asked]
    answered = CliRunner().invoke(app, command)
    assert answered.exit_code == 0, answered.output
    [caption] = smolvlm.caption(wide, prompt="look", system="red", max_new_tokens=4)
    assert caption.text in answered.stdout and "fed back: " in answered.stdout
    assert "<html" in page.read_text()
