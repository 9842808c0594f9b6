"""One model on several devices: what it says, and what each of them holds."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import captax
from captax.checkpoints.state import parameters
from captax.errors import OptionError
from captax.pipelines import replicas
from captax.pipelines.replicas import EACH, Replicas, on_replica, started

SCRIPT = Path(__file__).with_name("replicated.py")


def run(out: Path, **models: tuple[Path, str]) -> Any:
    """What `replicated.py` reports of each checkpoint, in places such as "2x1,4x2"."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    named = [f"{name}={path}={places}" for name, (path, places) in models.items()]
    command = [sys.executable, str(SCRIPT), str(out), *named]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


def assert_same(report: Any, place: str) -> None:
    """The same tokens and labels as on one device, and scores that differ by rounding."""
    one, several = report["1x1"]["said"], report[place]["said"]
    assert one.keys() == several.keys()
    for name, rows in one.items():
        assert [row[0] for row in several[name]] == [row[0] for row in rows]
        np.testing.assert_allclose(
            [row[1] for row in several[name]], [row[1] for row in rows], rtol=1e-5, atol=1e-6
        )


@pytest.fixture(scope="module")
def reports(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(
        tmp_path_factory.mktemp("replicas") / "said.json",
        captioner=(checkpoint("vit-gpt2"), "2x1"),
        llama=(checkpoint("llama"), "4x2"),
    )


def test_texts_are_those_of_one_device(reports: Any) -> None:
    for name, place in (("captioner", "2x1"), ("llama", "4x2")):
        [texts] = reports[name]["1x1"]["said"].values()
        assert len({str(tokens) for tokens, _ in texts}) > 1
        assert_same(reports[name], place)


def test_each_device_holds_its_part(reports: Any) -> None:
    whole, divided = reports["captioner"]["2x1"]["held"], reports["llama"]["4x2"]["held"]
    assert sorted(whole) == ["0", "1"] and whole["0"] == whole["1"]
    assert sorted(divided) == ["0", "1", "2", "3"] and len(set(divided.values())) == 1


def test_a_model_is_divided_evenly_and_its_keys_and_values_stay(
    reports: Any, checkpoint: Callable[[str], Path]
) -> None:
    model = captax.load(checkpoint("llama")).model
    whole = sum(value.nbytes for value in parameters(model).values())
    norms = sum(value.nbytes for value in parameters(model).values() if value.ndim == 1)
    assert reports["llama"]["4x2"]["held"]["0"] == (whole - norms) / 2 + norms
    # Only logits are collected: of two texts with two beams.
    assert 0 < reports["llama"]["4x2"]["gathered"] <= 4 * model.config.vocab_size


@pytest.mark.slow
def test_any_family_is_replicated_and_divided(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    names = (
        "smolvlm",
        "qwen3-vl",
        "florence2",
        "git",
        "vit-classifier",
        "siglip",
        "swinv2-classifier",
    )
    models = {name: (checkpoint(name), "4x2") for name in names}
    for name, report in run(tmp_path / "said.json", **models).items():
        assert_same(report, "4x2"), name


def test_wrong_numbers_of_devices_are_refused(checkpoint: Callable[[str], Path]) -> None:
    count = len(jax.local_devices())
    name = checkpoint("vit-gpt2")
    for devices, parts, told in (
        (count + 1, 1, f"only {count} of the kind cpu; give that many at most"),
        (None, count + 1, f"only {count}"),
        (count, 7, "`tensor_parallel` is 7, which does not divide"),
        (0, 1, "give a number from 1"),
        ("some", 1, "give a number from 1, or 'all'"),
    ):
        with pytest.raises(OptionError, match=told):
            captax.load(name, devices=devices, tensor_parallel=parts)


def test_a_model_that_no_number_divides_is_refused(checkpoint: Callable[[str], Path]) -> None:
    """Each device would compute all of it."""
    model = captax.load(checkpoint("vit-gpt2")).model
    with pytest.raises(OptionError, match="is 977, and no matrix of this model can be divided so"):
        Replicas([jax.local_devices()[:1] * 977]).place(model)


def test_changed_weights_are_copied_anew(checkpoint: Callable[[str], Path]) -> None:
    model = captax.load(checkpoint("vit-gpt2")).model
    [device] = jax.local_devices()[:1]
    replicas = Replicas([[device], [device]])
    replicas.place(model)
    with on_replica(1):
        before = replicas.weights(model)
        assert replicas.weights(model) is before
        model.decoder.norm.bias[...] += 1
        after = replicas.weights(model)
    name = "decoder.norm.bias"
    np.testing.assert_array_equal(after[name], before[name] + 1)
    np.testing.assert_array_equal(after[name], parameters(model)[name])


def test_an_explanation_is_computed_on_the_replica_of_its_thread(
    checkpoint: Callable[[str], Path],
) -> None:
    captioner = captax.load(checkpoint("vit-gpt2"))
    [device] = jax.local_devices()[:1]
    captioner._replicas = replicas = Replicas([[device], [device]])
    replicas.place(captioner.model)
    first = replicas.weights(captioner.model)
    # No copy differs in truth: this one does, so that it can be told from the first.
    replicas._held[1] = {name: np.zeros(value.shape, value.dtype) for name, value in first.items()}
    picture, logprobs = np.zeros((40, 30, 3), np.uint8), []
    for place in (0, 1):
        with on_replica(place):
            found = captioner.explain(picture, "a dog", quiet=True)
        logprobs.append([word.logprob for word in found.words])
    assert np.ptp(logprobs[0]) > 0 and np.ptp(logprobs[1]) < 1e-6


def test_batches_are_started_on_free_replicas_and_end_in_order() -> None:
    both = threading.Barrier(2, timeout=30)

    def compute(batch: int) -> np.ndarray:
        if batch < 2:
            both.wait()  # neither ends before the other has begun
        return np.array([batch, replicas._mine.get()])

    with started(2) as start:
        waits = [start(compute, batch) for batch in range(2 * EACH)]
        found = np.array([wait() for wait in waits])
    assert found[:, 0].tolist() == list(range(2 * EACH))
    assert sorted(found[:2, 1]) == [0, 1]


def test_what_a_batch_raises_is_raised_where_its_result_is_waited_for() -> None:
    def compute(batch: int) -> int:
        if batch == 1:
            raise ValueError("damaged")
        return batch

    with started(2) as start:
        first, second, third = (start(compute, batch) for batch in range(3))
        assert first() == 0 and third() == 2
        with pytest.raises(ValueError, match="damaged"):
            second()


def test_nothing_waits_for_what_runs_when_the_block_is_left() -> None:
    entered, open_, ended = threading.Event(), threading.Event(), threading.Event()

    def compute(batch: int) -> int:
        entered.set()
        assert open_.wait(30)
        ended.set()
        return batch

    with pytest.raises(KeyboardInterrupt), started(2) as start:
        for batch in range(8):
            start(compute, batch)
        assert entered.wait(30)
        raise KeyboardInterrupt
    assert not ended.is_set()
    open_.set()
    assert ended.wait(30)
