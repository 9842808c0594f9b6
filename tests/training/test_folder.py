"""A run begins in an empty folder, goes on in its own, and replaces nothing of anybody else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from captax.training import folder, loop
from captax.training.examples import write_skipped
from captax.training.folder import check_folder, run_recipe
from captax.training.loop import train
from captax.training.recipe import Recipe, RecipeError, differences


@pytest.fixture
def recipe(finetune: Callable[[int], Recipe]) -> Recipe:
    return finetune(4)


def content(folder: Path) -> dict[Path, bytes | None]:
    """Everything below `folder`."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "name",
    [
        *("log.jsonl", "curves.png", "lock", "skipped.json", "samples/step-000002.html"),
        *("best/config.json", "best/README.md", "checkpoints/9/mine", "tensorboard/mine", "notes"),
        *("mine/x", ".best.captax.partial/x"),
    ],
)
def test_a_folder_with_files_and_no_run_is_left_as_it_is(
    name: str, recipe: Recipe, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    before = content(out)
    first = name.partition("/")[0]
    with pytest.raises(
        RecipeError,
        match=rf"run: is not empty and holds no run of captax \(it has {first}\); give --out",
    ):
        train(recipe, out)
    assert content(out) == before


def test_the_first_of_many_files_are_named(recipe: Recipe, tmp_path: Path) -> None:
    for name in "dbca":
        (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(RecipeError, match=r"\(it has a, b, c, \.\.\.\)"):
        check_folder(tmp_path / "run", recipe)


def test_what_a_run_leaves_that_never_began_is_no_hindrance(recipe: Recipe, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    check_folder(out, recipe)
    out.mkdir()
    elsewhere.mkdir()
    (out / "lock").touch()
    (out / ".recipe.yaml.captax.partial").write_text("name: ti")
    (out / "samples").mkdir()
    (out / "checkpoints").symlink_to(elsewhere)  # to keep them on another disk
    write_skipped(out, [])
    check_folder(out, recipe)
    (elsewhere / "mine").touch()
    with pytest.raises(RecipeError, match="it has checkpoints"):
        check_folder(out, recipe)


def test_a_run_does_not_begin_in_its_data(recipe: Recipe, root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root / "shapes")
    for out in (root / "shapes", root / "shapes" / "runs" / "x", link, link / "new", root):
        with pytest.raises(RecipeError, match="read by this run; give --out another folder"):
            train(recipe, out)
    assert not (root / "shapes" / "runs").exists()


def test_a_run_does_not_begin_over_the_model_that_it_reads(
    recipe: Recipe, root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    (out / "best").parent.mkdir()
    (root / "captioner").rename(out / "best")
    link = tmp_path / "link"
    link.symlink_to(out / "best")
    before = content(out)
    for given in (out / "best", link):
        inside = recipe.model_copy(
            update={"model": recipe.model.model_copy(update={"checkpoint": str(given)})}
        )
        with pytest.raises(RecipeError, match=r"holds .*, which is read by this run"):
            train(inside, out)
    default = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"checkpoint": "default"})}
    )
    for given in (out, out / "best", link):
        with pytest.raises(RecipeError, match=r"holds .*, which is read by this run"):
            train(default, out, init_from=given)
    # Also where a run of that recipe seems to be.
    (out / "recipe.yaml").write_text(inside.to_yaml())
    with pytest.raises(RecipeError, match=r"holds .*, which is read by this run"):
        train(inside, out)
    (out / "recipe.yaml").unlink()
    assert content(out) == before


@pytest.mark.parametrize("text", ["name: mine\n", "[", "- a", "", "\0", "hand-written"])
def test_a_recipe_of_no_run_is_told_of(
    text: str, recipe: Recipe, tmp_path: Path, run_line: Callable[..., str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    if text == "hand-written":  # a whole recipe, but as people write it
        text = "# mine\n" + recipe.to_yaml()
    (out / "recipe.yaml").write_text(text)
    with pytest.raises(
        RecipeError, match=r"recipe\.yaml: is not the recipe of a run .*; give --out"
    ):
        train(recipe, out)
    assert "recipe.yaml: is not the recipe of a run" in run_line("train", "--resume", out)
    assert {path.name for path in out.iterdir()} == {"recipe.yaml"}


@pytest.fixture
def run_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`run_line("train", ...)`: the one line with which the command refuses."""

    def run(*words: object) -> str:
        from captax.cli.main import main

        monkeypatch.setattr("sys.argv", ["captax", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        told = capsys.readouterr().err
        assert stop.value.code == 2 and told.count("\n") == 1
        return told

    return run


def test_a_folder_without_a_run_cannot_be_continued(
    tmp_path: Path, run_line: Callable[..., str]
) -> None:
    for given in (tmp_path, tmp_path / "nothere"):
        assert f"captax: {given}: there is no run in this folder; " in run_line(
            "train", "--resume", given
        )


def test_a_run_of_an_earlier_version_goes_on(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its recipe lacks the fields that are new since."""
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    fields = recipe.model_dump(mode="json")
    del fields["optimizer"]["remat"]
    (out / "recipe.yaml").write_text(yaml.safe_dump(fields))
    assert run_recipe(out) == recipe
    monkeypatch.setattr(loop, "_train", lambda *_: None)
    train(recipe, out)
    (out / "recipe.yaml").write_text(recipe.to_yaml())
    (out / "notes").write_text("mine")
    train(recipe, out)  # in a run's own folder a person may keep notes


def changed(recipe: Recipe, **fields: Any) -> Recipe:
    return Recipe.model_validate({**recipe.model_dump(), **fields})


def test_the_fields_that_differ_are_named_one_by_one(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = recipe.stages[0].model_dump()
    slower = changed(recipe, stages=[{**stage, "lr": 1e-4, "lr_scale": {"decoder": 0.5}}])
    assert differences(recipe, slower) == [
        "stages.0.lr was 0.01 and is 0.0001",
        "stages.0.lr_scale.decoder was None and is 0.5",
    ]
    lora = changed(recipe, model={**recipe.model.model_dump(), "lora": {"rank": 4}})
    assert "model.lora.rank was None and is 4" in differences(recipe, lora)
    nothing = changed(recipe, stages=[{**stage, "trainable": []}])
    assert differences(nothing, changed(recipe, stages=[{**stage, "trainable": None}])) == [
        "stages.0.trainable was [] and is None"
    ]
    two = changed(recipe, stages=[stage, {**stage, "name": "second"}])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(recipe.to_yaml())
    with pytest.raises(RecipeError) as told:
        folder.refuse_other(tmp_path / "run", two)
    assert "(stages.1.name was None and is 'second'; stages.1.epochs was" in str(told.value)
    more = len(differences(recipe, two)) - 5
    assert f"; and {more} more); give another folder as --out" in str(told.value)
