"""Every family against transformers with random weights, small and at the real size."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from captax.checkpoints.directory import load_model, save_model
from captax.checkpoints.state import export, parameters, rebuilder
from captax.models.registry import model_config
from captax.models.resnet import BatchNorm
from golden.case import Case, assert_same
from golden.families import CASES, LARGE

pytest.importorskip("transformers")
torch_side = pytest.importorskip("golden.torch_side")
pytestmark = pytest.mark.parity


@pytest.fixture(params=CASES.values(), ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.mark.nightly("families at the real size")
def test_at_the_real_size_both_compute_the_same(case: Case, tmp_path: Path) -> None:
    _compare(case, tmp_path)


@pytest.mark.large
@pytest.mark.parametrize("large", LARGE.values(), ids=lambda case: case.name)
def test_at_a_large_size_both_compute_the_same(large: Case, tmp_path: Path) -> None:
    _compare(large, tmp_path)


def _compare(case: Case, tmp_path: Path) -> None:
    """As transformers saved it, and as captax saved it again, with no key too few or too many."""
    inputs = case.inputs(True)
    reference = torch_side.make_reference(case, full=True)
    reference.save_pretrained(tmp_path / "theirs")
    model = load_model(tmp_path / "theirs")
    got = case.outputs(model, inputs)
    want = torch_side.outputs(case, reference, inputs, got)
    assert_same(got, want)

    (tmp_path / "ours").mkdir()
    save_model(tmp_path / "ours", model)
    del model
    again, info = type(reference).from_pretrained(tmp_path / "ours", output_loading_info=True)
    again.set_attn_implementation("eager")
    assert not any(info.values()), info
    assert_same(torch_side.outputs(case, again.eval(), inputs, got), want, tolerance=1e-6)


def test_gradients_of_a_training_step_are_the_same(case: Case, tmp_path: Path) -> None:
    if case.loss is None:
        pytest.skip("nothing to train")
    inputs = case.inputs(False)
    reference = torch_side.make_reference(case, full=False, seed=1)
    reference.save_pretrained(tmp_path)
    got = _gradients(case, load_model(tmp_path), inputs)
    torch_side.save_gradients(case, reference, inputs, tmp_path / "gradients")
    want = safetensors.numpy.load_file(tmp_path / "gradients" / "model.safetensors")
    assert got.keys() == want.keys()
    # Some are nothing but rounding: a bias of all keys, which softmax takes away again.
    largest = max(np.abs(gradient).max() for gradient in want.values())
    for name, gradient in want.items():
        scale = max(np.abs(gradient).max(), 1e-3 * largest)
        np.testing.assert_allclose(got[name], gradient, atol=1e-3 * scale, rtol=0, err_msg=name)


def _gradients(case: Case, model: nnx.Module, inputs: Any) -> dict[str, np.ndarray]:
    """By the names of the checkpoint's tensors."""
    for _, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm):
            module.of_batch = True
    rebuild = rebuilder(model)

    def loss(weights: dict[str, jax.Array], inputs: Any) -> jax.Array:
        value = case.run(rebuild(weights), inputs)[case.loss]
        return jnp.sum(value * torch_side.weigh(value.shape))

    gradients = jax.jit(jax.grad(loss))(parameters(model), inputs)
    return export(rebuild(gradients), model_config(model).layout())
