"""The loss, the optimiser and the step, against arithmetic done by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from captax.checkpoints.state import rebuilder
from captax.models.decoders import TextDecoder
from captax.models.efficientnet import EfficientNetLiteConfig
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import Features, VisionEncoder
from captax.models.layers import Dropout, parameter
from captax.training.recipe import Optimizer, Stage
from captax.training.step import (
    Batch,
    Parameters,
    begin_stage,
    make_optimizer,
    make_step,
    matches,
    smoothed_cross_entropy,
)


def test_cross_entropy_is_that_of_a_smoothed_target() -> None:
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((2, 3, 5)).astype(np.float32)
    targets = rng.integers(0, 5, (2, 3)).astype(np.int32)
    weights = np.array([[1, 1, 0], [1, 0, 0]], np.float32)
    smoothed = plain = 0.0
    for row, column in zip(*np.nonzero(weights), strict=True):
        logprobs = logits[row, column] - np.log(np.exp(logits[row, column]).sum())
        target = np.full(5, 0.2 / 5)
        target[targets[row, column]] += 0.8
        smoothed -= target @ logprobs / 3
        plain -= logprobs[targets[row, column]] / 3
    got = smoothed_cross_entropy(jnp.array(logits), jnp.array(targets), jnp.array(weights), 0.2)
    np.testing.assert_allclose(got, (smoothed, plain), rtol=1e-5)


def test_padding_counts_nothing() -> None:
    rng = np.random.default_rng(0)
    logits = jnp.array(rng.standard_normal((1, 4, 5)), jnp.float32)
    targets, weights = jnp.array([[1, 2, 3, 4]]), jnp.array([[1.0, 1, 0, 0]])
    want = smoothed_cross_entropy(logits[:, :2], targets[:, :2], weights[:, :2], 0.1)
    np.testing.assert_allclose(smoothed_cross_entropy(logits, targets, weights, 0.1), want)
    loud = logits.at[:, 2:].set(1e4)
    np.testing.assert_allclose(smoothed_cross_entropy(loud, targets, weights, 0.1), want)
    empty = smoothed_cross_entropy(logits, targets, jnp.zeros((1, 4)), 0.1)
    np.testing.assert_array_equal(empty, (0, 0))


def test_patterns_match_from_the_start_of_a_name() -> None:
    assert matches(["decoder"], "decoder.norm.scale")
    assert matches(["nothing", r"encoder\.blocks\.(3|4)\."], "encoder.blocks.4.project.kernel")
    assert not matches([r"encoder\.blocks\.(3|4)\."], "encoder.blocks.14.project.kernel")
    assert not matches(["norm"], "decoder.norm.scale")
    assert not matches([], "decoder")


NAMES = ("decoder.mlp.kernel", "decoder.mlp.bias", "decoder.embedding", "encoder.head.kernel")


def updates(stage: Stage, options: Optimizer, steps: int, count: int) -> list[Parameters]:
    """What the first `count` steps subtract of parameters that are all 1, at gradients of 1."""
    optimizer, _ = make_optimizer(stage, options, steps)
    ones = {name: jnp.ones(()) for name in NAMES}
    memory, found = optimizer.init(ones), []
    for _ in range(count):
        change, memory = optimizer.update(ones, memory, ones)
        found.append({name: -float(value) for name, value in change.items()})
    return found


def test_a_step_warms_up_decays_kernels_and_scales_groups() -> None:
    stage = Stage(
        name="s", epochs=1, lr=0.1, warmup_steps=4, lr_scale={r"encoder\.": 0.5, "encoder": 9.0}
    )
    options = Optimizer(weight_decay=0.3, clip_norm=1.0)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 4, 20, end_value=0.001)
    found = updates(stage, options, 20, 19)
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


def test_a_warm_up_longer_than_the_stage_is_cut_to_it() -> None:
    stage = Stage(name="s", epochs=1, lr=0.1, warmup_steps=100)
    rates = [update["decoder.mlp.bias"] for update in updates(stage, Optimizer(), 3, 3)]
    np.testing.assert_allclose(rates, [0, 0.05, 0.1], atol=1e-6)
    only = updates(stage, Optimizer(), 1, 1)  # a stage of one step
    assert np.isfinite(only[0]["decoder.mlp.bias"])


class OneLayer(VisionEncoder):
    config = EfficientNetLiteConfig()  # any will do: nothing is saved here
    image_size = (2, 2)

    def __init__(self) -> None:
        self.scale = parameter(None, (3,))

    def parts(self) -> list[Any]:
        return [lambda x: x * self.scale[...]]

    def features(self, x: Array, image_size: tuple[int, int]) -> Features:
        return Features(tokens=x.reshape(x.shape[0], -1, 3), grid=image_size)


class Bag(TextDecoder):
    """Predicts from the mean of what is seen and the token before."""

    config = EfficientNetLiteConfig()
    context_width = None

    def __init__(self, dropout: float = 0.0) -> None:
        self.embedding = parameter(None, (4, 3))
        self.dropout = Dropout(dropout)

    def __call__(
        self, features: Features, tokens: Array, positions: Any = None, segments: Any = None
    ) -> Array:
        x = features.tokens.mean(1, keepdims=True) + self.embedding[...][tokens]
        return self.dropout(x) @ self.embedding[...].T


def batch() -> Batch:
    rng = np.random.default_rng(0)
    return Batch(
        pictures=rng.standard_normal((2, 2, 2, 3)).astype(np.float16),
        inputs=np.array([[1, 3, 1, 0], [1, 0, 0, 0]], np.int32),
        targets=np.array([[3, 2, 2, 0], [2, 0, 0, 0]], np.int32),
        positions=np.array([[0, 1, 0, 0], [0, 0, 0, 0]], np.int32),
        segments=np.array([[1, 1, 2, 0], [1, 0, 0, 0]], np.int32),
    )


def test_a_step_moves_the_trainable_by_the_gradient_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    embedding = jnp.array(rng.standard_normal((4, 3)), jnp.float32)
    scale = jnp.ones(3)
    stage = Stage(name="s", epochs=1, lr=0.01, warmup_steps=0)
    options = Optimizer(clip_norm=0.1, ema_decay=0.9, label_smoothing=0.0)
    optimizer, _ = make_optimizer(stage, options, 100)
    rebuild = rebuilder(EncoderDecoder(OneLayer(), Bag()))
    step = make_step(rebuild, 0, optimizer, options)

    def loss(embedding: Array) -> Array:
        """The mean over the four real targets, each predicted from its input and picture."""
        total = 0.0
        for row, token, target in ((0, 1, 3), (0, 3, 2), (0, 1, 2), (1, 1, 2)):
            seen = jnp.asarray(batch().pictures[row], jnp.float32).mean((0, 1))
            total -= jax.nn.log_softmax((seen + embedding[token]) @ embedding.T)[target]
        return total / 4

    value, gradient = jax.value_and_grad(loss)(embedding)
    trainable, frozen = {"decoder.embedding": embedding}, {"encoder.scale": scale}
    state = begin_stage(trainable, optimizer)
    state, measured = step(state, frozen, batch(), jax.random.key(0))
    np.testing.assert_allclose(measured["nll"], value, rtol=1e-5)
    np.testing.assert_allclose(measured["loss"], value, rtol=1e-5)
    norm = np.linalg.norm(gradient)
    np.testing.assert_allclose(measured["gradient_norm"], norm, rtol=1e-5)  # before clipping
    moved = state.parameters["decoder.embedding"] - embedding
    np.testing.assert_allclose(moved, -0.01 * np.sign(gradient), atol=1e-5)  # Adam's first step
    # The average's decay at first is 1 / 10: (1 + step) / (10 + step).
    want = 0.1 * embedding + 0.9 * state.parameters["decoder.embedding"]
    np.testing.assert_allclose(state.average["decoder.embedding"], want, atol=1e-6)
    assert state.parameters.keys() == {"decoder.embedding"} and int(state.step) == 1
    np.testing.assert_array_equal(frozen["encoder.scale"], np.ones(3))
    np.testing.assert_array_equal(trainable["decoder.embedding"], embedding)  # was copied
    for _ in range(3):
        state, after = step(state, frozen, batch(), jax.random.key(0))
    assert after["loss"] < measured["loss"]


def test_dropout_is_on_in_training_and_new_at_each_step() -> None:
    stage, options = Stage(name="s", epochs=1, lr=1e-9), Optimizer()
    optimizer, _ = make_optimizer(stage, options, 100)
    rebuild = rebuilder(EncoderDecoder(OneLayer(), Bag(dropout=0.5)))
    step = make_step(rebuild, 0, optimizer, options)
    embedding = jnp.array(np.random.default_rng(1).standard_normal((4, 3)), jnp.float32)
    everything = {"decoder.embedding": embedding, "encoder.scale": jnp.ones(3)}

    def losses(seed: int) -> list[float]:
        state = begin_stage(everything, optimizer)
        found = []
        for _ in range(2):
            state, measured = step(state, {}, batch(), jax.random.key(seed))
            found.append(float(measured["loss"]))
        return found

    first, again, other = losses(0), losses(0), losses(1)
    assert first == again and len({*first, *other}) == 4
