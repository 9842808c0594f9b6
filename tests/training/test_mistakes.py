"""What cannot be trained is told in one line before anything is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captax.errors import CaptaxError
from captax.pipelines.assembly import classifier_for
from captax.pipelines.captioner import Captioner
from captax.training import loop
from captax.training.loop import train
from captax.training.recipe import load_recipe


@pytest.fixture(scope="module")
def root(
    dataset: Callable[[Path], Path],
    tiny_captioner: Captioner,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A captioner of 16 positions, Flickr8k's layout, classes of pictures and pairs of texts."""
    root = dataset(tmp_path_factory.mktemp("data"))
    tiny_captioner.save(root / "captioner")
    for label in ("soup", "tea"):
        for number in range(6):
            path = root / "classes" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32)).save(path)
    (root / "one-class" / "soup").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(root / "one-class" / "soup" / "0.png")
    (root / "empty").mkdir()
    (root / "pairs.jsonl").write_text(json.dumps({"source": "a", "target": "b"}) + "\n")
    return root


@pytest.fixture
def refused(
    root: Path,
    tmp_path: Path,
    checkpoint: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., str]:
    """`refused(recipe, overrides)`: the line that is said; nothing may be trained or written."""

    def step(*_: Any, **__: Any) -> None:
        raise AssertionError("a step was made")

    monkeypatch.setattr(loop, "make_step", step)

    def refused(name: str, *overrides: str, init_from: Path | None = None) -> str:
        with pytest.raises(CaptaxError) as told:
            recipe = load_recipe(name, [f"data.root={root}", *overrides])
            train(recipe, tmp_path / "run", init_from=init_from)
        assert "\n" not in str(told.value)
        assert not (tmp_path / "run" / "log.jsonl").exists()
        return str(told.value)

    return refused


CAPTIONS = (
    "data.train=[{path: shapes, split: train}]",
    "data.dev=[{path: shapes, split: dev}]",
    "data.max_tokens=10",
    "optimizer.batch_size=4",
    "evaluation.max_new_tokens=6",
)
LABELS = (
    "data.train=[{path: classes, rows: ':8'}]",
    "data.dev=[{path: classes, rows: '-4:'}]",
    "data.classes=null",
    "optimizer.batch_size=4",
)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.root=nowhere", "nowhere/shapes: no such directory"),
        ("data.train.0.path=empty", "empty: "),
        ("data.dev.0.split=test", "no such file; the splits here are train, dev"),
        ("data.train.0.rows='20:'", "data: shapes has no examples in rows 20:"),
        ("data.dev.0.rows=':0'", "data: shapes has no examples in rows :0"),
        (
            "data.max_tokens=18",
            "data.max_tokens is 18, but the decoder reads 16 tokens; give at most 17",
        ),
        ("evaluation.max_new_tokens=16", "evaluation.max_new_tokens is 16, but the decoder"),
        (
            "evaluation.metric=CIDEr",
            "evaluation.metric is 'CIDEr', which this task does not measure; give one of BLEU-1, ",
        ),
        ("augment.crop_scale=[0.9, 0.5]", "crop_scale (0.9, 0.5): must be 0 < min <= max"),
        ("model.checkpoint=nowhere/at/all", "nowhere/at/all"),
        (
            "optimizer.batch_size=9",
            "data.train has 8 examples, fewer than optimizer.batch_size (9)",
        ),
        (
            "stages.0.trainable=[decodr]",
            "stages.0.trainable matches no parameter; parameters have names such as",
        ),
        ("stages.0.lr_scale={encodr: 1.0}", "stages.0.lr_scale: 'encodr' matches no parameter"),
        (
            "model.lora.targets=[nothing]",
            "model.lora.targets match no kernel: nothing; kernels have names",
        ),
        ("mesh.data=3", "mesh: data 3 x fsdp 1 needs 3 devices, and there are 1; lower"),
        ("task=rewrite", "views are kept of pictures only, and task is rewrite"),
    ],
)
def test_captions(refused: Callable[..., str], root: Path, override: str, message: str) -> None:
    captioner = f"model.checkpoint={root / 'captioner'}"
    assert message in refused("finetune", *CAPTIONS, captioner, override)


def test_the_longest_captions_that_fit_are_trained_on(
    refused: Callable[..., str], root: Path
) -> None:
    """They get as far as the batch that is too large."""
    longest = ("data.max_tokens=17", "evaluation.max_new_tokens=15", "optimizer.batch_size=9")
    captioner = f"model.checkpoint={root / 'captioner'}"
    assert "fewer than optimizer.batch_size" in refused("finetune", *CAPTIONS, captioner, *longest)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train.0.path=one-class", "one-class: there is only one class (soup)"),
        ("data.classes=1", "classes is 1 and the dataset has 2 classes; give 2 to 2"),
        ("data.classes=[soup, te]", "classes: no class 'te'; did you mean tea"),
        ("data.train.0.rows=':6'", "data.train has only one class (soup); give two or more"),
        (
            "evaluation.metric=CIDEr-D",
            "'CIDEr-D', which this task does not measure; give one of accuracy, loss",
        ),
        ("model.encoder.checkpoint=nowhere/at/all", "nowhere/at/all"),
    ],
)
def test_labels(
    refused: Callable[..., str],
    checkpoint: Callable[[str], Path],
    override: str,
    message: str,
) -> None:
    encoder = f"model.encoder.checkpoint={checkpoint('vit')}"
    assert message in refused("food101-vit", *LABELS, encoder, override)


def test_checkpoints_that_do_not_make_what_the_task_needs(
    refused: Callable[..., str], checkpoint: Callable[[str], Path], root: Path, tmp_path: Path
) -> None:
    classifier = f"model.checkpoint={checkpoint('vit-classifier')}"
    told = refused("finetune", *CAPTIONS, classifier, "model.add_words=false")
    assert "task is caption, but the model's checkpoints make a Classifier; give other" in told
    texts = f"model.encoder.checkpoint={checkpoint('bert')}"
    rows, hints = "data.row_tokens=null", "model.decoder.hints=0"
    told = refused("captax-lite", *CAPTIONS, rows, hints, texts)
    assert "model.encoder.checkpoint: " in told and "encodes texts" in told
    captioner = f"model.checkpoint={root / 'captioner'}"
    told = refused("finetune", *CAPTIONS, captioner, init_from=tmp_path / "nowhere")
    assert "nowhere" in told
    told = refused("finetune", *CAPTIONS, captioner, init_from=checkpoint("vit-gpt2"))
    assert "vit-gpt2 holds another model than the recipe's" in told


def test_weights_that_mean_something_else_are_refused(
    refused: Callable[..., str], root: Path, tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    """All shapes are those of the recipe's model, so that training would begin, from nonsense."""
    captioner = (f"model.checkpoint={root / 'captioner'}", "model.add_words=false")

    def other(file: str, change: Callable[[Any], None]) -> str:
        path = tmp_path / "other"
        shutil.copytree(root / "captioner", path, dirs_exist_ok=True)
        content = json.loads((path / file).read_text())
        change(content)
        (path / file).write_text(json.dumps(content))
        told = refused("finetune", *CAPTIONS, *captioner, init_from=path)
        assert told.startswith(f"{path}: ")
        return told.removeprefix(f"{path}: ")

    def swap(content: Any) -> None:
        words = content["model"]["vocab"]
        words["a"], words["red"] = words["red"], words["a"]

    told = other("tokenizer.json", swap)
    assert " is 'a' there and 'red' in the recipe's model; " in told or " is 'red' there" in told
    assert told.startswith("token ") and "make it the recipe's model.checkpoint" in told
    told = other("config.json", lambda config: config["decoder"].update(heads=1))
    assert told.startswith("decoder.heads is 1 there and 2 in the recipe's model; give a run or")
    told = other("preprocessor_config.json", lambda config: config.update(image_mean=[0.4] * 3))
    assert told.startswith("preprocessor.mean is [0.4, 0.4, 0.4] there and [0.5, 0.5, 0.5] in the")

    start = checkpoint("vit")
    classifier_for(start, ["tea", "soup"]).save(tmp_path / "labels")
    told = refused(
        "food101-vit",
        *LABELS,
        f"model.encoder.checkpoint={start}",
        init_from=tmp_path / "labels",
    )
    assert "labels: label 0 is 'tea' there and 'soup' in the recipe's model; make it the" in told
