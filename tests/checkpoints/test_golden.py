"""Every family on a small checkpoint that transformers saved, against what transformers gave.

`python tests/golden/make.py` makes them anew.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from captax.checkpoints.directory import load_model, save_model
from golden.case import Case, assert_same
from golden.families import CASES


@pytest.fixture(params=CASES.values(), ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def test_a_checkpoint_computes_what_transformers_computes(case: Case) -> None:
    inputs, want = case.golden()
    got = case.outputs(load_model(case.stored), inputs)
    assert got.keys() == want.keys()
    assert_same(got, want)


def test_a_checkpoint_is_saved_as_it_was(case: Case, tmp_path: Path) -> None:
    save_model(tmp_path, load_model(case.stored))
    got = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    want = safetensors.numpy.load_file(case.stored / "model.safetensors")
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name, strict=True)


def test_what_a_saved_config_says_transformers_said_too(case: Case, tmp_path: Path) -> None:
    """It may leave out what captax has no use for, but says nothing else."""
    save_model(tmp_path, load_model(case.stored))
    got = json.loads((tmp_path / "config.json").read_text())
    _assert_within(got, json.loads((case.stored / "config.json").read_text()))
    assert got["architectures"]


def _assert_within(got: dict, want: dict, where: str = "") -> None:
    for key, value in got.items():
        if isinstance(value, dict) and isinstance(want.get(key), dict):
            _assert_within(value, want[key], f"{where}{key}.")
        elif want.get(key) is not None and key != "architectures":
            assert value == want[key], where + key
