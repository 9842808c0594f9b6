"""What a run keeps on disk between its steps."""

import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from captax.training.checkpoints import RunCheckpoints
from captax.training.step import TrainState
from captax.training.watch import Log, read_log


def arrays(value: float) -> dict[str, Any]:
    """All of the model is trained: nothing is frozen."""
    parameters = {"decoder.layers.0.kernel": jnp.full((2, 3), value), "bias": jnp.zeros(3)}
    memory = optax.adamw(1e-3).init(parameters)
    state = TrainState(
        step=jnp.array(int(value)), parameters=parameters, optimizer=memory, average=parameters
    )
    return {"frozen": {}, "state": state}


def test_the_newest_checkpoint_comes_back(tmp_path: Path) -> None:
    progress = {"step": 3, "stage": 0, "stage_step": 3, "best": -math.inf}
    with RunCheckpoints(tmp_path) as checkpoints:
        assert checkpoints.progress() is None
        for step in (1, 2, 3):
            checkpoints.save(step, arrays(step + 0.25), {**progress, "step": step})
    with RunCheckpoints(tmp_path) as checkpoints:  # as another process would
        assert checkpoints.progress() == progress
        found = checkpoints.arrays(arrays(0.0))
    state = found["state"]
    assert isinstance(state, TrainState) and found["frozen"] == {}
    assert int(state.step) == 3 and int(state.optimizer[0].count) == 0
    np.testing.assert_array_equal(
        state.parameters["decoder.layers.0.kernel"], np.full((2, 3), 3.25)
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_a_checkpoint_cut_off_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    with RunCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(3, arrays(3), {"step": 3})
    unfinished = tmp_path / "4.orbax-checkpoint-tmp-1700000000"
    (unfinished / "arrays").mkdir(parents=True)
    with RunCheckpoints(tmp_path) as checkpoints:
        assert checkpoints.progress() == {"step": 3}
        checkpoints.save(4, arrays(4), {"step": 4})
        assert checkpoints.progress() == {"step": 4}


def test_a_log_goes_on_behind_the_last_step_that_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = Log(path, last_step=0)
    for step in (1, 2, 3):
        log.write(step=step, loss=0.1 * step)
    log.write(step=2, scores={"CIDEr-D": 0.5})
    assert read_log(path) == log.records
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    assert [record["step"] for record in read_log(path)] == [1, 2, 3, 2]
    again = Log(path, last_step=2)
    again.write(step=3, loss=0.7)
    assert [record["step"] for record in read_log(path)] == [1, 2, 2, 3]
    assert read_log(path)[-1] == {"step": 3, "loss": 0.7}
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_there_may_be_no_log_yet(tmp_path: Path) -> None:
    assert read_log(tmp_path / "log.jsonl") == []
