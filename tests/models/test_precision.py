"""Models with weights of bfloat16: narrow products, everything else in float32 on a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import captax
from captax.models.arithmetic import activation_dtype, look_up, project
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import TextEncoder, as_text_batch

NARROW = jnp.bfloat16
CAPTIONERS = ["vit-gpt2", "clip-gpt2", "siglip-gpt2", "vit-bert", "git", "blip", "bert2bert"]


def rounded(x: jax.Array) -> jax.Array:
    return x.astype(NARROW).astype(jnp.float32)


@pytest.mark.parametrize("rows", [1, 3, 8, 100])
def test_a_narrow_product_is_the_wide_one_of_rounded_numbers(rows: int) -> None:
    x = jax.random.normal(jax.random.key(1), (rows, 24))
    kernel = jax.random.normal(jax.random.key(2), (40, 24))
    got = project(x, kernel.astype(NARROW))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, rounded(x) @ rounded(kernel).T, atol=1e-5)


def test_its_gradients_are_narrow_products_too() -> None:
    x = jax.random.normal(jax.random.key(1), (2, 3, 24))
    kernel = jax.random.normal(jax.random.key(2), (40, 24))
    weights = jax.random.normal(jax.random.key(3), (2, 3, 40))

    def total(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return (project(x, kernel) * weights).sum()

    by_x, by_kernel = jax.grad(total, (0, 1))(x, kernel.astype(NARROW))
    assert (by_x.dtype, by_kernel.dtype) == (jnp.float32, NARROW)
    np.testing.assert_allclose(by_x, rounded(weights) @ rounded(kernel), atol=1e-5)
    want = jnp.einsum("bto,bti->oi", rounded(weights), rounded(x))
    np.testing.assert_array_equal(by_kernel, want.astype(NARROW))


def test_embeddings_are_looked_up_in_float32() -> None:
    table = jax.random.normal(jax.random.key(0), (7, 4)).astype(NARROW)
    found = jax.jit(look_up)(table, jnp.array([[3, 6]]))
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found[0], table[jnp.array([3, 6])].astype(jnp.float32))


def test_other_devices_compute_in_the_type_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert activation_dtype(NARROW) == NARROW
    x = jnp.ones((2, 3), NARROW)
    assert project(x, jnp.ones((4, 3), NARROW)).dtype == NARROW


def logits_of(model: EncoderDecoder, seed: int) -> jax.Array:
    key = jax.random.key(seed)
    if isinstance(model.encoder, TextEncoder):
        inputs: Any = as_text_batch(jax.random.randint(key, (2, 6), 0, 50))
    else:
        inputs = jax.random.normal(key, (2, *model.encoder.image_size, 3))
    return model(inputs, jnp.array([[1, 5, 9, 2], [1, 8, 7, 3]]))


@pytest.mark.slow
@pytest.mark.parametrize("name", CAPTIONERS)
def test_captioners_say_almost_the_same(checkpoint: Callable[[str], Path], name: str) -> None:
    wide = captax.load_model(checkpoint(name))
    narrow = captax.load_model(checkpoint(name), dtype="bfloat16")
    want, got = logits_of(wide, 0), logits_of(narrow, 0)
    assert got.dtype == jnp.float32
    assert float(jnp.linalg.norm(got - want)) < 0.04 * float(jnp.linalg.norm(want))


@pytest.mark.slow
def test_the_built_in_captioner_decodes(examples: Path) -> None:
    captioner, picture = captax.load(dtype="bfloat16"), examples / "cat.jpg"
    [caption] = captioner.caption([picture], num_beams=2, max_new_tokens=8)
    assert caption.text
    assert captioner.score([picture], [caption], num_beams=2, max_new_tokens=8) == pytest.approx(
        [caption.score], abs=0.02
    )
