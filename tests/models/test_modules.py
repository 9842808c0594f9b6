"""Parameters, norms and dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array

from captax.models.attention import Attention
from captax.models.modules import AttentionConfig, Dropout, LayerConfig, LayerNorm, MlpConfig


def enabled(rate: float, seed: int = 0) -> Dropout:
    dropout = Dropout(rate)
    dropout.key = jax.random.key(seed)
    return dropout


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    x = jnp.ones((101, 999))  # not a multiple of four
    y = np.asarray(enabled(rate)(x))
    spread = 5 * np.sqrt(rate * (1 - rate) / y.size)
    dropped = (y == 0).mean()
    assert abs(dropped - rate) < 1 / 512 + spread
    assert np.unique(y[y != 0]).size == 1
    assert abs(y.mean() - 1) < spread / (1 - rate)
    # Values that share a random word are dropped independently of each other.
    groups = (y.reshape(-1)[: y.size // 4 * 4].reshape(-1, 4) == 0).sum(1)
    assert abs(groups.var() - 4 * rate * (1 - rate)) < 0.03


def test_dropout_does_nothing_without_a_key_or_a_rate() -> None:
    x = jax.random.normal(jax.random.key(1), (3, 5))
    np.testing.assert_array_equal(Dropout(0.5)(x), x)
    np.testing.assert_array_equal(enabled(0.0)(x), x)


def test_dropout_draws_anew_at_each_call_and_repeats_with_its_key() -> None:
    x = jnp.ones(256)

    @jax.jit
    def twice(key: Array) -> tuple[Array, Array]:
        dropout = Dropout(0.5)
        dropout.key = key
        return dropout(x), dropout(x)

    first, second = twice(jax.random.key(0))
    assert (np.asarray(first) != np.asarray(second)).mean() > 0.3
    np.testing.assert_array_equal(twice(jax.random.key(0)), (first, second))
    assert (np.asarray(twice(jax.random.key(1))[0]) != np.asarray(first)).any()


def test_the_highest_dropout_rate_still_lets_something_through() -> None:
    y = np.asarray(enabled(0.999)(jnp.ones(100_000)))
    assert 0 < (y != 0).mean() < 0.01 and np.isfinite(y).all()


def test_a_new_parameter_has_the_type_that_a_training_step_gives_back() -> None:
    """Of a weak type, it would have the step compiled again after the first."""
    for leaf in jax.tree.leaves(
        nnx.state(Attention(LayerConfig(4, AttentionConfig(2), MlpConfig(8)), rngs=nnx.Rngs(0)))
    ):
        assert leaf.dtype == jnp.float32 and not leaf.weak_type
    for leaf in jax.tree.leaves(nnx.state(LayerNorm(4, rngs=nnx.Rngs(0)))):
        assert leaf.dtype == jnp.float32 and not leaf.weak_type


def test_layer_norm_is_that_of_flax() -> None:
    x = 3 + jax.random.normal(jax.random.key(0), (2, 3, 8))
    ours, theirs = LayerNorm(8, rngs=nnx.Rngs(0)), nnx.LayerNorm(8, rngs=nnx.Rngs(0))
    for layer in (ours, theirs):
        layer.scale[...], layer.bias[...] = jnp.arange(8.0), jnp.arange(8.0) - 4
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-4)
