"""`captax classify` on folders as people have them."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captax
from captax.checkpoints.directory import load_model
from captax.images import ImageProcessor
from captax.pipelines.classifier import Classification, Classifier
from golden.families import CASES

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a small classifier of seven labels."""
    directory = tmp_path_factory.mktemp("classifier") / "tiny"
    model = load_model(CASES["vit-classifier"].stored)
    Classifier(model, ImageProcessor(size=(32, 32))).save(directory)
    return directory


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good pictures, and a file that only looks like one."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("a b.png", "é.webp"):
        tiles = np.kron(rng.integers(0, 256, (3, 4, 3), np.uint8), np.ones((20, 20, 1), np.uint8))
        Image.fromarray(tiles).save(folder / name)
    (folder / "text.jpg").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def expected(classifier: Path, pictures: Path) -> dict[str, Classification]:
    paths = [str(pictures / name) for name in ("a b.png", "é.webp")]
    found = captax.load(classifier).classify(paths, batch_size=8)
    return dict(zip(paths, found, strict=True))


def test_every_good_picture_is_labelled_and_every_bad_one_named(
    run: Run, classifier: Path, pictures: Path, expected: dict[str, Classification]
) -> None:
    result = run("classify", pictures, "--model", classifier, "--top", 2)
    assert result.code == 1
    want = []
    for path, found in expected.items():
        first, second = found.alternatives[:2]
        best = f"{first.label} ({100 * first.probability:.1f}%)"
        want.append(f"{path}: {best}; {second.label} ({100 * second.probability:.1f}%)")
    assert result.out.splitlines() == want
    error, last = result.err.splitlines()
    assert error.startswith("captax: ") and str(pictures / "text.jpg") in error
    assert last == "captax: 1 of 3 pictures could not be read"


def test_jsonl_has_a_record_for_every_picture_in_order(
    run: Run,
    classifier: Path,
    pictures: Path,
    expected: dict[str, Classification],
    tmp_path: Path,
) -> None:
    out = tmp_path / "new" / "labels.jsonl"
    arguments = (pictures, "--model", classifier, "--format", "jsonl", "--out", out)
    result = run("classify", *arguments, "--top", 3)
    assert result.code == 1 and result.out == ""
    text = out.read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    assert [Path(r["path"]).name for r in records] == ["a b.png", "text.jpg", "é.webp"]
    assert "é.webp" in text and records[1].keys() == {"path", "error"}
    for record in (records[0], records[2]):
        assert record.keys() == {"path", "label", "probability", "alternatives"}
        found = [record, *record["alternatives"]]
        want = expected[record["path"]].alternatives[:3]
        assert [each["label"] for each in found] == [each.label for each in want]
        got = [each["probability"] for each in found]
        np.testing.assert_allclose(got, [each.probability for each in want], atol=1e-5)


def test_one_label_alone(run: Run, classifier: Path, pictures: Path) -> None:
    path = pictures / "a b.png"
    result = run(
        "classify", path, "--model", classifier, "--top", 1, "--format", "jsonl", "--batch-size", 1
    )
    assert result.code == 0 and json.loads(result.out).keys() == {"path", "label", "probability"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jpg", "--model", "."], "nowhere.jpg: no such file or folder"),
        (
            ["PICTURE", "--model", "CAPTIONER"],
            "Captioner, which cannot classify; give a classifier",
        ),
        (["PICTURE"], "missing option '--model'"),
        (["PICTURE", "--model", ".", "--top", "0"], "invalid value for '--top'"),
    ],
)
def test_wrong_use_exits_2(
    run: Run, model: Path, pictures: Path, arguments: list[str], message: str
) -> None:
    places = {"PICTURE": pictures / "a b.png", "CAPTIONER": model}
    result = run("classify", *(places.get(each, each) for each in arguments))
    assert result.code == 2 and result.out == ""
    assert message.lower() in result.err.lower()


def test_urls_are_labelled_as_caption_takes_them(
    run: Run, classifier: Path, pictures: Path
) -> None:
    path = pictures / "a b.png"
    code = base64.b64encode(path.read_bytes()).decode()
    urls = (path, f"file://{path}", f"data:image/png;base64,{code}", f"file://{path}.none")
    found = run("classify", *urls, "--model", classifier)
    labels = {line.rpartition(": ")[2] for line in found.out.splitlines()}
    assert found.code == 1 and len(found.out.splitlines()) == 3 and len(labels) == 1
    error, last = found.err.splitlines()
    assert error == f"captax: file://{path}.none: no such file"
    assert last == "captax: 1 of 4 pictures could not be read"
