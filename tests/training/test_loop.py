"""Whole training runs on a dozen made-up pictures: to the end, and killed on the way."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import captax
from captax.models import efficientnet
from captax.models.efficientnet import EfficientNetLite
from captax.training import build, tasks
from captax.training.watch import DivergedError, Log, read_log
from captax.training.loop import train
from captax.training.recipe import Recipe, RecipeError

# Two stages of four steps, one epoch each; checkpoints at steps 3, 4, 6 and 8.
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "data": {
        "train": [{"path": "shapes", "split": "train"}],
        "dev": [{"path": "shapes", "split": "dev"}],
        "min_count": 1,
        "max_tokens": 10,
        "row_tokens": 16,
    },
    "model": {
        "encoder": {"checkpoint": "efficientnet-lite0"},
        "decoder": {
            "width": 16,
            "layers": 1,
            "heads": 2,
            "mlp_width": 16,
            "max_positions": 10,
            "dropout": 0.1,
        },
    },
    "augment": {"crop_scale": [0.5, 1.0], "flip": True, "jitter": 0.2},
    "stages": [
        {"name": "decoder", "epochs": 1, "lr": 3e-2, "trainable": ["decoder"], "views": 2},
        {
            "name": "tail",
            "epochs": 1,
            "lr": 3e-2,
            "trainable": ["decoder", r"encoder\.head"],
            "lr_scale": {"encoder": 0.1},
        },
    ],
    "optimizer": {"batch_size": 2},
    "evaluation": {"num_beams": 2, "max_new_tokens": 6, "batch_size": 3},
    "save_every": 3,
    "seed": 2,
}


@pytest.fixture(scope="module")
def root(dataset: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def recipe(root: Path) -> Recipe:
    return Recipe.model_validate({**RECIPE, "data": {**RECIPE["data"], "root": root}})


@pytest.fixture(scope="module", autouse=True)
def small_encoder(
    make_model: Callable[..., EfficientNetLite], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """One block in place of the pretrained encoder; and what a run compiles, the next finds."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "STAGES", ((1, 3, 16, 1, 8),))
        encoder = make_model({"model_type": "efficientnet-lite", "image_size": 40})
        patch.setattr(build, "load_efficientnet_lite", lambda size, weights: encoder)
        for name, value in options.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert train(recipe, out) == out / "best"
    return out


def records(out: Path) -> list[dict[str, Any]]:
    """The log but for the times."""
    found = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in found]


def test_a_run_logs_every_step_and_scores_every_epoch(finished: Path) -> None:
    log = records(finished)
    steps = [record for record in log if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, 9))
    assert [record["stage"] for record in steps] == ["decoder"] * 4 + ["tail"] * 4
    assert [record["epoch"] for record in steps] == [step / 4 for step in range(1, 9)]
    scored = [record for record in log if "scores" in record]
    assert [record["step"] for record in scored] == [4, 8]
    assert {"CIDEr-D", "BLEU-4"} <= scored[0]["scores"].keys()
    assert sum(record["nll"] for record in steps[-2:]) / 2 < 0.95 * steps[0]["nll"]
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_best_captioner_captions(finished: Path, root: Path) -> None:
    captioner = captax.load(finished / "best")
    assert captioner.generation.num_beams == 2
    [caption] = captioner.caption([root / "shapes" / "images" / "0.jpg"])
    assert caption.tokens and "<" not in caption.text
    card = (finished / "best" / "README.md").read_text()
    best = max(r["scores"]["CIDEr-D"] for r in records(finished) if "scores" in r)
    assert f"| CIDEr-D x 100 | {100 * best:.1f} |" in card
    leftovers = [path.name for path in finished.iterdir() if "partial" in path.name]
    assert leftovers == []


class Killed(BaseException):
    pass


def killed_at(step: int, key: str) -> Callable[..., None]:
    """A `Log.write` that dies at this step's record, half-written, of losses or of scores."""
    write = Log.write

    def dying(self: Log, **record: Any) -> None:
        if record["step"] == step and key in record:
            with self.path.open("a") as file:
                file.write(json.dumps(record)[:20])
            raise Killed
        write(self, **record)

    return dying


def test_a_run_killed_again_and_again_is_the_same_run(
    finished: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = finished.with_name("killed")  # beside the other: the features are there
    # When the stage was scored but that not yet saved; in the second stage before its first
    # checkpoint; and after one.
    for step, key in ((4, "scores"), (5, "loss"), (7, "loss")):
        with monkeypatch.context() as patch:
            patch.setattr(Log, "write", killed_at(step, key))
            with pytest.raises(Killed):
                train(recipe, out)
        assert max(record["step"] for record in read_log(out / "log.jsonl")) in (step - 1, step)
    train(recipe, out)
    assert records(out) == records(finished)
    for name in ("model.safetensors", "README.md", "tokenizer.json", "config.json"):
        assert (out / "best" / name).read_bytes() == (finished / "best" / name).read_bytes()


def test_a_finished_run_is_left_as_it_is(finished: Path, recipe: Recipe) -> None:
    before = (finished / "log.jsonl").read_bytes()
    assert train(recipe, finished) == finished / "best"
    assert (finished / "log.jsonl").read_bytes() == before


def test_another_recipe_in_the_same_folder_is_refused(finished: Path, recipe: Recipe) -> None:
    other = recipe.model_copy(update={"seed": 1})
    with pytest.raises(RecipeError, match=r"recipe\.yaml: this folder holds a run of another"):
        train(other, finished)
    assert (finished / "recipe.yaml").read_text() == recipe.to_yaml()


def changed(recipe: Recipe, **fields: Any) -> Recipe:
    return Recipe.model_validate({**recipe.model_dump(), **fields})


def test_a_recipe_that_cannot_train_says_why(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data.train has 8 examples, fewer than .* \(9\)"):
        train(changed(recipe, optimizer={"batch_size": 9}), tmp_path / "batch")
    nothing = [{"name": "s", "epochs": 1, "lr": 1.0, "trainable": ["decodr"]}]
    with pytest.raises(RecipeError, match=r"stages.0.trainable matches no parameter"):
        train(changed(recipe, stages=nothing), tmp_path / "trainable")


def test_a_loss_that_is_no_number_stops_the_run(
    finished: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = tasks.CaptionTask.loss

    def poisoned(self: Any, model: Any, batch: Any) -> Any:
        losses = honest(self, model, batch)
        return losses._replace(total=losses.total / (batch.inputs.sum() * 0))

    monkeypatch.setattr(tasks.CaptionTask, "loss", poisoned)

    out = finished.with_name("diverged")
    with pytest.raises(DivergedError, match=r"step 1: the loss is (nan|inf) and a gradient is"):
        train(recipe, out)
    assert read_log(out / "log.jsonl") == []
