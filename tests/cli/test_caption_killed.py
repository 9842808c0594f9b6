"""The real command, killed again and again: what it leaves is what an undisturbed run leaves."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

COUNT, BATCH = 1200, 16
# What is asked, and how often it is killed before it may finish.
JOBS: dict[str, tuple[list[str], int]] = {
    "jsonl": (["--out", "captions.jsonl", "--num-return-sequences", "2"], 12),
    "append": (["--format", "sidecar", "--on-exists", "append", "--min-score", "-1.2"], 14),
    "xmp": (["--format", "xmp", "--on-exists", "overwrite", "--template", "{name}: {caption}"], 12),
    "dedupe": (["--out", "captions.csv", "--dedupe", "2", "--do-sample", "--num-beams", "1"], 12),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of which some are broken, some copies, and some have a sidecar."""
    folder = tmp_path_factory.mktemp("killed") / "pictures"
    rng = np.random.default_rng(0)
    for n in range(COUNT):
        path = folder / f"{n // 200}" / f"{n:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if n % 37 == 5:
            path.write_bytes(b"broken")
        elif n % 11 == 7:
            shutil.copy(folder / "0" / "0003.png", path)
        else:
            tiles = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(np.kron(tiles, np.ones((8, 8, 1), np.uint8))).save(path)
        if n % 5 == 0:
            path.with_suffix(".txt").write_text("said before\n")
    return folder


@pytest.fixture(scope="module")
def command(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`command(folder, *flags)`: the command at work on `pictures` in that folder."""
    cache = str(tmp_path_factory.mktemp("programs"))

    def start(folder: Path, flags: list[str]) -> subprocess.Popen[str]:
        batch = ["--batch-size", str(BATCH), "--model", str(model)]
        return subprocess.Popen(
            [sys.executable, "-m", "captax", "caption", "pictures", *batch, *flags],
            cwd=folder,
            env={**os.environ, "CAPTAX_CACHE": cache},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def files(folder: Path) -> dict[str, bytes]:
    """All files, partial ones too, but for the journal's."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".captax" not in str(path.relative_to(folder))
    }


def batches(folder: Path) -> int:
    """How many are in the journal."""
    return sum(path.read_bytes().count(b"\n") - 1 for path in folder.rglob("journal.jsonl"))


def wait_for(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and batches(folder) < count:
        time.sleep(0.002)


def kill_and_compare(
    name: str, pictures: Path, folder: Path, command: Callable[..., Any]
) -> tuple[int, int]:
    """How often it was killed, and how many batches were captioned twice."""
    flags, kills = JOBS[name]
    whole, torn = folder / name / "whole", folder / name / "torn"
    for each in (whole, torn):
        shutil.copytree(pictures, each / "pictures")
    first = command(whole, flags)
    _, told = first.communicate()
    assert first.returncode == 1, told
    every = batches(whole)
    rng = random.Random(name)
    killed = 0
    for n in range(kills):
        process = command(torn, flags)
        # The last ones while files are written from the journal.
        done = batches(torn)
        goal = every if n >= kills - 2 else min(every, done + rng.randint(1, 6))
        if n % 6 == 5:
            time.sleep(rng.uniform(0, 1))  # wherever that is in the starting
        else:
            wait_for(torn, goal, process)
            time.sleep(rng.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    last = command(torn, flags)
    _, told = last.communicate()
    assert last.returncode == 1, told
    assert files(torn) == files(whole)
    return killed, batches(torn) - every


@pytest.mark.slow
@pytest.mark.nightly("collections")
@pytest.mark.parametrize("name", JOBS)
def test_fifty_kills_change_nothing(
    name: str, pictures: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    killed, twice = kill_and_compare(name, pictures, tmp_path, command)
    assert killed >= JOBS[name][1] - 1  # one may have finished before
    assert twice == 0


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(
    pictures: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    flags = ["--out", "captions.jsonl"]
    shutil.copytree(pictures, tmp_path / "pictures")
    process = command(tmp_path, flags)
    wait_for(tmp_path, 3, process)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130
    assert "stopping after this batch" in told
    assert told.splitlines()[-1] == "captax: stopped; run the same command again to go on from here"
    assert not (tmp_path / "captions.jsonl").exists()
    done = batches(tmp_path)
    again = command(tmp_path, flags)
    _, told = again.communicate()
    assert again.returncode == 1 and " captioned before" in told
    assert batches(tmp_path) == -(-COUNT // BATCH) and 3 <= done < COUNT // BATCH
    went_on = (tmp_path / "captions.jsonl").read_bytes()
    shutil.rmtree(tmp_path / ".captions.jsonl.captax")
    command(tmp_path, flags).communicate()
    assert (tmp_path / "captions.jsonl").read_bytes() == went_on
