"""`captax calibrate`, and what the commands do with the confidence that it gives."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captax
from captax.generation import Calibration
from captax.metrics.logistic import auroc
from captax.pipelines.captioner import Captioner

Run = Callable[..., Any]


@pytest.fixture
def model(tiny_captioner: Captioner, tmp_path: Path) -> Path:
    tiny_captioner.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def dataset(tiny_captioner: Captioner, tmp_path: Path) -> Path:
    """24 tiles; people say of the bright ones what the model says, and of the dark ones not."""
    folder = tmp_path / "tiles"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        low, high = (128, 256) if number % 2 else (0, 128)
        tiles = rng.integers(low, high, (3, 4, 3), np.uint8)
        path = folder / f"{number:02}.png"
        Image.fromarray(np.kron(tiles, np.ones((20, 20, 1), np.uint8))).save(path)
        [said] = tiny_captioner.caption(path)
        text = (said.text or "nothing") if number % 2 else f"something else, number {number}"
        (folder / f"{number:02}.txt").write_text(f"{text}\n")
    return folder


@pytest.mark.slow
def test_a_calibration_is_fitted_and_kept_in_the_checkpoint(
    run: Run, model: Path, dataset: Path
) -> None:
    result = run("calibrate", model, "--data", dataset, "--split", "all", "--sure", 0.5)
    assert result.code == 0, result.err
    calibration = captax.load(model).calibration
    assert isinstance(calibration, Calibration)
    assert calibration.fitted["data"] == "tiles (24)"
    assert 0.2 < calibration.fitted["acceptable_share"] <= 0.5
    assert (model / "confidence.png").read_bytes().startswith(b"\x89PNG")
    row = next(line for line in result.out.splitlines() if line.startswith("tiles"))
    assert row.split()[1] == "24" and 0 <= float(row.split()[3]) <= 1
    # It learned what it was fitted on: bright tiles have the higher confidence.
    paths = sorted(dataset.glob("*.png"))
    sure = [caption.confidence for caption in captax.load(model).caption(paths)]
    assert auroc(np.array(sure), np.arange(24) % 2 == 1) > 0.6


@pytest.fixture
def calibrated(model: Path, dataset: Path) -> tuple[Path, dict[str, float]]:
    """A checkpoint whose threshold is amid the confidences of the tiles, and those by name."""
    calibration = Calibration({"mean_logprob": 3.0, "evidence": 0.5}, 1.0, 0.5)
    captioner = captax.load(model)
    captioner.calibration = calibration
    paths = sorted(dataset.glob("*.png"))
    sure = {
        path.name: each.confidence
        for path, each in zip(paths, captioner.caption(paths), strict=True)
    }
    content = calibration.write() | {"threshold": float(np.median(list(sure.values())))}
    (model / "confidence.json").write_text(json.dumps(content))
    return model, sure


def test_auto_writes_the_captions_that_the_checkpoint_is_sure_of(
    run: Run, calibrated: tuple[Path, dict[str, float]], dataset: Path, tmp_path: Path
) -> None:
    model, sure = calibrated
    out, page = tmp_path / "out.jsonl", tmp_path / "page.html"
    options = ("--model", model, "--out", out, "--sheet", page, "--min-score")
    result = run("caption", dataset, *options, "auto")
    assert result.code == 0, result.err
    records = [json.loads(line) for line in out.read_text().splitlines()]
    threshold = float(np.median(list(sure.values())))
    assert {Path(each["path"]).name for each in records} == {
        name for name, value in sure.items() if value >= threshold
    }
    for each in records:
        assert math.isclose(each["confidence"], sure[Path(each["path"]).name], abs_tol=1e-4)
    review = (tmp_path / "out.jsonl.review.jsonl").read_text().splitlines()
    assert len(review) + len(records) == 24 and "confidence" in json.loads(review[0])
    assert page.read_text().count("<strong>Not sure, For review</strong>") == len(review)
    # A number still is a score, and the page says so of all that are not sure.
    result = run("caption", dataset, *options, "-100", "--resume", "never")
    assert result.code == 0, result.err
    assert len(out.read_text().splitlines()) == 24
    assert page.read_text().count("<strong>Not sure</strong>") == len(review)


def test_auto_leaves_images_alone_whose_caption_is_unsure(
    run: Run, calibrated: tuple[Path, dict[str, float]], dataset: Path, tmp_path: Path
) -> None:
    model, sure = calibrated
    (dataset / "page.html").write_text("".join(f'<img src="{name}">' for name in sure))
    report, page = tmp_path / "r.jsonl", tmp_path / "r.html"
    result = run(
        *("alt", dataset, "--model", model, "--include", "graphic", "--include", "icon"),
        *("--min-score", "auto", "--report", report, "--sheet", page, "--verbose"),
    )
    assert result.code == 0, result.err
    records = [json.loads(line) for line in report.read_text().splitlines()]
    threshold = float(np.median(list(sure.values())))
    for each in records:
        if each["alt"] is not None:
            assert (each["rule"] == "low-score") == (sure[each["src"]] < threshold)
        assert math.isclose(each["confidence"], sure[each["src"]], abs_tol=1e-4)
    assert "(confidence 0." in result.err
    assert {each["rule"] for each in records} >= {"low-score", None}
    assert page.read_text().count("Not sure") == sum(value < threshold for value in sure.values())


def test_wrong_use_is_a_line_that_says_what_to_do(
    run: Run, model: Path, dataset: Path, tmp_path: Path
) -> None:
    (dataset / "page.html").write_text('<img src="01.png">')
    for command in (("caption", dataset), ("alt", dataset, "--include", "graphic")):
        result = run(*command, "--model", model, "--min-score", "auto")
        assert result.code == 2 and result.err.count("\n") == 1
        assert "captax calibrate" in result.err and result.out == ""
        result = run(*command, "--model", model, "--min-score", "many")
        assert result.code == 2 and "'many' is not a number" in result.err
    data = ("--data", dataset, "--split", "all")
    result = run("calibrate", "default", *data)
    assert result.code == 2 and "add --out FOLDER" in result.err
    result = run("calibrate", model, *data, "--limit", 5)
    assert result.code == 2 and "5 pictures are too few" in result.err
    result = run("calibrate", model, *data, "--acceptable", 1000)
    assert result.code == 2 and "no caption is acceptable" in result.err
    assert not (model / "confidence.json").exists()
    (tmp_path / "file").write_text("mine")
    result = run("calibrate", model, *data, "--out", tmp_path / "file")
    assert result.code == 2 and "file: cannot be written" in result.err
    assert (tmp_path / "file").read_text() == "mine"
