"""What a run says of itself: its log, TensorBoard, and what goes wrong."""

import json
import struct
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from captax.errors import CaptaxError
from captax.training.watch import Log, collapse, first_not_finite, read_log, rounded


def test_a_collapse_is_told_with_what_to_try() -> None:
    same = ["a dog runs"] * 6 + list("abcd")
    told = collapse(same)
    assert told is not None and told.startswith("6 of 10 dev captions are 'a dog runs': ")
    assert "lr" in told and "\n" not in told
    of_labels = collapse(same, labels=True)
    assert of_labels is not None and of_labels.startswith("6 of 10 dev pictures are labelled ")


@pytest.mark.parametrize("texts", [["a"] * 5 + list("bcdef"), ["a"] * 9, [], list("abcdefghij")])
def test_half_alike_or_a_few_are_no_collapse(texts: list[str]) -> None:
    assert collapse(texts) is None


def test_the_first_tensor_that_is_not_finite_is_named() -> None:
    fine = {"a": jnp.ones(3), "n": jnp.arange(3)}
    assert first_not_finite(fine) is None and first_not_finite({}) is None
    for value in (np.nan, np.inf, -np.inf):
        bad = jnp.ones((2, 2)).at[1, 0].set(value)
        assert first_not_finite({**fine, "b": bad, "c": bad}) == "b"


def test_scores_are_logged_to_five_places() -> None:
    assert rounded({"a": 1 / 3, "b": 2.0}) == {"a": 0.33333, "b": 2.0}
    # A NumPy number that is a float, too, is one that JSON holds.
    assert json.dumps(rounded({"a": np.float64(0.5)})) == '{"a": 0.5}'


def test_tensorboard_gets_what_the_log_gets(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl", last_step=0, tensorboard=True)
    log.write(step=1, stage="decoder", loss=0.25)
    log.write(step=1, scores={"CIDEr-D": 0.5})
    log.close()
    [events] = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"loss" in content and b"CIDEr-D" in content and b"decoder" not in content
    assert struct.pack("<f", 0.25) in content and struct.pack("<f", 0.5) in content
    assert [record["step"] for record in read_log(tmp_path / "log.jsonl")] == [1, 1]


def test_without_tensorboard_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(
        CaptaxError, match=r"^the recipe's tensorboard: true needs .*pip install.*$"
    ) as told:
        Log(tmp_path / "log.jsonl", last_step=0, tensorboard=True)
    assert "\n" not in str(told.value)
    Log(tmp_path / "log.jsonl", last_step=0).write(step=1, loss=1.0)
