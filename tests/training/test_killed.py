"""The real command, killed again and again: its run is the run that nothing disturbed."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import yaml

from captax.pipelines.captioner import Captioner

KILLS = 8  # more take many minutes, and each is at another moment
RECIPE: dict[str, Any] = {
    "name": "killed",
    "data": {
        "train": [{"path": "shapes", "split": "train"}],
        "dev": [{"path": "shapes", "split": "dev"}],
        "min_count": 1,
        "max_tokens": 10,
        "row_tokens": 16,
    },
    "augment": {"crop_scale": [0.5, 1.0], "flip": True},
    "stages": [
        {"name": "decoder", "epochs": 4, "lr": 0.01, "trainable": ["decoder"], "views": 2},
        {"name": "all", "epochs": 3, "lr": 0.01},
        {
            "name": "self-critical",
            "epochs": 2,
            "lr": 0.001,
            "trainable": ["decoder"],
            "views": 2,
            "self_critical": {"samples": 2},
        },
    ],
    "optimizer": {"batch_size": 2, "ema_decay": 0.9},
    "evaluation": {"steps": 3, "num_beams": 2, "max_new_tokens": 6, "batch_size": 3},
    "save_every": 2,
}


@pytest.fixture(scope="module")
def command(
    dataset: Callable[[Path], Path],
    tiny_captioner: Captioner,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., subprocess.Popen[str]]:
    """`command(out, *options)`: the command at work in the folder `out`."""
    root = dataset(tmp_path_factory.mktemp("data"))
    tiny_captioner.save(root / "captioner")
    model = {"checkpoint": str(root / "captioner"), "add_words": True}
    recipe = {**RECIPE, "data": {**RECIPE["data"], "root": str(root)}, "model": model}
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    programs = str(tmp_path_factory.mktemp("programs"))

    def start(out: Path, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "captax", "train", str(root / "recipe.yaml")),
                *("--out", str(out), *options),
            ],
            env={**os.environ, "CAPTAX_CACHE": programs, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def records(out: Path) -> list[dict[str, Any]]:
    """The log but for the times; every line must be whole."""
    found = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in found]


def lines(out: Path) -> int:
    log = out / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def leftovers(out: Path) -> list[str]:
    return [
        str(path.relative_to(out))
        for path in out.rglob("*")
        if path.name.endswith((".partial", ".old")) or "tmp" in path.name
    ]


@pytest.fixture(scope="module")
def undisturbed(command: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    process = command(out)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    return out


@pytest.mark.slow
@pytest.mark.nightly("killed training")
def test_a_run_killed_at_random_moments_is_the_same_run(
    command: Callable[..., Any], undisturbed: Path, tmp_path: Path
) -> None:
    out, rng = tmp_path / "run", random.Random(7)
    for kill in range(KILLS):
        # At first soon after the start, when features are computed; then after a step or two.
        before, process = lines(out), command(out)
        until = time.monotonic() + 120
        while kill > 2 and lines(out) in (0, before) and time.monotonic() < until:
            if process.poll() is not None:
                break
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.4) if kill > 2 else rng.uniform(1.0, 6.0))
        process.kill()
        process.communicate()
        # A model is there as soon as one was scored, and it is whole at every moment.
        if any("scores" in record for record in _whole(out)[:-1]):
            assert safetensors.numpy.load_file(out / "best" / "model.safetensors")
        assert len(leftovers(out)) < 10
    process = command(out)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert records(out) == records(undisturbed)
    for name in ("model.safetensors", "README.md", "tokenizer.json", "config.json"):
        assert (out / "best" / name).read_bytes() == (undisturbed / "best" / name).read_bytes()
    assert leftovers(out) == []


def _whole(out: Path) -> list[dict[str, Any]]:
    log = out / "log.jsonl"
    text = log.read_text() if log.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.slow
def test_a_second_process_is_refused_and_a_killed_one_holds_nothing(
    command: Callable[..., Any], undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = command(out)
    while not lines(out):
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    try:
        second = command(out)
        told, _ = second.communicate(timeout=120)
        assert second.returncode == 2
        assert told.splitlines()[-1] == (
            f"captax: {out}: another process trains in this folder; wait for it, or give another "
            "--out"
        )
    finally:
        first.kill()
        first.communicate()
    third = command(out)
    while lines(out) < 4:
        assert third.poll() is None
        time.sleep(0.01)
    third.terminate()
    told, _ = third.communicate(timeout=120)
    assert third.returncode != 0 and "saved at step" in told
    last = command(out)
    told, _ = last.communicate(timeout=300)
    assert last.returncode == 0, told
    assert records(out) == records(undisturbed)


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_the_last_checkpoint(
    command: Callable[..., Any], undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = command(out)
    while lines(out) < 4:
        assert process.poll() is None
        time.sleep(0.01)
    # As if the disk had no room for more than this: no file of a checkpoint or a model fits.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (5000, 5000))
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 2, told
    assert "Traceback" not in told
    assert "captax: " in told.splitlines()[-1] and "cannot be written" in told.splitlines()[-1]
    again = command(out)
    told, _ = again.communicate(timeout=300)
    assert again.returncode == 0, told
    assert records(out) == records(undisturbed)
    best = "best/model.safetensors"
    assert (out / best).read_bytes() == (undisturbed / best).read_bytes()
