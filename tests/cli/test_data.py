"""`captax data check` as a shell sees it; what it finds is tested in tests/data."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captax.data import get

Run = Callable[..., Any]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three captioned pictures in two splits."""
    root = tmp_path / "walls"
    for name, color in (("train/a", "red"), ("train/b", "lime"), ("val/c", "blue")):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), color).save(path)
        path.with_suffix(".txt").write_text(f"A {color} wall")
    return root


def test_a_sound_dataset(run: Run, dataset: Path) -> None:
    result = run("data", "check", dataset)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        f"{dataset}: folder with a .txt beside each picture",
        "  train         2 pictures         2 captions",
        "  dev           1 picture          1 caption",
        "words a caption: 3 to 3, median 3, 95% have at most 3",
        "vocabulary: 5 words, 0 of them 5 times or more, 3 once",
        "captions of more than one picture: 0",
        "picture sizes: 4 to 4 wide, 3 to 3 high; commonest 4x3 (3)",
        "unreadable pictures: none",
        "pictures in more than one split: none",
        "pictures twice in a split: none",
        "pictures without captions: none",
        "pictures with an empty caption: none",
        "pictures with a caption twice: none",
    ]


def test_unreadable_pictures_and_leaks(run: Run, dataset: Path, tmp_path: Path) -> None:
    for i in range(12):
        (dataset / f"train/x{i:02}.png").write_bytes(b"")
        (dataset / f"train/x{i:02}.txt").write_text("Nothing")
    sheet = tmp_path / "contact.html"
    result = run("data", "check", dataset, "--sheet", sheet)
    assert result.code == 1
    lines = result.out.splitlines()
    start = lines.index("unreadable pictures: 12")
    assert lines[start + 1].startswith("  train/x00.png: is empty")
    assert lines[start + 11] == "  and 2 more (--json lists all)"
    assert "15 pictures, 12 with an error" in sheet.read_text()
    assert len(json.loads(run("data", "check", dataset, "--json").out)["unreadable"]) == 12

    for path in dataset.glob("train/x*"):
        path.unlink()
    (dataset / "val/c.png").write_bytes((dataset / "train/b.png").read_bytes())
    result = run("data", "check", dataset)
    assert result.code == 1
    assert "pictures in more than one split: 1\n  train/b.png = val/c.png\n" in result.out
    assert run("data", "check", dataset, "--split", "dev").code == 0


def test_labelled_pictures(run: Run, tmp_path: Path) -> None:
    for i, name in enumerate(["train/soup/1", "train/soup/2", "train/bread/1", "val/soup/1"]):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4 + i, 3)).save(path)
    result = run("data", "check", tmp_path)
    assert result.code == 0
    assert result.out.splitlines()[:6] == [
        f"{tmp_path}: a folder for each class, in folders of splits",
        "  train         3 pictures         2 classes",
        "  dev           1 picture          1 class",
        "  train: from 1 (bread) to 2 (soup) a class",
        "  dev: from 1 (soup) to 1 (soup) a class",
        "classes without pictures in dev: 1",
    ]
    assert "captions" not in result.out


def test_wrong_use(run: Run, dataset: Path, tmp_path: Path) -> None:
    result = run("data", "check", "nowhere")
    assert result.code == 2
    assert result.err == "captax: nowhere: no such directory or file; give the path of a dataset\n"
    result = run("data", "check", dataset, "--augmented", "finetune")
    assert result.code == 2 and "--augmented" in result.err and "--sheet FILE" in result.err
    result = run("data", "check", dataset, "--set", "augment.flip=true")
    assert result.code == 2 and "--set only applies to a recipe; add --augmented" in result.err
    result = run("data", "check", dataset, "--augmented", "nosuch", "--sheet", tmp_path / "a.html")
    assert result.code == 2 and "there is no recipe 'nosuch'" in result.err
    result = run("data", "check", dataset, "--split", "test")
    assert result.code == 2 and "no test split; choose dev or train" in result.err
    (tmp_path / "soup").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "soup/1.png")
    result = run("data", "check", tmp_path / "soup")
    assert result.code == 2 and "not a dataset that captax knows" in result.err


def test_terms_are_accepted_before_a_download(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(get, "get", lambda dataset, folder, mirror: asked.append((folder, mirror)))
    result = run("data", "get", "food101", tmp_path)
    assert (result.code, result.out, asked) == (2, "", [])
    assert "scientific fair use" in result.err
    assert result.err.endswith(
        "terms of use are not accepted; read them, and add --yes to accept\n"
    )
    result = run("data", "get", "food101", tmp_path, "--yes", "--mirror", "http://127.0.0.1:9/x")
    assert asked == [(tmp_path, "http://127.0.0.1:9/x")]
    assert "scientific fair use" in result.err
    assert result.out.splitlines() == [
        f"captax data check {tmp_path}/food-101",
        f"captax train food101-vit --set data.root={tmp_path}",
    ]
    (tmp_path / "food-101").mkdir()
    (tmp_path / "food-101" / get.SOURCE).touch()
    result = run("data", "get", "food101", tmp_path)
    assert (result.code, len(asked)) == (0, 1)
    assert "is there already" in result.err and "captax train food101-vit" in result.out


def test_help_imports_nothing_slow() -> None:
    code = (
        "import sys; from captax.cli.main import main; sys.argv = ['captax', 'data', 'check', '-h']"
        "\ntry: main()"
        "\nfinally: print(sorted({'numpy', 'PIL', 'jax', 'tokenizers'} & {*sys.modules}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.data
@pytest.mark.slow
def test_the_development_datasets_are_sound(run: Run, shared_data: Path) -> None:
    result = run("data", "check", shared_data / "coco-small")
    assert result.code == 0
    assert result.out.splitlines()[0].endswith("coco-small: COCO")
    assert "unreadable pictures: none" in result.out
