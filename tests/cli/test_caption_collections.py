"""`captax caption` on collections: what a user sees when it stops, goes on, or may not."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captax.pipelines.captioner import Captioner

Run = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for n in range(5):
        tiles = np.kron(rng.integers(0, 256, (3, 4, 3), np.uint8), np.ones((9, 9, 1), np.uint8))
        Image.fromarray(tiles).save(tmp_path / "in" / f"{n}.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"")
    return tmp_path / "in"


def stop_in_the_batch(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have SIGINT come while batch `number` is worked at."""
    from captax.collection import plan

    batches = plan.caption_batches

    def interrupted(*arguments: Any) -> Any:
        for i, batch in enumerate(batches(*arguments)):
            if i == number:
                os.kill(os.getpid(), 2)
            yield batch

    monkeypatch.setattr(plan, "caption_batches", interrupted)


@pytest.mark.slow
def test_ctrl_c_stops_after_the_batch_and_the_same_command_goes_on(
    run: Run, model: Path, folder: Path, tmp_path: Path
) -> None:
    command = ("caption", folder, "--model", model, "--batch-size", 2, "--out")
    whole = run(*command, tmp_path / "whole.csv")
    with pytest.MonkeyPatch.context() as patch:
        stop_in_the_batch(patch, 1)
        stopped = run(*command, tmp_path / "x.csv")
    lines = stopped.err.splitlines()
    assert stopped.code == 130 and "stopping after this batch" in lines[0]
    assert lines[1].startswith("captax: 4 pictures: 4 captioned in ")
    assert lines[-1] == "captax: stopped; run the same command again to go on from here"
    assert not (tmp_path / "x.csv").exists()
    done = run(*command, tmp_path / "x.csv")
    assert (done.code, whole.code) == (1, 1)
    assert "6 pictures: 1 captioned, 4 captioned before, 1 failed in" in done.err
    assert (tmp_path / "x.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_other_settings_are_refused_and_say_what_to_do(
    run: Run, model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("caption", folder, "--model", model, "--out", tmp_path / "x.csv")
    run(*command)
    refused = run(*command, "--prefix", "ohwx, ")
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert "prefix was '' and is 'ohwx, '); to keep its captions" in refused.err
    assert run(*command, "--prefix", "ohwx, ", "--resume", "never").code == 1
    assert "ohwx, " in (tmp_path / "x.csv").read_text()
    monkeypatch.chdir(folder)
    run("caption", ".", "--model", model, "--out", tmp_path / "y.csv")
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")  # where "." is another folder
    (folder / "0.png").rename("0.png")
    assert (
        "working directory was"
        in run("caption", ".", "--model", model, "--out", tmp_path / "y.csv").err
    )


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    run: Run, model: Path, folder: Path
) -> None:
    from captax.collection import beside

    write, left = beside.write_text, iter(range(3))

    def full(path: Path, text: str, **options: Any) -> None:
        if next(left, None) is None:
            raise beside.OutputError(f"{path}: cannot be written ({os.strerror(28)})", 28)
        write(path, text, **options)

    command = ("caption", folder, "--model", model, "--format", "sidecar", "--batch-size", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beside, "write_text", full)
        result = run(*command)
    assert result.code == 2
    [line] = [line for line in result.err.splitlines() if "bad.png" not in line]
    assert line.startswith(f"captax: {folder}/") and "No space left on device" in line
    assert line.endswith("2 pictures done; run the same command again to go on")
    assert "5 captioned" in run(*command, "--resume", "always").err.replace(
        "1 captioned, 4 captioned before", "5 captioned"
    )
    assert len(list(folder.glob("*.txt"))) == 5


def test_a_pattern_of_folders_keeps_its_journal_where_they_are(
    run: Run, model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("caption", "i*/[0-2].png", "--model", model, "--format", "sidecar").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".captax", "in"]
    assert len(list(folder.glob("*.txt"))) == 3


def test_nothing_to_do_leaves_nothing(run: Run, model: Path, folder: Path) -> None:
    (folder / "bad.png").unlink()
    for n in range(5):
        (folder / f"{n}.txt").write_text("mine")
    before = sorted(folder.iterdir())
    result = run("caption", folder, "--model", model, "--format", "sidecar")
    assert "5 pictures: 5 skipped because a caption is there already" in result.err
    assert sorted(folder.iterdir()) == before


def test_many_errors_are_not_all_shown(run: Run, model: Path, tmp_path: Path) -> None:
    for n in range(105):
        (tmp_path / f"{n:03}.png").write_bytes(b"")
    result = run("caption", tmp_path, "--model", model, "--out", tmp_path / "x.csv")
    lines = result.err.splitlines()
    assert sum("is empty (0 bytes)" in line for line in lines) == 100
    assert "captax: further errors are counted and not shown" in lines
    assert "captax: 105 x is empty" in lines


def test_the_bar_outlives_a_slow_or_broken_count(
    run: Run, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures are counted beside the work; what becomes of that must not show."""
    from captax.cli import collecting
    from captax.collection import item, items

    monkeypatch.setattr(collecting, "watched", lambda out: True)
    find = items.find_items
    counting: list[threading.Thread] = []

    def slow(sources: Any, *left_out: Any, videos: bool = False) -> Any:
        if threading.current_thread() is not threading.main_thread():
            counting.append(threading.current_thread())
            time.sleep(1)
            raise item.CollectionError("gone")
        return find(sources)

    monkeypatch.setattr(items, "find_items", slow)
    result = run("caption", folder, "--model", model, "--out", folder / "x.csv")
    assert result.code == 1
    for thread in counting:
        thread.join()
    assert counting and sys.stderr is not None


@pytest.mark.slow
def test_names_that_are_no_utf8_are_captioned(
    run: Run, model: Path, folder: Path, tmp_path: Path
) -> None:
    name = os.fsdecode(os.fsencode(folder) + b"/\xff\n.png")
    (folder / "0.png").rename(name)
    result = run(
        "caption",
        folder,
        "--model",
        model,
        "--format",
        "sidecar",
        "--template",
        "{name}: {caption}",
    )
    assert "6 pictures: 5 captioned, 1 failed" in result.err
    assert Path(name).with_suffix(".txt").read_text(encoding="utf-8").startswith("\\udcff\n: ")
    for out in ("x.jsonl", "x.parquet", "x.html"):
        flag = "--sheet" if out == "x.html" else "--out"
        assert run("caption", folder, "--model", model, flag, tmp_path / out).code == 1
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert rows[-1]["path"] == name


def test_a_captioner_is_given_what_is_left_alone(
    run: Run, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    stream = Captioner.stream_pixels

    def watched(self: Captioner, pictures: Any, **options: Any) -> Any:
        def counted() -> Any:
            for pixels in pictures:
                seen.append(1)
                yield pixels

        return stream(self, counted(), **options)

    monkeypatch.setattr(Captioner, "stream_pixels", watched)
    command = ("caption", folder, "--model", model, "--out", folder / "x.jsonl")
    run(*command)
    assert len(seen) == 6
    run(*command)
    assert len(seen) == 6
    run(*command, "--retry-errors")
    assert len(seen) == 7


def test_a_picture_that_leads_out_is_written_only_if_asked(
    run: Run, model: Path, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    victim = tmp_path / "out" / "0.txt"
    victim.write_text("dear")
    (folder / "0.txt").symlink_to(victim)
    command = (
        "caption",
        folder,
        "--model",
        model,
        "--format",
        "sidecar",
        "--on-exists",
        "overwrite",
    )
    refused = run(*command)
    assert refused.code == 1 and victim.read_text() == "dear"
    assert "1 x a link leads out of its folder" in refused.err
    assert len(list(folder.glob("*.txt"))) == 5
    assert run(*command, "--follow-links", "--resume", "never").code == 1  # bad.png
    assert victim.read_text() != "dear" and (folder / "0.txt").is_symlink()
