"""The loss and the step, against arithmetic done by hand and against one another."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jaxtyping import Array

from captax.checkpoints.state import parameters, rebuilder
from captax.models.layers import Layer, run_layer
from captax.models.modules import (
    AttentionConfig,
    BatchNorm,
    Dropout,
    LayerConfig,
    Linear,
    MlpConfig,
    parameter,
    statistics_of,
)
from captax.training.optimizers import make_optimizer
from captax.training.recipe import Optimizer, Stage, matches
from captax.training.step import (
    FIRST_SCALE,
    STEPS_TO_GROW,
    Losses,
    Parameters,
    TrainState,
    begin_stage,
    make_step,
    token_losses,
)


def test_cross_entropy_is_that_of_a_smoothed_target() -> None:
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((2, 3, 5)).astype(np.float32)
    targets = rng.integers(0, 5, (2, 3)).astype(np.int32)
    counted = np.array([[True, True, False], [True, False, False]])
    smoothed = plain = right = 0.0
    for row, column in zip(*np.nonzero(counted), strict=True):
        logprobs = logits[row, column] - np.log(np.exp(logits[row, column]).sum())
        target = np.full(5, 0.2 / 5)
        target[targets[row, column]] += 0.8
        smoothed -= target @ logprobs
        plain -= logprobs[targets[row, column]]
        right += logprobs.argmax() == targets[row, column]
    got = token_losses(jnp.array(logits), jnp.array(targets), jnp.array(counted), 0.2)
    np.testing.assert_allclose(got.total, smoothed, rtol=1e-5)
    np.testing.assert_allclose(got.measures["nll"], plain, rtol=1e-5)
    assert (got.weight, got.measures["accuracy"]) == (3, right)


def test_padding_counts_nothing() -> None:
    rng = np.random.default_rng(0)
    logits = jnp.array(rng.standard_normal((1, 4, 5)), jnp.float32)
    targets, counted = jnp.array([[1, 2, 3, 4]]), jnp.array([[True, True, False, False]])
    want = token_losses(logits[:, :2], targets[:, :2], counted[:, :2], 0.1)
    for padded in (logits, logits.at[:, 2:].set(1e4)):
        got = token_losses(padded, targets, counted, 0.1)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)
    empty = token_losses(logits, targets, jnp.zeros((1, 4), bool), 0.1)
    assert (empty.total, empty.weight, empty.measures["nll"]) == (0, 0, 0)


def test_patterns_match_from_the_start_of_a_name() -> None:
    assert matches(["decoder"], "decoder.norm.scale")
    assert matches(["nothing", r"encoder\.blocks\.(3|4)\."], "encoder.blocks.4.project.kernel")
    assert not matches([r"encoder\.blocks\.(3|4)\."], "encoder.blocks.14.project.kernel")
    assert not matches(["norm"], "decoder.norm.scale")
    assert not matches([], "decoder")


class Texts(NamedTuple):
    """What the toy models learn: the next token, wherever it is counted."""

    tokens: Any
    targets: Any
    counted: Any
    seen: Any


def loss(model: Any, batch: Texts) -> Losses:
    logits = model(batch.tokens, batch.seen)
    return token_losses(logits, batch.targets, batch.counted)


class Bag(nnx.Module):
    """Predicts from what is seen, scaled, and the token before."""

    def __init__(self, dropout: float = 0.0) -> None:
        self.embedding = parameter(None, (4, 3))
        self.scale = parameter(None, (3,))
        self.dropout = Dropout(dropout)

    def __call__(self, tokens: Array, seen: Array) -> Array:
        x = (seen * self.scale[...])[:, None] + self.embedding[...][tokens]
        return self.dropout(x) @ self.embedding[...].T


def batch() -> Texts:
    rng = np.random.default_rng(0)
    return Texts(
        tokens=np.array([[1, 3, 1, 0], [1, 0, 0, 0]], np.int32),
        targets=np.array([[3, 2, 2, 0], [2, 0, 0, 0]], np.int32),
        counted=np.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool),
        seen=rng.standard_normal((2, 3)).astype(np.float32),
    )


def embedding() -> Array:
    return jnp.array(np.random.default_rng(1).standard_normal((4, 3)), jnp.float32)


def test_a_step_moves_the_trainable_by_the_gradient_and_nothing_else() -> None:
    stage = Stage(name="s", epochs=1, lr=0.01, warmup_steps=0)
    options = Optimizer(clip_norm=0.1, ema_decay=0.9)
    optimizer, _ = make_optimizer(stage, options, 100)
    step = make_step(rebuilder(Bag()), loss, optimizer, options)

    def by_hand(embedding: Array) -> Array:
        """The mean over the four real targets, each predicted from its input and what is seen."""
        total = jnp.zeros(())
        for row, token, target in ((0, 1, 3), (0, 3, 2), (0, 1, 2), (1, 1, 2)):
            logits = (batch().seen[row] + embedding[token]) @ embedding.T
            total -= jax.nn.log_softmax(logits)[target]
        return total / 4

    value, gradient = jax.value_and_grad(by_hand)(embedding())
    trainable, frozen = {"embedding": embedding()}, {"scale": jnp.ones(3)}
    state = begin_stage(trainable, optimizer, options)
    state, measured = step(state, frozen, batch(), jax.random.key(0))
    np.testing.assert_allclose(measured["nll"], value, rtol=1e-5)
    np.testing.assert_allclose(measured["loss"], value, rtol=1e-5)
    norm = np.linalg.norm(gradient)
    np.testing.assert_allclose(measured["gradient_norm"], norm, rtol=1e-5)  # before clipping
    moved = state.parameters["embedding"] - embedding()
    np.testing.assert_allclose(moved, -0.01 * np.sign(gradient), atol=1e-5)  # Adam's first step
    # The average's decay at first is 1 / 10: (1 + step) / (10 + step).
    want = 0.1 * embedding() + 0.9 * state.parameters["embedding"]
    np.testing.assert_allclose(state.average["embedding"], want, atol=1e-6)
    assert state.evaluated is state.average
    assert state.parameters.keys() == {"embedding"} and int(state.step) == 1
    np.testing.assert_array_equal(frozen["scale"], np.ones(3))
    np.testing.assert_array_equal(trainable["embedding"], embedding())  # was copied
    for _ in range(3):
        state, after = step(state, frozen, batch(), jax.random.key(0))
    assert after["loss"] < measured["loss"]


def test_what_is_frozen_costs_no_memory_and_no_gradient() -> None:
    options = Optimizer(ema_decay=None)
    optimizer, _ = make_optimizer(Stage(name="s", epochs=1, lr=0.1), options, 10)
    state = begin_stage({"scale": jnp.ones(3)}, optimizer, options)
    shapes = {leaf.shape for leaf in jax.tree.leaves(state)}
    assert shapes == {(), (3,)}  # counters, and the scale with its two moments
    assert state.average == {} and state.evaluated is state.parameters
    step: Any = make_step(rebuilder(Bag()), loss, optimizer, options)

    def scatters(trained: Parameters, frozen: Parameters) -> int:
        """The gradient of a look-up is one."""
        state = begin_stage(trained, optimizer, options)
        program = step.lower(state, frozen, batch(), jax.random.key(0)).as_text()
        return int(program.count('"stablehlo.scatter"'))

    whole = {"scale": jnp.ones(3), "embedding": embedding()}
    frozen = {"embedding": embedding()}
    assert scatters({"scale": jnp.ones(3)}, frozen) == scatters(whole, {}) - 1


def test_dropout_is_on_in_training_and_new_at_each_step() -> None:
    stage, options = Stage(name="s", epochs=1, lr=1e-9), Optimizer()
    optimizer, _ = make_optimizer(stage, options, 100)
    rebuild = rebuilder(Bag(dropout=0.5))
    everything = {"embedding": embedding(), "scale": jnp.ones(3)}

    def losses(seed: int, dropout: bool = True) -> list[float]:
        step = make_step(rebuild, loss, optimizer, options, dropout=dropout)
        state = begin_stage(everything, optimizer, options)
        found = []
        for _ in range(2):
            state, measured = step(state, {}, batch(), jax.random.key(seed))
            found.append(float(measured["loss"]))
        return found

    first, again, other = losses(0), losses(0), losses(1)
    assert first == again and len({*first, *other}) == 4
    assert len({*losses(0, dropout=False), *losses(1, dropout=False)}) == 1


def test_a_step_that_is_not_finite_leaves_everything_as_it_was() -> None:
    options = Optimizer(ema_decay=0.5)
    optimizer, _ = make_optimizer(Stage(name="s", epochs=1, lr=0.1), options, 10)
    step = make_step(rebuilder(Bag(dropout=0.5)), loss, optimizer, options)
    whole = {"embedding": embedding(), "scale": jnp.ones(3)}

    def run(*batches: Texts) -> tuple[TrainState, dict[str, Array]]:
        state = begin_stage(whole, optimizer, options)
        for each in batches:
            state, measured = step(state, {}, each, jax.random.key(0))
        return state, measured

    for value in (np.nan, np.inf):
        bad = batch()._replace(seen=np.full((2, 3), value, np.float32))
        state, measured = run(batch(), bad)
        assert not measured["finite"]
        jax.tree.map(np.testing.assert_array_equal, state, run(batch())[0])
        state, measured = run(batch(), bad, batch())
        assert measured["finite"]
        jax.tree.map(np.testing.assert_array_equal, state, run(batch(), batch())[0])


class Stack(nnx.Module):
    """Two transformer layers with much dropout."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        config = LayerConfig(8, AttentionConfig(2, dropout=0.3), MlpConfig(16), dropout=0.3)
        self.embedding = parameter(rngs, (6, 8), std=1.0)
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(2)])

    def __call__(self, tokens: Array, seen: Array) -> Array:
        x = self.embedding[...][tokens]
        for layer in self.layers:
            x = run_layer(lambda x, layer=layer: layer(x)[0], x)
        return x @ self.embedding[...].T


def texts() -> Texts:
    """Four rows, of one to five tokens."""
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, 6, (4, 5)).astype(np.int32)
    counted = np.arange(5) < np.array([[5], [1], [4], [2]])
    return Texts(tokens, np.roll(tokens, -1, 1), counted, np.zeros((4, 1), np.float32))


def stepped(*, dropout: bool = False, **options: Any) -> tuple[TrainState, dict[str, Array], str]:
    """The state and measures after a step of SGD on `Stack`, and the step's program."""
    chosen = Optimizer(name="sgd", clip_norm=None, weight_decay=0.0, **options)
    optimizer, _ = make_optimizer(
        Stage(name="s", epochs=1, lr=0.1, schedule="constant"), chosen, 10
    )
    model = Stack()
    step = make_step(rebuilder(model), loss, optimizer, chosen, dropout=dropout)
    state = begin_stage(parameters(model), optimizer, chosen)
    jaxpr = str(jax.make_jaxpr(step)(state, {}, texts(), jax.random.key(0)))
    return *step(state, {}, texts(), jax.random.key(0)), jaxpr


def assert_close(one: Any, other: Any, tolerance: float = 1e-5) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), one, other)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_are_one_batch_however_their_tokens_are_shared_out(parts: int) -> None:
    options = {"batch_size": 4}
    state, measured, _ = stepped(**options)
    accumulated, of_parts, _ = stepped(accumulation=parts, **options)
    assert_close(accumulated, state)
    assert_close(of_parts, measured)


def test_parts_drop_different_values() -> None:
    """A batch of equal rows: with the same draws in each part, the parts' losses were the same."""
    options = Optimizer(batch_size=2, accumulation=2)
    optimizer = optax.sgd(0.1)
    model = Stack()
    seen: list[float] = []

    def spying(model: Any, batch: Texts) -> Losses:
        found = loss(model, batch)
        jax.debug.callback(lambda total: seen.append(float(total)), found.total, ordered=True)
        return found

    step = make_step(rebuilder(model), spying, optimizer, options)
    rows = jax.tree.map(lambda x: np.repeat(x[:1], 2, 0), texts())
    step(begin_stage(parameters(model), optimizer, options), {}, rows, jax.random.key(0))
    jax.effects_barrier()
    assert len(seen) == 2 and seen[0] != seen[1]


@pytest.mark.slow
def test_computing_twice_changes_nothing_dropout_included() -> None:
    state, measured, program = stepped(dropout=True)
    again, of_again, twice = stepped(dropout=True, remat=True)
    assert ("remat" in twice or "checkpoint" in twice) and "checkpoint" not in program
    assert_close(again, state, 1e-6)
    assert_close(of_again, measured, 1e-6)
    without, _, _ = stepped()
    kernel = "layers.0.mlp.up.kernel"  # that there was dropout to compare
    assert np.abs(without.parameters[kernel] - state.parameters[kernel]).max() > 1e-4


@pytest.mark.slow
def test_narrow_products_leave_weights_and_memory_wide() -> None:
    state, measured, _ = stepped()
    narrow, of_narrow, program = stepped(precision="bfloat16")
    assert "bf16" in program
    types = {leaf.dtype for leaf in jax.tree.leaves(narrow)}
    assert types == {jnp.dtype("float32"), jnp.dtype("int32")}  # no weight was narrowed
    loss, narrow_loss = float(measured["loss"]), float(of_narrow["loss"])
    assert loss != narrow_loss and abs(loss - narrow_loss) < 0.02 * loss
    start = parameters(Stack())
    for name, value in state.parameters.items():
        moved, narrowly = value - start[name], narrow.parameters[name] - start[name]
        assert np.linalg.norm(moved - narrowly) < 0.05 * np.linalg.norm(moved) + 1e-6, name


def test_parameters_may_be_merged_before_they_make_a_model() -> None:
    options = Optimizer(name="sgd", clip_norm=None)
    optimizer = optax.sgd(0.1)

    def merge(tensors: Parameters) -> Parameters:
        return {"embedding": tensors["embedding"], "scale": 2 * tensors["half"]}

    step = make_step(rebuilder(Bag()), loss, optimizer, options, merge=merge)
    frozen = {"embedding": embedding()}
    state = begin_stage({"half": jnp.ones(3)}, optimizer, options)
    merged, measured = step(state, frozen, batch(), jax.random.key(0))
    plain = make_step(rebuilder(Bag()), loss, optimizer, options)
    state = begin_stage({"scale": jnp.full(3, 2.0)}, optimizer, options)
    direct, want = plain(state, frozen, batch(), jax.random.key(0))
    np.testing.assert_allclose(measured["loss"], want["loss"], rtol=1e-6)
    by_half = (merged.parameters["half"] - 1) / 2  # the gradient is twice that of the scale
    np.testing.assert_allclose(by_half, direct.parameters["scale"] - 2, rtol=1e-4)


class Normed(nnx.Module):
    """Predicts two classes of pictures from a channel that is normalised by batch."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.norm = BatchNorm(3, rngs=rngs)
        self.head = Linear(3, 2, rngs=rngs)

    def __call__(self, tokens: Array, seen: Array) -> Array:
        return self.head(jnp.tanh(self.norm(seen)).mean((1, 2)))[:, None]


def pictures(seed: int) -> Texts:
    rng = np.random.default_rng(seed)
    seen = rng.normal(3, 2, (4, 5, 4, 3)).astype(np.float32)
    targets = rng.integers(0, 2, (4, 1)).astype(np.int32)
    return Texts(targets, targets, np.ones((4, 1), bool), seen)


def test_batch_norms_are_trained_as_in_pytorchs_training_mode() -> None:
    torch = pytest.importorskip("torch")
    options = Optimizer(name="sgd", weight_decay=0.0, clip_norm=None, update_statistics=True)
    optimizer = optax.sgd(0.1)
    model = Normed()
    norm, head = torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor(np.asarray(model.head.kernel[...])))
        head.bias.zero_()
    theirs = torch.optim.SGD([*norm.parameters(), *head.parameters()], lr=0.1)
    step = make_step(rebuilder(model), loss, optimizer, options)
    state = begin_stage(parameters(model), optimizer, options)
    for seed in range(3):
        state, measured = step(state, {}, pictures(seed), jax.random.key(0))
        given = torch.tensor(pictures(seed).seen).permute(0, 3, 1, 2)
        labels = torch.tensor(pictures(seed).targets[:, 0]).long()
        cost = torch.nn.functional.cross_entropy(head(norm(given).tanh().mean((2, 3))), labels)
        theirs.zero_grad()
        cost.backward()
        theirs.step()
        np.testing.assert_allclose(measured["loss"], cost.item(), rtol=1e-5)
    want = {
        "norm.mean": norm.running_mean,
        "norm.variance": norm.running_var,
        "norm.scale": norm.weight,
        "norm.bias": norm.bias,
        "head.kernel": head.weight,
        "head.bias": head.bias,
    }
    assert state.parameters.keys() == want.keys() == parameters(model).keys()
    for name, value in want.items():
        np.testing.assert_allclose(state.parameters[name], value.detach().numpy(), rtol=1e-4)
    assert statistics_of(model) == {"norm.mean", "norm.variance"}


def test_parts_of_a_batch_share_the_update_of_the_statistics() -> None:
    options = Optimizer(batch_size=4, accumulation=2, update_statistics=True)
    optimizer = optax.sgd(0.1)
    model = Normed()
    step = make_step(rebuilder(model), loss, optimizer, options)
    state = begin_stage(parameters(model), optimizer, options)
    state, _ = step(state, {}, pictures(0), jax.random.key(0))
    seen = pictures(0).seen
    means = [seen[part::2].mean((0, 1, 2)) for part in range(2)]
    np.testing.assert_allclose(state.parameters["norm.mean"], np.mean(means, 0) / 10, rtol=1e-4)


def test_float16_learns_what_float32_learns_whatever_the_loss_is_scaled_by() -> None:
    narrow, measured, _ = stepped(precision="float16")
    wide, of_wide, _ = stepped()
    assert_close(narrow.parameters, wide.parameters, 2e-3)
    np.testing.assert_allclose(measured["loss"], of_wide["loss"], rtol=1e-2)
    norms = measured["gradient_norm"], of_wide["gradient_norm"]  # without the factor
    np.testing.assert_allclose(*norms, rtol=1e-2)
    assert measured["loss_scale"] == FIRST_SCALE and measured["finite"]
    assert all(value.dtype == np.float32 for value in narrow.parameters.values())


def test_float16_leaves_out_steps_that_overflow_and_scales_less() -> None:
    options = Optimizer(precision="float16", ema_decay=0.5)
    optimizer, _ = make_optimizer(Stage(name="s", epochs=1, lr=0.1), options, 10)
    step = make_step(rebuilder(Bag()), loss, optimizer, options)
    whole = {"embedding": embedding(), "scale": jnp.ones(3)}
    state = begin_stage(whole, optimizer, options)
    bad = batch()._replace(seen=np.full((2, 3), np.nan, np.float32))
    halvings = int(np.log2(FIRST_SCALE))
    for number in range(halvings + 1):
        state, measured = step(state, {}, bad, jax.random.key(0))
        assert measured["loss_scale"] == FIRST_SCALE / 2**number
        # Once scaling less does not help, the run is to stop.
        assert bool(measured["finite"]) == (number < halvings)
    np.testing.assert_array_equal(state.parameters["embedding"], embedding())
    assert int(state.step) == 0 and int(state.optimizer.steps) == 0
    state, measured = step(state, {}, batch(), jax.random.key(0))
    assert int(state.step) == 1 and int(state.optimizer.steps) == 1
    # After enough steps without an overflow it scales more again.
    again = state.optimizer._replace(steps=jnp.int32(STEPS_TO_GROW - 1))
    state, _ = step(dataclasses.replace(state, optimizer=again), {}, batch(), jax.random.key(0))
    assert state.optimizer.factor == 2 * measured["loss_scale"] and state.optimizer.steps == 0
