"""`captax evaluate` of classifiers and text-to-text models; test_commands.py has captioners."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captax
from captax import data, metrics
from captax.errors import CaptaxError
from captax.pipelines.assembly import classifier_for

Run = Callable[..., Any]
LABELS = ("apple_pie", "baklava", "cheese $plate", "donuts", "edamame", "falafel", "gnocchi")


@pytest.fixture(scope="module")
def classifier(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a small classifier of seven dishes, which guesses."""
    directory = tmp_path_factory.mktemp("classifier") / "dishes"
    found = classifier_for(checkpoint("vit"), LABELS)
    # So that what it sees matters more than its first weights.
    found.model.classifier.kernel[...] *= 30
    found.save(directory)
    return directory


@pytest.fixture(scope="module")
def dishes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures in folders of six of the dishes, with splits."""
    root = tmp_path_factory.mktemp("data") / "dishes"
    rng = np.random.default_rng(0)
    for number in range(40):
        label = LABELS[number % 6]
        folder = root / ("train" if number < 6 else "test") / label
        folder.mkdir(parents=True, exist_ok=True)
        tiles = np.kron(rng.integers(0, 256, (3, 4, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
        Image.fromarray(tiles).save(folder / f"{number}.png")
    return root


def test_a_classifier_is_measured_as_by_scikit_learn(
    run: Run, classifier: Path, dishes: Path, tmp_path: Path
) -> None:
    learn = pytest.importorskip("sklearn.metrics")
    out, drawn = tmp_path / "scores.json", tmp_path / "confusion.png"
    options = ("--split", "test", "--json", out, "--confusion", drawn)
    result = run("evaluate", classifier, dishes, *options)
    assert result.code == 0, result.err
    assert f"captax: wrote {out}\n" in result.err and f"captax: wrote {drawn}\n" in result.err

    examples = data.open_labelled(dishes, split="test")
    found = captax.load(classifier).classify([e.image for e in examples], top=7)
    truth = [example.label for example in examples]
    said = [each.label for each in found]
    names = list(LABELS)
    accuracy = learn.accuracy_score(truth, said)
    assert 0 < accuracy < 1
    shares = [{c.label: c.probability for c in each.alternatives} for each in found]
    table = [[each[name] for name in names] for each in shares]
    top5 = learn.top_k_accuracy_score(truth, table, k=5, labels=names)
    there = names[:6]  # no picture is of the last one
    macro = learn.precision_recall_fscore_support(
        truth, said, labels=there, average="macro", zero_division=0
    )
    told = json.loads(out.read_text())
    assert told["scores"] == pytest.approx(
        {
            "accuracy": accuracy,
            "top-5 accuracy": top5,
            "macro precision": macro[0],
            "macro recall": macro[1],
            "macro F1": macro[2],
        }
    )
    each = learn.precision_recall_fscore_support(truth, said, labels=names, zero_division=np.nan)
    for name, *wanted in zip(names, *each, strict=True):
        own = told["per_class"][name]
        values = [own[key] for key in ("precision", "recall", "f1", "support")]
        wanted = [None if np.isnan(value) else value for value in wanted]
        assert values == pytest.approx(wanted, nan_ok=True), name
        line = next(line for line in result.out.splitlines() if line.startswith(f"{name} "))
        shown = ["-" if value is None else f"{100 * value:.2f}" for value in values[:3]]
        assert line.removeprefix(name).split() == [*shown, str(wanted[3])]
    matrix = learn.confusion_matrix(truth, said, labels=names)
    assert told["confusion"] == matrix.tolist() and told["labels"] == names
    pairs = told["confused"]
    assert sum(pair["pictures"] for pair in pairs) == matrix.sum() - matrix.trace()
    first = pairs[0]
    np.fill_diagonal(matrix, 0)
    assert first["pictures"] == matrix.max()
    assert f"{first['pictures']} pictures of {first['label']} as {first['predicted']}" in result.out
    [example, guess] = examples[3], found[3]
    assert told["per_image"][example.id] == {
        "label": example.label,
        "predicted": guess.label,
        "probability": pytest.approx(guess.probability),
    }
    assert f"{len(examples)} pictures, " in result.out
    with Image.open(drawn) as picture:
        assert picture.format == "PNG"


def test_rows_are_measured_and_then_the_first_of_them(
    run: Run, classifier: Path, dishes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.json"
    every = [example.id for example in data.open_labelled(dishes, split="test")]
    for options, left in (
        (("--rows", ":-30"), every[:-30]),
        (("--rows=-3:"), every[-3:]),
        (("--rows", "2:9", "--limit", 2), every[2:4]),
    ):
        options = (options,) if isinstance(options, str) else options
        result = run("evaluate", classifier, dishes, "--split", "test", "--json", out, *options)
        assert result.code == 0, result.err
        assert list(json.loads(out.read_text())["per_image"]) == left
    for rows, message in (
        ("4", "rows '4': is no slice; give one such as :100"),
        ("-:", "rows '-:': is no slice; give one such as :100"),
        ("99:", "has no examples in --rows 99:; give other rows"),
    ):
        result = run("evaluate", classifier, dishes, f"--rows={rows}")
        assert result.code == 2 and message in result.err and result.err.count("\n") == 1


def test_classes_that_the_model_does_not_have_are_told_of(
    run: Run, classifier: Path, tmp_path: Path
) -> None:
    for label in ("apple_pie", "falafel", "waffles", "zabaglione"):
        (tmp_path / "more" / label).mkdir(parents=True)
        Image.new("RGB", (40, 40), "red").save(tmp_path / "more" / label / "a.png")
    result = run("evaluate", classifier, tmp_path / "more")
    assert result.code == 0 and "2 pictures, " in result.out
    assert (
        "captax: left out 2 pictures of 2 classes that the model does not have (waffles, "
        "zabaglione)\n" in result.err
    )
    with pytest.raises(CaptaxError, match="its label waffles is none of the model's"):
        captax.evaluate(captax.load(classifier), data.open_labelled(tmp_path / "more"))
    for label in ("apple_pie", "falafel"):
        (tmp_path / "more" / label / "a.png").unlink()
    result = run("evaluate", classifier, tmp_path / "more")
    assert result.code == 2 and result.err.count("\n") == 1
    assert "none of its classes (waffles, zabaglione) is a label of the model" in result.err


def test_a_text_to_text_model_is_scored_on_what_it_writes(
    run: Run, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    texts = ["a red square in the dark", "the dark", "a square", "the square is in the dark"]
    rows = [{"article": text, "highlights": f"{text} is red"} for text in texts]
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "scores.json"
    model = checkpoint("bert2bert")
    options = ("--split", "dev", "--json", out, "--max-new-tokens", 5, "--num-beams", 1)
    result = run("evaluate", model, tmp_path / "pairs", *options, "--batch-size", 3)
    assert result.code == 0, result.err
    told = json.loads(out.read_text())
    written = captax.load(model).generate(texts, max_new_tokens=5, num_beams=1)
    assert list(told["captions"].values()) == [each.text for each in written]
    references = dict(zip(told["captions"], ([row["highlights"]] for row in rows), strict=True))
    want = metrics.score(told["captions"], references, metrics=["rouge-score", "bleu"]).corpus
    assert told["scores"] == pytest.approx(want) and {"rouge1", "rougeL", "BLEU-4"} <= want.keys()
    for name, value in want.items():
        assert any(line.split() == [name, f"{100 * value:.2f}"] for line in result.out.splitlines())
    assert "4 texts, " in result.out
    result = run("evaluate", model, tmp_path / "pairs", *options[:2], "--metrics", "blue")
    assert result.code == 2 and "no metric 'blue'" in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--metrics", "bleu"), "--metrics only applies to models that write; add a captioner"),
        (("--num-beams", 2), "--num-beams only applies to models that write"),
        (("--max-new-tokens", 2), "--max-new-tokens only applies to models that write"),
        (("--json", "x.csv"), "--json writes a file of scores, and the name says"),
        (("--confusion", "x.html"), "--confusion writes a picture, and the name says"),
    ],
)
def test_what_does_not_apply_to_a_classifier_is_refused(
    run: Run, classifier: Path, dishes: Path, options: tuple[object, ...], message: str
) -> None:
    result = run("evaluate", classifier, dishes, *options)
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1


def test_what_does_not_apply_to_a_model_that_writes_is_refused(
    run: Run, checkpoint: Callable[[str], Path], model: Path, tmp_path: Path
) -> None:
    result = run("evaluate", model, tmp_path, "--confusion", tmp_path / "x.png")
    assert result.code == 2 and "--confusion only applies to classifiers" in result.err
    result = run("evaluate", checkpoint("clip"), tmp_path)
    assert result.code == 2 and "holds a Matcher, which cannot be evaluated; give" in result.err
    assert result.err.count("\n") == 1
    language = captax.load(checkpoint("gpt2"))
    with pytest.raises(CaptaxError, match="only continues texts cannot be measured on pairs"):
        captax.evaluate(language, [data.Pair("1", "a", "b")])
    with pytest.raises(CaptaxError, match="there is nothing to measure a model on"):
        captax.evaluate(language, [])


def test_wrong_data_is_told_before_the_model_is_loaded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("captax.pipelines.loading.load", load)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CAPTAX_CACHE", str(tmp_path / "cache"))
    for options, told in (
        ([tmp_path / "none"], f"{tmp_path / 'none'}: no such directory or file"),
        ([tmp_path / "none.tar"], f"{tmp_path / 'none.tar'}: no such directory or file"),
        (["hf://me/none"], "hf://me/none: the hub is switched off"),
        (["hf:///"], "hf:///: names no dataset"),
        ([tmp_path, "--rows", "5"], "rows '5': is no slice"),
        ([tmp_path, "--split", "tset"], "tset"),
    ):
        result = run("evaluate", "default", *options)
        assert result.code == 2 and told in result.err, result.err


def test_names_of_classes_cannot_steer_the_terminal(
    run: Run, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    labels = ("red\x1b[2J", "blue\nwall")
    classifier_for(checkpoint("vit"), labels).save(tmp_path / "model")
    for label in labels:
        (tmp_path / "data" / label).mkdir(parents=True)
        for name in "ab":
            Image.new("RGB", (8, 8), "red").save(tmp_path / "data" / label / f"{name}.png")
    (tmp_path / "data" / "\x1b[3J").mkdir()
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "data" / "\x1b[3J" / "c.png")
    for command in (("evaluate", tmp_path / "model"), ("data", "check")):
        result = run(*command, tmp_path / "data")
        assert "red\\x1b[2J" in result.out
        assert "\x1b" not in result.out + result.err
