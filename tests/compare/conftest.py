"""A small comparison of files of captions, for which no model is needed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captax.compare.comparison import Comparison, read_comparison
from cli.conftest import model, run  # noqa: F401 (fixtures)

CAPTIONS = {
    "cats": ["a cat on a mat", "two cats", "a black cat", "a cat asleep"],
    "dogs": ["a dog on a mat", "two cats", "a black dog", "<b>a</b> dog & \"asleep\""],
    "birds": ["a bird on a mat", "two birds", "a black bird", ""],
}  # fmt: skip


def draw(folder: Path, count: int) -> list[str]:
    """Pictures of noise, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number}.png" for number in range(count)]
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return names


def write_captions(path: Path, captions: dict[str, str]) -> None:
    rows = [json.dumps({"path": name, "caption": said}) for name, said in captions.items()]
    path.write_text("\n".join(rows))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: pictures in `p`, and a file of captions for each captioner."""
    monkeypatch.chdir(tmp_path)
    names = draw(tmp_path / "p", 4)
    for captioner, captions in CAPTIONS.items():
        rows = dict(zip(names, captions, strict=True))
        write_captions(tmp_path / f"{captioner}.jsonl", rows)
    return tmp_path


@pytest.fixture
def compared(here: Path, run: Callable[..., Any]) -> tuple[Path, Comparison]:  # noqa: F811
    """The folder of a comparison of three files, and the comparison."""
    files = [f"{captioner}.jsonl" for captioner in CAPTIONS]
    result = run("compare", *files, "--data", "p", "--out", "out")
    assert result.code == 0, result.err
    return here / "out", read_comparison(here / "out")


@pytest.fixture
def two(here: Path, run: Callable[..., Any]) -> tuple[Path, Comparison]:  # noqa: F811
    """The same of two files."""
    shutil.rmtree(here / "out", ignore_errors=True)
    result = run("compare", "cats.jsonl", "dogs.jsonl", "--data", "p", "--out", "out")
    assert result.code == 0, result.err
    return here / "out", read_comparison(here / "out")
