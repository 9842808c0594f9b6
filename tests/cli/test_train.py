"""`captax train`, as a shell would see it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_each_fault_of_the_data_is_a_line(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02}.jpg").write_bytes(b"broken")
        (folder / f"{number:02}.txt").write_text("a wall" if number else "")
    source = "[{path: mine}]"
    out = tmp_path / "run"
    settings = (f"data.root={tmp_path}", f"data.train={source}", f"data.dev={source}")
    options = [option for setting in settings for option in ("--set", setting)]
    result = run("train", "finetune", *options, "--out", out)
    assert result.code == 2 and result.out == ""
    *faults, last = result.err.splitlines()
    assert len(faults) == 20  # the others are counted
    assert faults[0] == "captax: mine/00.jpg: has no caption; write one, or remove the picture"
    assert "01.jpg" in faults[1] and "not a picture" in faults[1]
    assert last.startswith(
        "captax: 29 pictures cannot be read, 1 picture has no caption. Repair or"
    )
    assert "--skip-broken" in last and not out.exists()


def test_a_run_that_is_refused_leaves_no_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("train", "finetune", "--set", f"data.root={tmp_path / 'nosuch'}")
    assert result.code == 2 and "nosuch" in result.err
    assert list(tmp_path.iterdir()) == []
    assert "Repair it;" in result.err
