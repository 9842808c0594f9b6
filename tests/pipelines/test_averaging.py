"""The mean of checkpoints of one model."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import captax
from captax.checkpoints.state import parameters
from captax.errors import CaptaxError
from captax.generation import Calibration
from captax.pipelines.averaging import average
from captax.pipelines.captioner import Captioner


@pytest.fixture
def two(tiny_captioner: Captioner, tmp_path: Path) -> tuple[Path, Path]:
    """A captioner, and one with other weights."""
    first = Captioner(
        tiny_captioner.model,
        tiny_captioner.processor,
        tiny_captioner.tokenizer,
        tiny_captioner.generation,
        Calibration({"length": 1.0}, 0.0, 0.5),
    )
    first.save(tmp_path / "first")
    other = captax.load(tmp_path / "first")
    state = jax.tree.map(lambda x: x + 0.5, nnx.state(other.model))
    nnx.update(other.model, state)
    other.save(tmp_path / "other")
    return tmp_path / "first", tmp_path / "other"


def shift(a: Path, b: Path) -> set[float]:
    """By how much the weights of `b` are larger."""
    left, right = (parameters(captax.load(each).model) for each in (a, b))
    found = {name: np.asarray(right[name] - left[name]) for name in left}
    return {round(float(value), 4) for array in found.values() for value in array.ravel()}


@pytest.mark.slow
def test_weights_are_the_mean_and_the_rest_is_that_of_the_first(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    first, other = two
    average([str(first), str(other)], tmp_path / "mean")
    assert shift(first, tmp_path / "mean") == {0.25}
    # A calibration holds for one set of weights.
    assert {path.name for path in first.iterdir()} - {
        path.name for path in (tmp_path / "mean").iterdir()
    } == {"confidence.json"}
    average([str(first), str(other), str(other), str(other)], tmp_path / "more")
    assert shift(first, tmp_path / "more") == {0.375}


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json"])
def test_other_models_are_refused(two: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    first, other = two
    content: dict[str, Any] = json.loads((other / name).read_text())
    changed = content["decoder"] if name == "config.json" else content
    changed["dropout" if name == "config.json" else "added"] = 0.25
    (other / name).write_text(json.dumps(content))
    with pytest.raises(CaptaxError, match=f"other: {name} is not that of"):
        average([str(first), str(other)], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_one_checkpoint_has_no_mean(two: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CaptaxError, match="two checkpoints or more"):
        average([str(two[0])], tmp_path / "mean")
