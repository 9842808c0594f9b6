"""Calibrations: their arithmetic, and what a file of them must be. Signals of a made-up model."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from captax.checkpoints.directory import load_model
from captax.errors import CheckpointError
from captax.generation import Calibration, Sequences
from captax.generation.confidence import SIGNALS, measure
from captax.models.encoders import Features
from captax.models.prompt import Prompt

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
GOOD: dict[str, Any] = {
    "weights": {"mean_logprob": 2.0, "length": -1},
    "bias": 0.5,
    "threshold": 0.6,
    "fitted": {"data": "tiles (12)", "auroc": 0.8},
}


def test_a_confidence_is_a_logistic_function_of_the_signals() -> None:
    calibration = Calibration.read(GOOD)
    signals = {"mean_logprob": -0.5, "length": 3.0, "spread": 1e9}
    assert calibration.confidence(signals) == pytest.approx(1 / (1 + math.exp(3.5)))
    assert calibration.unsure(0.59) and not calibration.unsure(0.6) and not calibration.unsure(None)
    for extreme, want in ((1e300, 0.0), (-1e300, 1.0), (math.nan, 0.0)):
        assert calibration.confidence(signals | {"length": extreme}) == pytest.approx(want)


def test_what_is_written_is_read_again() -> None:
    calibration = Calibration.read(GOOD)
    text = json.dumps(calibration.write())
    assert Calibration.read(json.loads(text)) == calibration


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {}},
        {"weights": [1]},
        {"weights": {"charm": 1.0}},
        {"weights": {"\n" * 9: 1.0}},
        {"weights": {"length": math.nan}},
        {"weights": {"length": math.inf}},
        {"weights": {"length": 10**400}},
        {"weights": {"length": True}},
        {"weights": {"length": "1"}},
        {"bias": None},
        {"threshold": 1.5},
        {"threshold": [[]]},
        {"fitted": ["x"]},
        {"fitted": {"data": {"deep": {}}}},
    ],
    ids=str,
)
def test_what_is_no_calibration_is_refused_in_a_line(change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError) as error:
        Calibration.read({**GOOD, **change})
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


class Prior:
    """A model that predicts each token from the one before it and from a cell of the picture."""

    class_words = ((1,), (2, 3), (4, 5))

    def read(self, features: Any, tokens: Any, positions: Any = None, segments: Any = None) -> Any:
        seen = features.tokens[:, :1, :6]
        return jax.nn.one_hot((tokens + 1) % 6, 6) + seen


def test_signals_are_what_their_names_say() -> None:
    rng = np.random.default_rng(0)
    batch, time = 8, 5
    features = Features(
        jnp.asarray(rng.normal(size=(batch, 4, 16)), jnp.float32),
        grid=(2, 2),
        labels=jnp.asarray(rng.normal(size=(batch, 3)), jnp.float32),
    )
    lengths = np.array([1, 2, 3, 4, 5, 1, 2, 3])
    prompts = np.array([1, 2, 3, 1, 2, 3, 1, 2])
    given = jnp.asarray(rng.integers(0, 6, (batch, 3)))
    prompt = Prompt(given, jnp.asarray(prompts))
    said = rng.integers(0, 6, (batch, 2, time))
    logprobs = np.where(np.arange(time) < lengths[:, None, None], -rng.random((batch, 2, time)), 0)
    both = np.stack([lengths, lengths], 1), np.zeros((batch, 2)), logprobs
    found = Sequences(*map(jnp.asarray, (said, *both)))
    pixels = jnp.asarray(rng.normal(size=(batch, 16, 16, 3)), jnp.float32)
    pixels = pixels.at[0].set(0.5)
    of = jax.jit(lambda features: measure(Prior(), features, pixels, prompt, found))
    measured = jax.device_get(of(features))
    assert measured.keys() == SIGNALS.keys()
    for row in range(batch):
        own = logprobs[row, 0, : lengths[row]]
        assert measured["mean_logprob"][row] == pytest.approx(own.mean(), rel=1e-5)
        assert measured["lowest_logprob"][row] == pytest.approx(own.min(), rel=1e-5)
        assert measured["length"][row] == lengths[row]
        # Without the picture: a token after the one before it has e times the chance of others.
        before = [int(given[row, prompts[row] - 1]), *said[row, 0]]
        follows = [said[row, 0, i] == (before[i] + 1) % 6 for i in range(lengths[row])]
        blind = np.log(np.where(follows, math.e, 1) / (math.e + 5))
        best = np.sort(own - blind)[::-1][:2]
        assert measured["evidence"][row] == pytest.approx(best.mean(), rel=1e-4)
        shares = np.exp(features.labels[row]) / np.exp(features.labels[row]).sum()
        assert measured["class_probability"][row] == pytest.approx(shares.max(), rel=1e-5)
        entropy = -(shares * np.log(shares)).sum()
        assert measured["class_entropy"][row] == pytest.approx(entropy, rel=1e-5)
        words = set(said[row, 0, : lengths[row]])
        named = [bool(words & set(name)) for name in Prior.class_words]
        assert measured["class_named"][row] == pytest.approx(
            shares[np.array(named)].sum(), abs=1e-5
        )
    assert measured["flatness"][0] > 4 > 1 > measured["flatness"][1:].max()
    alike = features.replace(tokens=jnp.ones_like(features.tokens))
    assert float(of(alike)["spread"].max()) < measured["spread"].min()


@pytest.mark.parametrize("name", ["blip", "git", "vit-bert", "vit-gpt2-projected"])
def test_captions_that_are_read_in_one_row_do_not_see_each_other(name: str) -> None:
    model: Any = load_model(GOLDEN / name)
    rng = np.random.default_rng(0)
    pixels = jnp.asarray(rng.normal(size=(8, 32, 32, 3)), jnp.float32)
    said = jnp.asarray(rng.integers(3, 9, (8, 1, 5)))

    @jax.jit
    def evidence(pixels: Any, said: Any, lengths: Any) -> Any:
        batch = len(said)
        prompt = Prompt(jnp.full((batch, 2), 2), lengths)
        whole = jnp.full((batch, 1), 5), jnp.zeros((batch, 1)), jnp.full((batch, 1, 5), -1.0)
        found = Sequences(said, *whole)
        return measure(model, model.encode(pixels), pixels, prompt, found)["evidence"]

    lengths = jnp.asarray([1, 2] * 4)
    together = evidence(pixels, said, lengths)
    alone = [evidence(pixels[i : i + 1], said[i : i + 1], lengths[i : i + 1]) for i in range(2)]
    assert np.asarray(together[:2]) == pytest.approx(np.concatenate(alone), abs=1e-4)
    assert np.ptp(together) > 1e-3
