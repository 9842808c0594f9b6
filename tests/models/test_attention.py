"""Attention against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from captax.models.attention import Attention
from captax.models.cache import Span
from captax.models.modules import AttentionConfig, LayerConfig, MlpConfig
from captax.models.observing import observe
from captax.models.tracing import portable


@pytest.fixture(scope="module")
def attention() -> Attention:
    return Attention(
        LayerConfig(12, AttentionConfig(3), MlpConfig(24)), context_width=7, rngs=nnx.Rngs(0)
    )


def test_attention_is_softmax_of_scaled_products_head_by_head(attention: Attention) -> None:
    x = jax.random.normal(jax.random.key(1), (2, 5, 12))
    context = jax.random.normal(jax.random.key(2), (2, 4, 7))
    mask = jnp.array([[[1, 1, 0, 0]] * 5, [[0, 1, 1, 1]] * 5], bool)
    got = attention(x, [Span(*attention.keys_and_values(context), mask)])

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
    want = attention(x, [Span(jnp.repeat(keys, 3, axis=0), jnp.repeat(values, 3, axis=0))])
    np.testing.assert_allclose(attention(x, [Span(keys, values)]), want, atol=1e-6)


def test_large_pictures_are_attended_to_head_by_head(
    attention: Attention, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = jax.random.normal(jax.random.key(1), (2, 5, 12))
    context = jax.random.normal(jax.random.key(2), (2, 4, 7))

    def attended(x: jax.Array, context: jax.Array) -> jax.Array:
        return attention(x, [Span(*attention.keys_and_values(context))])

    def slope(x: jax.Array, context: jax.Array) -> jax.Array:
        return (attended(x, context) ** 2).sum()

    def traced() -> str:
        return str(jax.make_jaxpr(lambda: attended(x, context))())

    seen_by = jnp.array([[[True, False, True, True]], [[True, True, False, False]]])

    def masked() -> jax.Array:
        return attention(x, [Span(*attention.keys_and_values(context), seen_by)])

    want = attended(x, context), jax.grad(slope, (0, 1))(x, context)
    under_mask = masked()
    assert "scan" not in traced()
    monkeypatch.setattr("captax.models.attention.LARGE", 5 * 4)
    got = attended(x, context), jax.grad(slope, (0, 1))(x, context)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)
    assert "scan" in traced()
    # What is recorded has all heads, and exported programs take the plain form.
    _, seen = observe(attended, x, context)
    assert [each.shape for each in seen["cross_attentions"]] == [(2, 3, 5, 4)]
    with portable():
        assert "scan" not in traced()
    # Of a head too, if it has more than fit.
    monkeypatch.setattr("captax.models.attention.BLOCK", 8)
    blocks = attended(x, context), jax.grad(slope, (0, 1))(x, context)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), blocks, want)
    # Masks may differ by picture, and may be of every query.
    np.testing.assert_allclose(masked(), under_mask, atol=1e-5)
    monkeypatch.setattr("captax.models.attention.BLOCK", 1 << 26)
    np.testing.assert_allclose(masked(), under_mask, atol=1e-5)
    span = Span(*attention.keys_and_values(context), jnp.ones((1, 5, 4), bool))
    np.testing.assert_allclose(attention(x, [span]), want[0], atol=1e-5)
