"""The same job by workers on a Ray cluster of this machine."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from captax.collection.captioning import CaptionOptions, Copies, Wanted
from captax.collection.cluster import TRIES, Cluster, ShardWorker, tries_of
from captax.collection.item import CollectionError, Item
from captax.pipelines.captioner import Captioner

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    for n in range(60):
        tiles = np.kron(rng.integers(0, 256, (3, 4, 3), np.uint8), np.ones((20, 20, 1), np.uint8))
        Image.fromarray(tiles).save(folder / f"{n:03}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def model(tiny_captioner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny") / "model"
    tiny_captioner.save(directory)
    return directory


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "CAPTAX_CACHE": str(tmp_path / "cache"), "RAY_USAGE_STATS_ENABLED": "0"}


def command(pictures: Path, model: Path, out: Path, *more: object) -> list[str]:
    arguments = ["caption", pictures, "--model", model, "--out", out, "--batch-size", 4]
    return [sys.executable, "-m", "captax", *map(str, [*arguments, *more])]


RAY = ("--engine", "ray", "--workers", 2, "--shard-size", 8)


def workers() -> list[int]:
    """The processes of Ray's workers."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            name = (process / "cmdline").read_bytes()
            if name.startswith(b"ray::") and b"Worker" in name:
                found.append(int(process.name))
    return found


def test_a_killed_worker_changes_nothing(
    pictures: Path, model: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    local, out = tmp_path / "local.jsonl", tmp_path / "ray.jsonl"
    alone = subprocess.run(command(pictures, model, local), env=environment, capture_output=True)
    assert alone.returncode == 1  # one picture is broken
    with subprocess.Popen(
        command(pictures, model, out, *RAY), env=environment, stderr=subprocess.PIPE, text=True
    ) as job:
        shards = tmp_path / ".ray.jsonl.captax" / "shards"
        deadline = time.monotonic() + 120
        while not list(shards.glob("*.tries")) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(workers()[0], signal.SIGKILL)
        assert job.stderr is not None
        told = job.stderr.read()
    assert job.returncode == 1, told
    assert "61 pictures: 60 captioned, 1 failed" in told
    assert out.read_bytes() == local.read_bytes()
    assert not shards.exists()


def wanted(names: str) -> list[Wanted]:
    return [
        Wanted(Item(name, Path(name), PurePosixPath(name)), place)
        for place, name in enumerate(names)
    ]


def test_a_shard_that_ends_every_worker_ends_the_job(
    tiny_captioner: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr("captax.collection.cluster.caption_batches", ends)
    worker = ShardWorker.__new__(ShardWorker)
    worker.captioner, worker.options = tiny_captioner, CaptionOptions()
    file = tmp_path / "shards" / "x.json"
    batch = {"file": [str(file)], "wanted": [pickle.dumps(wanted("abc"))]}
    for _ in range(TRIES):
        with pytest.raises(SystemExit):
            worker(batch)
    with pytest.raises(CollectionError, match=rf"the shard from a to c ended its worker {TRIES}"):
        worker(batch)
    assert not tries_of(file).exists()  # another run begins anew


def test_copies_cannot_be_looked_for(tmp_path: Path) -> None:
    found: Iterator[object] = Cluster().batches(
        wanted("ab"), CaptionOptions(), tmp_path, {}, Copies(4)
    )
    with pytest.raises(
        CollectionError, match="--dedupe only works within one process; use --engine local"
    ):
        next(found)
