"""Whole training runs on a dozen made-up pictures: to the end, and killed on the way."""

import contextlib
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import captax
from captax.checkpoints.state import parameters
from captax.errors import CaptaxError
from captax.training import loop
from captax.training.checkpoints import RunCheckpoints
from captax.training.learning_task import DevResult
from captax.training.loop import ranked, train
from captax.training.lora import merge_lora
from captax.training.recipe import Recipe, RecipeError
from captax.training.tasks import make_task
from captax.training.watch import DivergedError, Log, read_log
from captax.training.writing import CaptionTask

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


pytestmark = pytest.mark.usefixtures("small_encoder")


@pytest.fixture(scope="module")
def root(dataset: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def recipe(root: Path) -> Recipe:
    return Recipe.model_validate({**RECIPE, "data": {**RECIPE["data"], "root": root}})


@pytest.fixture(scope="module")
def finished(recipe: Recipe, small_encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def test_pages_show_dev_examples_and_training_examples(finished: Path) -> None:
    """So that a model which only remembers is seen."""
    first, last = sorted((finished / "samples").iterdir())
    for page in (first.read_text(), last.read_text()):
        cards = page.split("<figure>")[1:]
        learned = ["training example" in card for card in cards]
        assert learned == [False] * 4 + [True] * 5  # there are four dev examples
        assert all("References" in card and "data:image/jpeg" in card for card in cards)


def test_what_is_frozen_is_saved_as_it_was(
    recipe: Recipe, small_encoder: Any, tmp_path: Path
) -> None:
    """Also if it was narrowed for the products."""
    stage = recipe.stages[0].model_copy(update={"max_steps": 1, "views": None})
    narrow = recipe.optimizer.model_copy(update={"precision": "bfloat16"})
    changed = {"stages": (stage,), "optimizer": narrow}
    saved = captax.load(train(recipe.model_copy(update=changed), tmp_path / "run"))
    kept = parameters(saved.model)
    for name, value in parameters(small_encoder).items():
        np.testing.assert_array_equal(kept[f"encoder.{name}"], value)


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


@pytest.mark.slow
def test_a_run_killed_again_and_again_is_the_same_run(
    finished: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = finished.with_name("killed")  # beside the other: the features are there
    # When the stage was scored but that not yet saved; and in the second stage.
    for step, key in ((4, "scores"), (7, "loss")):
        with monkeypatch.context() as patch:
            patch.setattr(Log, "write", killed_at(step, key))
            with pytest.raises(Killed):
                train(recipe, out)
        assert max(record["step"] for record in read_log(out / "log.jsonl")) in (step - 1, step)
    train(recipe, out)
    assert records(out) == records(finished)
    for name in ("model.safetensors", "README.md", "tokenizer.json", "config.json"):
        assert (out / "best" / name).read_bytes() == (finished / "best" / name).read_bytes()


@pytest.mark.slow
def test_a_run_stopped_from_the_keyboard_keeps_its_last_step(
    finished: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = finished.with_name("stopped")
    write = Log.write

    def interrupted(self: Log, **record: Any) -> None:
        write(self, **record)
        if record["step"] == 5:
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(changed(recipe, save_every=100), out)
    assert signal.getsignal(signal.SIGINT) is handler
    # The step that ran meanwhile is done and saved, too.
    with RunCheckpoints(out / "checkpoints") as saved:
        assert saved.progress()["step"] == records(out)[-1]["step"] == 6
    train(changed(recipe, save_every=100), out)
    assert records(out) == records(finished)


def test_dev_examples_that_are_learned_from_are_told(
    finished: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    every = changed(recipe, data={**recipe.data.model_dump(), "train": [{"path": "shapes"}]})
    assert make_task(recipe).shared() == 0
    dev = len(make_task(recipe).dev)
    monkeypatch.setattr(loop._Run, "run_stage", lambda *_: None)
    train(every, finished.with_name("overlap"))
    told = capsys.readouterr().out
    assert (
        f"warning: {dev} dev examples are also in the training data; dev scores will be too high"
        in told
    )
    train(recipe, finished.with_name("apart"))
    assert "warning" not in capsys.readouterr().out


def test_scores_are_told_as_evaluate_tells_them() -> None:
    told = [loop._told(name, 0.81234) for name in ("CIDEr-D", "loss", "perplexity", "vocabulary")]
    assert told == ["CIDEr-D 81.23", "loss 0.8123", "perplexity 0.8123", "vocabulary 0.8123"]


def test_a_finished_run_is_left_as_it_is(
    finished: Path,
    recipe: Recipe,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = (finished / "log.jsonl").read_bytes()
    monkeypatch.setattr("captax.training.learning_task.LearningTask.shared", lambda self: 3)
    capsys.readouterr()
    assert train(recipe, finished) == finished / "best"
    [told] = [line for line in capsys.readouterr().out.splitlines() if line]
    assert told.startswith("this run has finished after ") and f"--init-from {finished}" in told
    assert (finished / "log.jsonl").read_bytes() == before


def test_another_recipe_in_the_same_folder_is_refused(finished: Path, recipe: Recipe) -> None:
    other = recipe.model_copy(update={"seed": 1})
    refused = r"recipe\.yaml: this folder holds a run of another recipe \(seed was 2 and is 1\)"
    with pytest.raises(RecipeError, match=refused):
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


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run(
    finished: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = CaptionTask.loss

    def poisoned(self: Any, model: Any, batch: Any) -> Any:
        losses = honest(self, model, batch)
        return losses._replace(total=losses.total / (batch.inputs.sum() * 0))

    monkeypatch.setattr(CaptionTask, "loss", poisoned)

    out = finished.with_name("diverged")
    said = r"step 1: the loss is (nan|inf) and the gradient of decoder\.\S+ is not finite"
    with pytest.raises(DivergedError, match=said):
        train(recipe, out)
    assert read_log(out / "log.jsonl") == []


def canned(monkeypatch: pytest.MonkeyPatch, *scores: float) -> list[dict[str, Any]]:
    """Evaluations that give these CIDEr-D, in order; and the parameters that each was given."""
    given: list[dict[str, Any]] = []

    def evaluate(self: Any, model: Any) -> Callable[..., DevResult]:
        def run(parameters: dict[str, Any]) -> DevResult:
            given.append({**parameters})
            return DevResult({"CIDEr-D": scores[len(given) - 1], "loss": 1.0}, [], [])

        return run

    monkeypatch.setattr(CaptionTask, "evaluate", evaluate)
    return given


EVALUATION = RECIPE["evaluation"]
DECODER = {"epochs": 2, "lr": 1e-2, "trainable": ["decoder"], "views": 2}


@pytest.mark.slow
def test_a_stage_ends_when_nothing_gets_better(
    finished: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = finished.with_name("patient")
    stages = [{**DECODER, "name": "first"}, {**DECODER, "name": "second"}]
    patient = changed(
        recipe,
        stages=stages,
        keep=3,
        evaluation={**EVALUATION, "steps": 2, "patience": 2},
        save_every=100,
    )
    # The second stage takes up counting anew: its first evaluation is a third without a better.
    canned(monkeypatch, 0.2, 0.4, 0.3, 0.4, 0.1, 0.5, 0.2, 0.3)
    train(patient, out)
    log = records(out)
    steps = [(record["step"], record["stage"]) for record in log if "loss" in record]
    assert steps == [(n, "first") for n in range(1, 9)] + [(n, "second") for n in range(9, 17)]
    assert "| CIDEr-D x 100 | 50.0 |" in (out / "best" / "README.md").read_text()
    kept = sorted(int(path.name) for path in (out / "checkpoints").iterdir())
    assert kept == [12, 14, 16]
    # Another run is out of patience at its third evaluation, and stays so when called again.
    out, scores = finished.with_name("impatient"), [0.4, 0.3, 0.4, 0.1, 0.3]
    canned(monkeypatch, *scores)
    train(patient, out)
    steps = [(record["step"], record["stage"]) for record in records(out) if "loss" in record]
    assert steps == [(n, "first") for n in range(1, 7)] + [(n, "second") for n in range(7, 11)]
    before = (out / "log.jsonl").read_bytes()
    canned(monkeypatch)
    train(patient, out)
    assert (out / "log.jsonl").read_bytes() == before


@pytest.mark.slow
def test_errors_are_best_when_they_are_few_and_steps_may_be_too(
    finished: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = finished.with_name("errors")
    stages = [{**DECODER, "name": "s", "max_steps": 6}]
    options = {**EVALUATION, "metric": "loss", "steps": 4}
    by_loss = changed(recipe, stages=stages, evaluation=options)
    losses = iter([0.5, 0.7])

    def evaluate(self: Any, model: Any) -> Callable[..., DevResult]:
        return lambda parameters: DevResult({"loss": next(losses)}, [], [])

    monkeypatch.setattr(CaptionTask, "evaluate", evaluate)
    train(by_loss, out)
    assert [r["step"] for r in records(out) if "scores" in r] == [4, 6]
    assert "| loss | 0.500 |" in (out / "best" / "README.md").read_text()


@pytest.mark.slow
def test_a_run_may_begin_with_anothers_weights(
    finished: Path, recipe: Recipe, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    want = parameters(captax.load_model(finished / "best"))
    one = [{**DECODER, "name": "s", "epochs": 1, "lr": 1e-12}]
    still = changed(recipe, stages=one, optimizer={"batch_size": 8})
    for number, start in enumerate((finished, finished / "best")):
        canned(monkeypatch, 0.5)
        out = finished.with_name(f"from-{number}")
        train(still, out, init_from=start)
        got = parameters(captax.load_model(out / "best"))
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, atol=1e-6, err_msg=name)
    model = {**RECIPE["model"], "decoder": {**RECIPE["model"]["decoder"], "width": 8}}
    with pytest.raises(RecipeError, match=r"best holds another model|holds another model than"):
        train(changed(still, model=model), tmp_path / "other", init_from=finished)


@pytest.mark.slow
def test_words_of_other_data_are_refused(
    recipe: Recipe,
    dataset: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A vocabulary that is as large numbers its words in another order."""
    canned(monkeypatch, 0.5, 0.5)
    root = dataset(tmp_path)
    own = {**recipe.model_dump()["data"], "root": root}
    short = changed(recipe, data=own, stages=[{**DECODER, "name": "s", "max_steps": 1}])
    best = train(short, tmp_path / "run")
    listed = root / "shapes" / "text" / "Flickr8k.token.txt"
    listed.write_text(listed.read_text().replace("dark", "zone"))
    other = changed(short, name="other")
    with pytest.raises(RecipeError, match=r"/best: token \d+ is .* set model.tokenizer=.*/best "):
        train(other, tmp_path / "other", init_from=tmp_path / "run")
    with pytest.raises(RecipeError, match=r"/run: the tokens or labels of its model are no longer"):
        train(short, tmp_path / "run")
    # What the message says to do.
    advised = changed(other, model={**short.model_dump()["model"], "tokenizer": str(best)})
    train(advised, tmp_path / "other", init_from=tmp_path / "run")


@pytest.mark.slow
def test_hints_keep_the_classes_they_are_taken_from(
    recipe: Recipe, small_classifier: Any, tmp_path: Path
) -> None:
    decoder = RECIPE["model"]["decoder"] | {"hints": 2}
    stages = [{"name": "all", "epochs": 6, "lr": 5e-3, "trainable": [r"decoder|encoder\.head"]}]
    apart = {}
    for weight in (1e-6, 3.0):
        hinted = changed(
            recipe,
            model={**RECIPE["model"], "decoder": decoder},
            optimizer={"batch_size": 2, "keep_classes": weight},
            stages=stages,
        )
        out = tmp_path / f"{weight}"
        train(hinted, out)
        measured = [r["classes"] for r in records(out) if "classes" in r]
        assert measured[0] == pytest.approx(0, abs=1e-4)
        apart[weight] = np.mean(measured[-8:])
        kept = captax.load_model(out / "best")
        words = kept.config.decoder.class_words
        tokenizer = captax.load(out / "best").tokenizer
        said = [tokenizer.decode(list(each)) for each in words]
        assert said == ["red stripe", "yo", "square", "egyptian cat"]
    assert apart[3.0] < 0.8 * apart[1e-6]
    image = recipe.data.root / "shapes" / "images" / "0.jpg"
    explained = captax.load(tmp_path / "3.0" / "best").explain(image)
    shares = explained.picture_share
    assert (shares >= 0).all() and (shares < 1.01).all()
    assert shares.min() < 0.5  # the rest lay on the hints
    assert explained.maps().shape[1:] == explained.grid


def test_dev_sources_have_scores_of_their_own(recipe: Recipe, tmp_path: Path) -> None:
    shapes = recipe.data.root / "shapes"
    shutil.copytree(shapes, tmp_path / "shapes")
    (tmp_path / "others").mkdir()
    for number, caption in enumerate(["a red square on grass", "a blue cat", "a green stripe"]):
        shutil.copy(shapes / "images" / f"{number}.jpg", tmp_path / "others")
        (tmp_path / "others" / f"{number}.txt").write_text(caption)
    sources = [{"path": "shapes", "split": "dev"}, {"path": "others", "rows": ":3"}]
    data = {**RECIPE["data"], "root": tmp_path, "dev": sources}
    evaluation = {**RECIPE["evaluation"], "metric": "CIDEr-D mean"}
    task = make_task(changed(recipe, data=data, evaluation=evaluation))
    said = [example.captions[0] for example in task.dev]
    assert task.metric in task.scores(said)
    scores = task.scores([*said[:4], "a red square on grass", "a dog", "a green stripe"])
    assert scores["CIDEr-D shapes"] != scores["CIDEr-D others"] > 0
    mean = (scores["CIDEr-D shapes"] + scores["CIDEr-D others"]) / 2
    assert scores["CIDEr-D mean"] == pytest.approx(mean)
    alone = make_task(changed(recipe, data={**data, "dev": sources[1:]}))
    others = alone.scores(["a red square on grass", "a dog", "a green stripe"])
    assert others["CIDEr-D"] == pytest.approx(scores["CIDEr-D others"])
    assert not any("mean" in name for name in others)


@pytest.mark.slow
def test_low_rank_and_self_critical_stages_go_on_bit_for_bit(
    finished: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier stage alone trained is in the checkpoint of the next."""
    lora = {"rank": 2, "targets": [r"decoder\..*(query|value)\.kernel"]}
    stages = [
        {"name": "norms", "epochs": 1, "lr": 3e-2, "trainable": [r"decoder\..*norm"], "views": 2},
        {"name": "lora", "epochs": 1, "lr": 1e-1, "views": 2, "self_critical": {"samples": 2}},
    ]
    both = changed(recipe, model={**RECIPE["model"], "lora": lora}, stages=stages)
    begun = {}
    begin = loop.begin_stage

    def spy(parameters: dict[str, Any], *options: Any) -> Any:
        begun[len(begun)] = set(parameters)
        return begin(parameters, *options)

    monkeypatch.setattr(loop, "begin_stage", spy)
    whole, out = finished.with_name("lora"), finished.with_name("lora-killed")
    given = canned(monkeypatch, 0.1, 0.2)
    train(both, whole)
    thin = {name for name in begun[1] if name.endswith((".lora_down", ".lora_up"))}
    assert begun[1] == thin and len(thin) == 8 and not thin & begun[0]
    # What was saved is the model that was judged, its kernels merged.
    saved = parameters(captax.load_model(whole / "best"))
    judged = merge_lora(given[1], both.model.lora)
    assert saved.keys() == judged.keys()
    for name, value in judged.items():
        np.testing.assert_allclose(saved[name], value, atol=1e-6, err_msg=name)
    moved = {name for name in saved if not np.allclose(given[0][name], saved[name], atol=1e-7)}
    assert moved and moved <= {name.rpartition(".lora_")[0] for name in thin}
    rewards = [record["reward"] for record in records(whole) if "reward" in record]
    assert len(rewards) == 4 and min(rewards) >= 0

    # In the second stage, before its first checkpoint and after it.
    for step, key in ((5, "loss"), (7, "loss")):
        with monkeypatch.context() as patch:
            canned(patch, 0.1, 0.2)
            patch.setattr(Log, "write", killed_at(step, key))
            with pytest.raises(Killed):
                train(both, out)
    canned(monkeypatch, 0.2)
    train(both, out)
    assert records(out) == records(whole)
    best = "best/model.safetensors"
    assert (out / best).read_bytes() == (whole / best).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["log.jsonl", "recipe.yaml", "curves.png", "samples/step-000002.html"]
)
def test_files_of_a_run_replace_links_and_refuse_to_leave(
    recipe: Recipe, tmp_path: Path, name: str
) -> None:
    out, victim = tmp_path / "runs" / "run", tmp_path / "victim"
    (out / name).parent.mkdir(parents=True)
    victim.write_text("dear")
    (out / name).symlink_to(victim)
    if name != "recipe.yaml":  # in a folder that holds no run, captax would not even begin
        (out / "recipe.yaml").write_text(recipe.to_yaml())
    with contextlib.suppress(CaptaxError):
        train(recipe, out)
    assert victim.read_text() == "dear"


@pytest.mark.parametrize("name", ["checkpoints", "best", "samples", "../features"])
def test_folders_of_a_run_do_not_lead_out(recipe: Recipe, tmp_path: Path, name: str) -> None:
    out, outside = tmp_path / "runs" / "run", tmp_path / "outside"
    out.mkdir(parents=True)
    outside.mkdir()
    (out / name).symlink_to(outside)
    with pytest.raises(
        CaptaxError, match=r"link leads out of .*; remove the link, or add --follow"
    ):
        train(recipe, out)
    assert not list(outside.iterdir())


def test_what_is_not_a_number_is_the_worst_score() -> None:
    """As float16 may make it; compared as it is, the first such model would stay the best."""
    nan = float("nan")
    bad = ranked({"loss": nan}, "loss")
    assert bad < ranked({"loss": 9e9}, "loss") < ranked({"loss": 1.0}, "loss")
    assert not bad > bad
    assert ranked({"accuracy": 0.5, "loss": nan}, "accuracy") < ranked(
        {"accuracy": 0.5, "loss": 9.0}, "accuracy"
    )
