"""What every family shares."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array, TypeCheckError

from captax.models.encoders import Features, ShapeError, VisionEncoder
from captax.models.layers import (
    Attention,
    Dropout,
    LayerConfig,
    LayerNorm,
    map_pictures,
)


@pytest.fixture(scope="module")
def attention() -> Attention:
    return Attention(LayerConfig(12, 3, 24), context_width=7, rngs=nnx.Rngs(0))


def test_attention_is_softmax_of_scaled_products_head_by_head(attention: Attention) -> None:
    x = jax.random.normal(jax.random.key(1), (2, 5, 12))
    context = jax.random.normal(jax.random.key(2), (2, 4, 7))
    mask = jnp.array([[[1, 1, 0, 0]] * 5, [[0, 1, 1, 1]] * 5], bool)
    got = attention(x, attention.keys_and_values(context), mask)

    query = np.asarray(attention.query(x))
    key, value = np.asarray(attention.key(context)), np.asarray(attention.value(context))
    mixed = np.zeros((2, 5, 12))
    for b in range(2):
        seen = np.asarray(mask)[b, 0]
        for h in range(3):
            part = slice(4 * h, 4 * h + 4)
            for t in range(5):
                scores = key[b, seen, part] @ query[b, t, part] / 2  # sqrt of 4, a head's width
                weights = np.exp(scores) / np.exp(scores).sum()
                mixed[b, t, part] = weights @ value[b, seen, part]
    want = mixed @ np.asarray(attention.out.kernel[...]).T + np.asarray(attention.out.bias[...])
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_beams_attend_to_their_own_picture(attention: Attention) -> None:
    keys, values = attention.keys_and_values(jax.random.normal(jax.random.key(1), (2, 4, 7)))
    x = jax.random.normal(jax.random.key(2), (6, 1, 12))
    want = attention(x, (jnp.repeat(keys, 3, axis=0), jnp.repeat(values, 3, axis=0)))
    np.testing.assert_allclose(attention(x, (keys, values)), want, atol=1e-6)


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


class Chain(VisionEncoder):
    def parts(self) -> list[Any]:
        return [lambda x: 2 * x, lambda x: x + 1, lambda x: x**2]

    @property
    def image_size(self) -> tuple[int, int]:
        return 2, 2

    def features(self, x: Array, image_size: tuple[int, int]) -> Features:
        return Features(tokens=x.reshape(x.shape[0], -1, 3), grid=image_size)


def test_an_encoder_cut_anywhere_is_the_same_encoder() -> None:
    pixels = jnp.arange(12.0).reshape(1, 2, 2, 3)
    whole = (2 * pixels + 1) ** 2
    for depth in range(4):
        features = Chain().suffix(Chain().prefix(pixels, depth), depth)
        np.testing.assert_array_equal(features.tokens, whole.reshape(1, 4, 3))
    np.testing.assert_array_equal(Chain().prefix(pixels, 2), 2 * pixels + 1)
    assert Chain()(pixels).grid == (2, 2)


def test_a_new_parameter_has_the_type_that_a_training_step_gives_back() -> None:
    """Of a weak type, it would have the step compiled again after the first."""
    for leaf in jax.tree.leaves(nnx.state(Attention(LayerConfig(4, 2, 8), rngs=nnx.Rngs(0)))):
        assert leaf.dtype == jnp.float32 and not leaf.weak_type
    for leaf in jax.tree.leaves(nnx.state(LayerNorm(4, rngs=nnx.Rngs(0)))):
        assert leaf.dtype == jnp.float32 and not leaf.weak_type


@pytest.mark.parametrize("batch", [1, 2, 5, 6])
def test_pictures_mapped_a_few_at_a_time_are_the_same_pictures(batch: int) -> None:
    pixels = jax.random.normal(jax.random.key(0), (batch, 2, 2, 3))
    features = jax.jit(lambda pixels: map_pictures(Chain(), pixels))(pixels)
    assert features.grid == (2, 2)
    np.testing.assert_allclose(features.tokens, Chain()(pixels).tokens, atol=1e-6)


def test_layer_norm_is_that_of_flax() -> None:
    x = 3 + jax.random.normal(jax.random.key(0), (2, 3, 8))
    ours, theirs = LayerNorm(8, rngs=nnx.Rngs(0)), nnx.LayerNorm(8, rngs=nnx.Rngs(0))
    for layer in (ours, theirs):
        layer.scale[...], layer.bias[...] = jnp.arange(8.0), jnp.arange(8.0) - 4
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-4)


def test_pixels_laid_out_otherwise_are_refused() -> None:
    for shape in ((1, 3, 2, 2), (2, 2, 3)):
        with pytest.raises((ShapeError, TypeCheckError), match=r"batch height width 3"):
            Chain()(jnp.zeros(shape))
