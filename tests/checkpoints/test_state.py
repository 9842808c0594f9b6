"""Parameters as named tensors, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from captax.checkpoints.state import CheckpointError, fill, parameters, rebuilder
from captax.models.modules import Mlp, MlpConfig


@pytest.fixture
def mlp() -> Mlp:
    return Mlp(3, MlpConfig(4), rngs=nnx.Rngs(0))


def test_parameters_go_out_and_come_back_by_name(mlp: Mlp) -> None:
    tensors = parameters(mlp)
    assert {name: value.shape for name, value in tensors.items()} == {
        "up.kernel": (4, 3),
        "up.bias": (4,),
        "down.kernel": (3, 4),
        "down.bias": (3,),
    }
    half = {name: np.asarray(value, np.float16) for name, value in tensors.items()}
    filled = parameters(fill(Mlp(3, MlpConfig(4), rngs=None), half, where="here"))
    for name, value in filled.items():
        assert value.dtype == jnp.float32
        np.testing.assert_array_equal(value, half[name].astype(np.float32))


def test_everything_that_does_not_fit_is_in_one_error(mlp: Mlp) -> None:
    tensors: dict[str, np.ndarray | jax.Array] = dict(parameters(mlp))
    del tensors["up.bias"], tensors["down.bias"]
    tensors["up.kernel"] = np.zeros((3, 4))
    tensors["down.scale"] = tensors["norm.scale"] = np.zeros(3)
    with pytest.raises(CheckpointError) as caught:
        fill(Mlp(3, MlpConfig(4), rngs=None), tensors, where="model.safetensors")
    message = str(caught.value)
    assert message.startswith("model.safetensors: ") and "\n" not in message
    for part in (
        "missing up.bias",
        "missing down.bias",
        "unexpected down.scale",
        "unexpected norm.scale",
        "up.kernel is (3, 4), expected (4, 3)",
    ):
        assert part in message
    assert "down.kernel" not in message


def test_a_rebuilt_model_computes_with_the_parameters_it_is_given(mlp: Mlp) -> None:
    rebuild = rebuilder(mlp)
    x = jnp.ones((2, 3))
    doubled = {name: 2 * value for name, value in parameters(mlp).items()}
    gradients = jax.jit(jax.grad(lambda tensors: rebuild(tensors)(x).sum()))(doubled)
    assert gradients.keys() == doubled.keys()
    np.testing.assert_array_equal(gradients["down.bias"], [2, 2, 2])
    again = parameters(rebuild(doubled))
    np.testing.assert_array_equal(again["up.kernel"], doubled["up.kernel"])
    np.testing.assert_array_equal(parameters(mlp)["up.kernel"], doubled["up.kernel"] / 2)
