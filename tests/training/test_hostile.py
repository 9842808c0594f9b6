"""Broken pictures, hostile recipes, damaged runs and a full disk end in one line, at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captax.errors import CaptaxError
from captax.files import OutputError
from captax.images import ImageError
from captax.training import build, loop
from captax.training.checkpoints import RunCheckpoints
from captax.training.loop import train
from captax.training.recipe import Recipe, RecipeError, load_recipe, matches
from captax.training.watch import Log, read_log
from captax.training.writing import CaptionTask


@pytest.fixture
def recipe(finetune: Callable[[int], Recipe]) -> Recipe:
    return finetune(4)


@pytest.mark.slow
def test_all_broken_pictures_are_told_of_before_the_first_step(
    recipe: Recipe, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "shapes" / "images" / "3.jpg").write_bytes(b"broken")
    dev = root / "shapes" / "images" / "9.jpg"
    dev.write_bytes(dev.read_bytes()[:300])
    monkeypatch.setattr(loop, "make_step", None)
    with pytest.raises(ImageError, match=r"^2 pictures cannot be read: .*3\.jpg.*9\.jpg") as told:
        train(recipe, tmp_path / "run")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_picture_that_disappears_costs_no_step(
    recipe: Recipe, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, picture = tmp_path / "run", root / "shapes" / "images" / "0.jpg"
    slow = recipe.model_copy(update={"save_every": 100})
    train(slow, tmp_path / "whole")
    kept, read, batches = picture.read_bytes(), CaptionTask.batch, []

    def batch(self: CaptionTask, chosen: np.ndarray, epoch: int) -> Any:
        batches.append(chosen)
        if len(batches) == 2:
            picture.unlink()
        return read(self, chosen, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(CaptionTask, "batch", batch)
        with pytest.raises(ImageError, match=r"0\.jpg: no such file; saved at step [123]\."):
            train(slow, out)
    picture.write_bytes(kept)
    train(slow, out)
    best = "best/model.safetensors"
    assert (out / best).read_bytes() == (tmp_path / "whole" / best).read_bytes()


@pytest.mark.slow
def test_a_run_goes_on_without_its_pictures(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def full(path: Path, *_: Any, **__: Any) -> None:
        raise OutputError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(loop, "plot_curves", full)
    monkeypatch.setattr(loop, "write_sheet", full)
    train(recipe, tmp_path / "run")
    told = capsys.readouterr().out
    assert "warning: " in told and "curves.png: cannot be written" in told


def test_a_disk_without_room_for_one_checkpoint_is_refused(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(RecipeError, match="a checkpoint and a model take up to"):
        train(recipe, tmp_path / "run")


@pytest.mark.parametrize(
    "override",
    [
        "seed=-1",
        "seed=99999999999999999999",
        "stages.0.lr=.inf",
        "stages.0.epochs=1000000000000",
        "stages.0.epochs=0x" + "f" * 50_000,
        "optimizer.batch_size=" + "9" * 4000,
        "model.encoder.image_size=1000000",
        "data.train.0.rows='" + "9" * 5000 + ":'",
        "optimizer.name='" + "a" * 500_000 + "'",
        "description='" + "a" * 1_500_000 + "'",
        "stages.0.trainable=['" + "(" * 5000 + "']",
        "stages.0.trainable=['(a{60000}){60000}']",
    ],
    ids=lambda override: override[:30],
)
def test_numbers_and_texts_beyond_any_use_are_refused(override: str) -> None:
    with pytest.raises(RecipeError) as told:
        load_recipe("finetune", ["data.root=.", override])
    assert "\n" not in str(told.value) and len(str(told.value)) < 21_000


def test_a_pattern_that_never_ends_is_stopped() -> None:
    with pytest.raises(RecipeError, match="takes too long to match"):
        matches([r"(?:a|a|aa)+(?:a|a|aa)+x"], "a" * 100)


def test_merged_keys_do_not_multiply(tmp_path: Path) -> None:
    lines = ["a0: &a0 {" + ", ".join(f"k{n}: 1" for n in range(1000)) + "}"]
    for n in range(1, 9):
        lines.append(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 20)}]}}")
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(RecipeError, match="stands for more than 100,000 values"):
        load_recipe(str(tmp_path / "bomb.yaml"))


def test_a_vocabulary_has_a_bound(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "MOST_WORDS", 5)
    with pytest.raises(RecipeError, match=r"different words occur data\.min_count"):
        train(recipe, tmp_path / "run")


def test_too_many_steps_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    [stage] = recipe.stages
    endless = recipe.model_copy(update={"stages": (stage.model_copy(update={"epochs": 2**30}),)})
    with pytest.raises(RecipeError, match="steps in all, more than"):
        train(endless, tmp_path / "run")


def test_a_damaged_log_is_told_of_and_a_torn_end_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    whole = json.dumps({"step": 1, "loss": 2.0}).encode()
    path.write_bytes(whole + b"\n" + b'{"step": 2, "lo' + b"\0" * 50)
    assert [record["step"] for record in read_log(path)] == [1]
    for damage in (b"[]", b"\xff", b'{"step": "1"}', b"[" * 100_000):
        path.write_bytes(damage + b"\n" + whole + b"\n")
        with pytest.raises(CaptaxError, match=r"log\.jsonl, line 1: not a record of a run"):
            Log(path, last_step=1)
        assert path.read_bytes().startswith(damage)


@pytest.mark.slow
@pytest.mark.parametrize(
    "progress",
    [[], {"step": 10**12}, {"stage": 9}, {"stage_step": 10**6}, {"stage": -1}],
    ids=str,
)
def test_progress_that_the_recipe_cannot_have_is_refused(
    progress: Any, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    short = recipe.model_copy(update={"save_every": 1})
    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_judge", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(short, out)
    real = RunCheckpoints.progress
    monkeypatch.setattr(
        RunCheckpoints,
        "progress",
        lambda self: {**real(self), **progress} if isinstance(progress, dict) else progress,
    )
    with pytest.raises(RecipeError, match=r"checkpoints/1: its progress is not one of this"):
        train(short, out)


@pytest.mark.slow
def test_a_checkpoint_cut_short_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(recipe, out)
    newest = max((out / "checkpoints").iterdir(), key=lambda path: int(path.name))
    for path in newest.rglob("*"):
        if path.is_file() and "arrays" in str(path):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CaptaxError, match=r"checkpoints/4: .*remove this folder") as told:
        train(recipe, out)
    assert "\n" not in str(told.value) and len(str(told.value)) < 1000


def test_one_of_a_thousand_pictures_may_be_a_bomb(
    recipe: Recipe, root: Path, tmp_path: Path
) -> None:
    Image.new("1", (20_000, 20_000)).save(root / "shapes" / "images" / "5.jpg", "PNG")
    with pytest.raises(ImageError, match=r"^1 picture cannot be read: .*5\.jpg: 20000x20000"):
        train(recipe, tmp_path / "run")
