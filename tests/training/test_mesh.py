"""One run, whatever devices and processes share its work."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import captax
from captax.checkpoints.state import parameters
from captax.training.mesh import Placement
from captax.training.recipe import Mesh, RecipeError
from captax.training.watch import read_log

SCRIPT = Path(__file__).with_name("sharded.py")


@pytest.fixture(scope="module")
def places(
    dataset: Callable[[Path], Path],
    checkpoint: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """The dataset and a captioner's checkpoint."""
    return dataset(tmp_path_factory.mktemp("data")), checkpoint("vit-gpt2")


def start(devices: int, *arguments: object) -> "subprocess.Popen[str]":
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE)


def finish(*processes: "subprocess.Popen[str]") -> None:
    for process in processes:
        _, told = process.communicate(timeout=300)
        assert process.returncode == 0, told[-3000:]


def assert_same_run(out: Path, one: Path) -> None:
    got, want = (read_log(folder / "log.jsonl") for folder in (out, one))
    assert [record.keys() for record in got] == [record.keys() for record in want]
    assert len(want) == 4
    for a, b in zip(got, want, strict=True):
        for name in {"loss", "nll", "accuracy", "gradient_norm"} & b.keys():
            np.testing.assert_allclose(a[name], b[name], rtol=2e-4, err_msg=name)
        for name, score in b.get("scores", {}).items():
            np.testing.assert_allclose(a["scores"][name], score, rtol=1e-3, atol=1e-4)
    trained, expected = (parameters(captax.load_model(folder / "best")) for folder in (out, one))
    for name, value in expected.items():
        np.testing.assert_allclose(trained[name], value, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_devices_change_nothing_however_they_share(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    meshes = ("1x1", "2x1", "1x2", "8x1", "2x4")
    finish(start(8, *places, tmp_path, *meshes))
    losses = [r["loss"] for r in read_log(tmp_path / "1x1" / "log.jsonl") if "loss" in r]
    assert losses[2] < losses[0]  # there is something to compare
    for mesh in meshes[1:]:
        assert_same_run(tmp_path / mesh, tmp_path / "1x1")


@pytest.mark.slow
def test_two_processes_make_the_run_of_one(places: tuple[Path, Path], tmp_path: Path) -> None:
    finish(start(1, *places, tmp_path, "1x1"))
    for mesh in ("2x1", "1x2"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        options = [("--processes", address, number) for number in (0, 1)]
        finish(*[start(1, *each, *places, tmp_path, mesh) for each in options])
        assert_same_run(tmp_path / mesh, tmp_path / "1x1")


def test_a_mesh_that_the_devices_cannot_make_is_refused() -> None:
    with pytest.raises(
        RecipeError, match=r"mesh: data 2 x fsdp 1 needs 2 devices, and there are 1; lower"
    ):
        Placement(Mesh(data=2), 8)
    with pytest.raises(RecipeError, match=r"mesh: data None x fsdp 2 needs 2 devices"):
        Placement(Mesh(fsdp=2), 8)


class Fake:
    """So many devices that nothing is put on."""

    def __init__(self, number: int) -> None:
        self.id = number


def fake(monkeypatch: pytest.MonkeyPatch, count: int, processes: int = 1, index: int = 0) -> None:
    devices = [Fake(number) for number in range(count)]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr("captax.training.mesh.DeviceMesh", lambda grid, axes: grid.shape)


def test_devices_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, 8)
    shapes: list[tuple[Mesh, Any]] = [
        (Mesh(), (8, 1)),
        (Mesh(fsdp=4), (2, 4)),
        (Mesh(data=3, fsdp=2), (3, 2)),
    ]
    for mesh, shape in shapes:
        assert Placement(mesh, 24).mesh == shape  # type: ignore[comparison-overlap]
    with pytest.raises(
        RecipeError,
        match=r"is 12, which the 8 devices .*; give a multiple of 8",
    ):
        Placement(Mesh(), 12)


def test_each_process_reads_its_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    for index in range(4):
        fake(monkeypatch, 8, processes=4, index=index)
        rows += list(range(16))[Placement(Mesh(), 16).rows(16)]
    assert rows == list(range(16))
    with pytest.raises(RecipeError, match=r"several processes must use all 8 devices, not"):
        Placement(Mesh(data=4), 16)
