"""Low-rank changes: none at first, thin ones learned, whole kernels saved."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from captax.checkpoints.state import parameters, rebuilder
from captax.models.modules import Adapted, linear_kernels
from captax.training.lora import DOWN, LORA_PATTERN, UP, add_lora, merge_lora
from captax.training.recipe import Lora, RecipeError, matches

LORA = Lora(rank=2, alpha=6.0, targets=(r"decoder\..*(query|value)\.kernel",))


@pytest.fixture(scope="module")
def model(tiny_captioner: Any) -> Any:
    return tiny_captioner.model


def test_it_starts_as_no_change(model: Any) -> None:
    before = parameters(model)
    added = add_lora(before, LORA, jax.random.key(0))
    merged = merge_lora(added, LORA)
    assert merged.keys() == before.keys() and len(added) > len(before)
    for name, value in before.items():
        np.testing.assert_array_equal(merged[name], value)
    new = added.keys() - before.keys()
    targets = {name.removesuffix(UP).removesuffix(DOWN) for name in new}
    # Two layers with self- and cross-attention.
    assert len(targets) == 8 and len(new) == 16
    for name in targets:
        out, width = before[name].shape
        assert added[name + DOWN].shape == (2, width) and added[name + UP].shape == (out, 2)
        assert not added[name + UP].any() and added[name + DOWN].std() > 0
    drawn = [added[name + DOWN].tobytes() for name in targets if before[name].shape[1] == 16]
    assert len(set(drawn)) == len(drawn)  # each target draws its own
    assert {name for name in added if matches((LORA_PATTERN,), name)} == new


def test_the_merged_kernel_is_what_low_rank_layers_compute(model: Any) -> None:
    rng = np.random.default_rng(0)
    added = add_lora(parameters(model), LORA, jax.random.key(0))
    added = {
        n: jnp.array(rng.standard_normal(v.shape), jnp.float32) if n.endswith(UP) else v
        for n, v in added.items()
    }
    name = "decoder.layers.1.cross_attention.value.kernel"
    x = jnp.array(rng.standard_normal((5, 16)), jnp.float32)
    kernel, down, up = added[name], added[name + DOWN], added[name + UP]
    want = x @ kernel.T + 6.0 / 2 * (x @ down.T) @ up.T
    merged = merge_lora(added, LORA)
    np.testing.assert_allclose(x @ merged[name].T, want, rtol=1e-4, atol=1e-4)
    key = name.replace("value", "key")
    np.testing.assert_array_equal(merged[key], added[key])
    rebuilt = parameters(rebuilder(model)(merged))  # a whole model, with nothing besides
    assert rebuilt.keys() == merged.keys()


def test_changes_kept_apart_are_those_that_are_merged(model: Any) -> None:
    """In the logits and in the gradients, also of a target that is no kernel of a linear layer."""
    lora = Lora(rank=2, alpha=6.0, targets=(r"decoder\..*(query|value|up)\.kernel", r".*embedding"))
    rng = np.random.default_rng(0)
    added = {
        n: jnp.array(0.1 * rng.standard_normal(v.shape), jnp.float32) if n.endswith(UP) else v
        for n, v in add_lora(parameters(model), lora, jax.random.key(0)).items()
    }
    linear = linear_kernels(model)
    assert linear <= parameters(model).keys() and "decoder.embedding" not in linear
    apart = merge_lora(added, lora, linear)
    kinds = {name for name, value in apart.items() if isinstance(value, Adapted)}
    targets = {name.removesuffix(UP) for name in added if name.endswith(UP)}
    assert kinds == targets - {"decoder.embedding"} != targets
    rebuild = rebuilder(model)
    pixels = jnp.array(rng.standard_normal((2, 40, 40, 3)), jnp.float32)
    tokens = jnp.array(rng.integers(0, 8, (2, 5)), jnp.int32)
    learned = {n: v for n, v in added.items() if n.endswith((UP, DOWN))}

    def loss(learned: dict[str, Any], apart: Any) -> tuple[Any, Any]:
        built = rebuild(merge_lora({**added, **learned}, lora, apart))
        logits = built(pixels, tokens)
        return jnp.square(logits).mean(), logits

    found = [
        jax.jit(jax.value_and_grad(functools.partial(loss, apart=each), has_aux=True))(learned)
        for each in (linear, ())
    ]
    ((_, ours), gradient), ((_, theirs), expected) = found
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for name, value in expected.items():
        scale = float(jnp.abs(value).max())
        np.testing.assert_allclose(gradient[name], value, atol=1e-3 * scale, err_msg=name)


def test_without_lora_nothing_is_merged(model: Any) -> None:
    before = parameters(model)
    assert merge_lora(before, None) == before


def test_targets_that_match_nothing_are_refused(model: Any) -> None:
    for target in (r"query\.kernel", r"decoder\..*\.bias", "decoder"):  # whole names, of matrices
        with pytest.raises(RecipeError, match=r"model.lora.targets match no kernel: .*such as .*k"):
            add_lora(parameters(model), Lora(targets=(target,)), jax.random.key(0))
