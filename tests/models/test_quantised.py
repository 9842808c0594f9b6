"""Matrices in 8 and 4 bits: what they stand for, and products with them."""

import itertools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import captax
from captax.checkpoints.state import parameters
from captax.models.arithmetic import look_up, project
from captax.models.quantised import GROUP, Quantised, fits, quantise


def matrix(rows: int, width: int, seed: int = 0) -> np.ndarray:
    """Rows of very different sizes, one of them all zeros."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, width)) * 10.0 ** rng.integers(-3, 3, (rows, 1))
    values[rows // 2] = 0
    return values.astype(np.float32)


@pytest.mark.parametrize(("bits", "steps"), [(8, 254), (4, 16)])
def test_codes_are_within_half_a_step_of_the_values(bits: int, steps: int) -> None:
    values = matrix(7, 4 * GROUP)
    given = quantise(values, bits, "float32")
    assert (given.bits, given.shape, given.size) == (bits, values.shape, values.size)
    found = np.asarray(given.astype("float32"))
    groups = 1 if bits == 8 else values.shape[1] // GROUP
    of_groups = (len(values), groups, -1)
    largest = np.abs(values.reshape(of_groups)).max(-1, keepdims=True)
    error = np.abs(found - values).reshape(of_groups)
    # Half a step; with 4 bits, the highest code is a step nearer to 0 than the lowest.
    most = (0.5 if bits == 8 else 1.01) * 2 * largest / steps
    assert (error <= most + 1e-9).all()
    assert error.mean() < 0.3 * (2 * largest / steps).mean()
    nbytes = given.codes.nbytes + given.scales.nbytes
    assert nbytes == values.size * bits // 8 + len(values) * groups * 4


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize("out", [30, 64, 128, 150])
def test_products_are_those_of_the_numbers(
    bits: int, rows: int, out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captax.models.arithmetic.WIDENED", 64 * 128)
    kernel = quantise(matrix(out, 128), bits, "float32")
    x = np.random.default_rng(1).normal(size=(2, rows, 128)).astype(np.float32)
    wide = np.asarray(kernel.astype("float32"))
    size = np.abs(wide).max(1) + 1e-9
    found = jax.jit(project)(x, kernel)
    np.testing.assert_allclose(found / size, x @ wide.T / size, atol=1e-4)
    tokens = np.array([[0, out - 1, 3]])
    looked = wide[tokens]
    np.testing.assert_allclose(look_up(kernel, jnp.asarray(tokens)), looked, rtol=1e-6)


def test_a_gradient_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captax.models.arithmetic.WIDENED", 64 * 64)
    kernel = quantise(matrix(100, 64), 8, "float32")
    x = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    found = jax.grad(lambda x: jnp.square(project(x, kernel)).sum())(jnp.asarray(x))
    wide = np.asarray(kernel.astype("float32"))
    np.testing.assert_allclose(found, 2 * x @ wide.T @ wide, rtol=1e-4 * np.abs(wide).max())


def test_what_cannot_be_quantised_is_left() -> None:
    assert fits((64, 64)) and not fits((64, 63)) and not fits((8, 64)) and not fits((64, 64, 3))


# Each compiles two programs; the rest are for `make slow`.
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("vit-gpt2", "int8"),
        ("smolvlm", "int4"),
        *(
            pytest.param(name, dtype, marks=pytest.mark.slow)
            for name, dtype in itertools.product(
                ["vit-gpt2", "blip", "smolvlm", "qwen3-vl", "florence2"], ["int8", "int4"]
            )
            if (name, dtype) not in (("vit-gpt2", "int8"), ("smolvlm", "int4"))
        ),
    ],
)
def test_a_captioner_computes_with_the_numbers_of_the_codes(
    name: str,
    dtype: str,
    checkpoint: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("captax.models.quantised.LEAST", 1)
    monkeypatch.setattr("captax.models.quantised.GROUP", 4)  # the models are small
    narrow = captax.load(checkpoint(name), dtype=dtype)
    held = parameters(narrow.model)
    kinds = {
        leaf.rpartition(".")[2] for leaf, value in held.items() if isinstance(value, Quantised)
    }
    assert "kernel" in kinds and kinds & {"embedding", "words"}
    narrow.save(tmp_path / "wide", dtype="float32")
    wide = captax.load(tmp_path / "wide")
    for leaf, value in parameters(wide.model).items():
        numbers = held[leaf].astype("float32")
        np.testing.assert_array_equal(value, numbers, err_msg=leaf)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (40, 48, 3), np.uint8)] * 2
    got, want = (each.score(pictures, ["red", "red red"]) for each in (narrow, wide))
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert narrow.caption(pictures, max_new_tokens=3, num_beams=2)[0].text is not None
