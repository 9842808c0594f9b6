"""Optimisers, schedules and groups, against optax's own and arithmetic done by hand."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array

from captax.training.optimizers import make_optimizer, make_schedule
from captax.training.recipe import Optimizer, Stage
from captax.training.step import Parameters

NAMES = ("decoder.mlp.kernel", "decoder.mlp.bias", "decoder.embedding", "encoder.head.kernel")
OPTIMIZERS = get_args(Optimizer.model_fields["name"].annotation)


def stage(**fields: Any) -> Stage:
    return Stage.model_validate({"name": "s", "epochs": 1, "lr": 0.1, **fields})


def run(
    optimizer: optax.GradientTransformation, parameters: Parameters, steps: int
) -> list[Parameters]:
    """The parameters after each step down the bowl of squares around 3."""
    found, memory = [], optimizer.init(parameters)
    for _ in range(steps):
        gradients = jax.tree.map(lambda x: x - 3, parameters)
        change, memory = optimizer.update(gradients, memory, parameters)
        parameters = optax.apply_updates(parameters, change)
        found.append(parameters)
    return found


def random(seed: int = 0) -> Parameters:
    rng = np.random.default_rng(seed)
    shapes = {"a.kernel": (4, 5), "b.kernel": (3, 2), "b.bias": (3,), "a.embedding": (6, 2)}
    return {name: jnp.array(rng.standard_normal(s), jnp.float32) for name, s in shapes.items()}


def mask(parameters: Parameters) -> dict[str, bool]:
    return {name: name.endswith("kernel") for name in parameters}


def of_optax(name: str) -> optax.GradientTransformation:
    """The same by optax's own names, at a rate of 0.05 and a decay of 0.2."""
    decay = {"weight_decay": 0.2, "mask": mask}
    first = optax.add_decayed_weights(0.2, mask=mask)
    return {
        "adamw": lambda: optax.adamw(0.05, b1=0.8, b2=0.95, **decay),
        "adam": lambda: optax.chain(first, optax.adam(0.05, b1=0.8, b2=0.95)),
        "sgd": lambda: optax.chain(first, optax.sgd(0.05, momentum=0.7, nesterov=True)),
        "lion": lambda: optax.lion(0.05, b1=0.8, b2=0.95, **decay),
        "lamb": lambda: optax.lamb(0.05, b1=0.8, b2=0.95, eps=1e-8, **decay),
        # Optax's decay is not multiplied by the rate, as all other optimisers' is.
        "adafactor": lambda: optax.adafactor(
            0.05, weight_decay_rate=0.05 * 0.2, weight_decay_mask=mask
        ),
    }[name]()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_is_that_of_optax(name: str) -> None:
    options = Optimizer(
        name=name, weight_decay=0.2, beta1=0.8, beta2=0.95, momentum=0.7, clip_norm=None
    )
    ours, _ = make_optimizer(stage(lr=0.05, schedule="constant"), options, 10)
    want = run(of_optax(name), random(), 4)
    for got, expected in zip(run(ours, random(), 4), want, strict=True):
        for key in expected:
            np.testing.assert_allclose(got[key], expected[key], atol=1e-6, err_msg=key)
    assert all(np.abs(want[-1][key] - random()[key]).max() > 1e-3 for key in want[-1])


def test_momentum_may_be_plain() -> None:
    options = Optimizer(name="sgd", momentum=0.7, nesterov=False, weight_decay=0, clip_norm=None)
    ours, _ = make_optimizer(stage(lr=0.05, schedule="constant"), options, 10)
    got, want = run(ours, random(), 3)[-1], run(optax.sgd(0.05, momentum=0.7), random(), 3)[-1]
    np.testing.assert_allclose(got["a.kernel"], want["a.kernel"], atol=1e-6)


def test_gradients_are_clipped_together() -> None:
    options = Optimizer(name="sgd", momentum=0.0, nesterov=False, weight_decay=0, clip_norm=2.0)
    ours, _ = make_optimizer(stage(lr=1.0, schedule="constant"), options, 10)
    start = random()
    moved = jax.tree.map(lambda a, b: a - b, start, run(ours, start, 1)[0])
    gradients = jax.tree.map(lambda x: x - 3, start)
    norm = np.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
    assert norm > 2
    for name, gradient in gradients.items():
        np.testing.assert_allclose(moved[name], gradient * 2 / norm, rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "rates"),
    [
        ({"schedule": "constant"}, {0: 0.1, 50: 0.1, 99: 0.1}),
        ({"schedule": "linear"}, {0: 0.1, 25: 0.075, 50: 0.05, 100: 0.0}),
        ({"schedule": "cosine"}, {0: 0.1, 50: 0.0505, 100: 0.001}),
        ({"schedule": "linear", "warmup_steps": 20}, {0: 0.0, 5: 0.025, 20: 0.1, 60: 0.05}),
        ({"schedule": "cosine", "warmup_steps": 20}, {10: 0.05, 20: 0.1, 60: 0.0505, 100: 0.001}),
        ({"schedule": "constant", "warmup_steps": 4}, {0: 0.0, 1: 0.025, 4: 0.1, 100: 0.1}),
    ],
)
def test_a_schedule_warms_up_and_comes_to_rest(
    fields: dict[str, Any], rates: dict[int, float]
) -> None:
    schedule = make_schedule(stage(**fields), 100)
    found = {step: float(schedule(step)) for step in rates}
    assert found == pytest.approx(rates, abs=1e-7)


def updates(stage: Stage, options: Optimizer, steps: int, count: int) -> list[Parameters]:
    """What the first `count` steps subtract of parameters that are all 1, at gradients of 1."""
    optimizer, _ = make_optimizer(stage, options, steps)
    ones: dict[str, Array] = {name: jnp.ones(()) for name in NAMES}
    memory, found = optimizer.init(ones), []
    for _ in range(count):
        change, memory = optimizer.update(ones, memory, ones)
        found.append({name: -float(value) for name, value in change.items()})
    return found


def test_a_step_warms_up_decays_kernels_and_scales_groups() -> None:
    groups = stage(warmup_steps=4, lr_scale={r"encoder\.": 0.5, "encoder": 9.0})
    options = Optimizer(weight_decay=0.3, clip_norm=1.0)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 4, 20, end_value=0.001)
    found = updates(groups, options, 20, 19)
    for step, update in enumerate(found):
        # Adam's step is 1 while gradients stay the same, clipped or not.
        lr = float(schedule(step))
        np.testing.assert_allclose(update["decoder.mlp.bias"], lr, atol=1e-6)
        np.testing.assert_allclose(update["decoder.embedding"], lr, atol=1e-6)
        np.testing.assert_allclose(update["decoder.mlp.kernel"], 1.3 * lr, atol=1e-6)
        np.testing.assert_allclose(update["encoder.head.kernel"], 0.65 * lr, atol=1e-6)
    rates = [update["decoder.mlp.bias"] for update in found]
    np.testing.assert_allclose(rates[:5], [0, 0.025, 0.05, 0.075, 0.1], atol=1e-6)
    assert np.argmax(rates) == 4 and (np.diff(rates[4:]) < 0).all() and rates[-1] < 0.006


def test_a_warm_up_takes_a_fifth_of_the_stage_at_most() -> None:
    long = stage(warmup_steps=100)
    rates = [update["decoder.mlp.bias"] for update in updates(long, Optimizer(), 10, 4)]
    np.testing.assert_allclose(rates[:3], [0, 0.05, 0.1], atol=1e-6)
    assert rates[3] < 0.1
    only = updates(long, Optimizer(), 1, 1)  # a stage of one step
    np.testing.assert_allclose(only[0]["decoder.mlp.bias"], 0.1, atol=1e-6)
