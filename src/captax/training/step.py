"""One training step: loss, gradients, update, moving average; jitted as one program.

Legend: `batch` pictures, `time` places of a row of packed captions.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from captax.models.encoder_decoder import EncoderDecoder
from captax.models.layers import dropout_enabled
from captax.training.recipe import Optimizer, Stage

Parameters = dict[str, Array]
Step = Callable[["TrainState", Parameters, "Batch", Array], tuple["TrainState", dict[str, Array]]]


@struct.dataclass
class Batch:
    """Pictures after the frozen part of the encoder, and their packed captions.

    Arrays of NumPy on their way in, of JAX inside the step.
    """

    pictures: Float[Any, "batch ..."]
    inputs: Int[Any, "batch time"]
    targets: Int[Any, "batch time"]
    positions: Int[Any, "batch time"]
    segments: Int[Any, "batch time"]


@struct.dataclass
class TrainState:
    """What a step changes: trainable parameters, the optimiser's memory and their average.

    `Any` is an array here: only tree functions put something else in its place for a while.
    """

    step: Any
    parameters: dict[str, Any]
    optimizer: Any
    average: dict[str, Any]


def matches(patterns: Sequence[str], name: str) -> bool:
    """Whether a parameter's name begins as one of the regular expressions says."""
    return any(re.match(pattern, name) for pattern in patterns)


def smoothed_cross_entropy(
    logits: Float[Array, "batch time vocab"],
    targets: Int[Array, "batch time"],
    weights: Float[Array, "batch time"],
    smoothing: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean loss with and without label smoothing (https://arxiv.org/abs/1512.00567).

    Means are over the places with weight, so padding counts nothing.
    """
    logprobs = jax.nn.log_softmax(logits.astype(jnp.float32))
    total = jnp.maximum(weights.sum(), 1)
    right = jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0]
    plain = -(right * weights).sum() / total
    uniform = -(logprobs.mean(-1) * weights).sum() / total
    return (1 - smoothing) * plain + smoothing * uniform, plain


def make_optimizer(
    stage: Stage, options: Optimizer, steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW with clipping, linear warm-up, cosine decay and a learning rate by group."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, stage.lr, min(stage.warmup_steps, steps - 1), steps, end_value=0.01 * stage.lr
    )

    def decayed(parameters: Parameters) -> dict[str, bool]:
        return {name: name.endswith("kernel") for name in parameters}

    def scale_groups(updates: Parameters, *_: Any) -> Parameters:
        return {name: _group_scale(stage.lr_scale, name) * u for name, u in updates.items()}

    optimizer = optax.chain(
        optax.clip_by_global_norm(options.clip_norm),
        optax.scale_by_adam(b2=options.beta2),
        optax.add_decayed_weights(options.weight_decay, mask=decayed),
        optax.stateless(scale_groups),
        optax.scale_by_learning_rate(schedule),
    )
    return optimizer, schedule


def _group_scale(scales: Mapping[str, float], name: str) -> float:
    return next((scale for pattern, scale in scales.items() if re.match(pattern, name)), 1.0)


def begin_stage(parameters: Parameters, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; copies, because a step takes its state's memory over."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        parameters=jax.tree.map(jnp.copy, parameters),
        optimizer=optimizer.init(parameters),
        average=jax.tree.map(jnp.copy, parameters),
    )


def make_step(
    rebuild: Callable[[Parameters], EncoderDecoder],
    depth: int,
    optimizer: optax.GradientTransformation,
    options: Optimizer,
) -> Step:
    """The jitted step `(state, frozen parameters, batch, key) -> (state, metrics)`.

    `rebuild` makes a model of named parameters; `depth` is where the encoder's frozen part ended.
    The state is donated.
    """

    def loss(
        parameters: Parameters, frozen: Parameters, batch: Batch, key: Array
    ) -> tuple[Array, Array]:
        model = rebuild({**frozen, **parameters})
        with dropout_enabled(model, key):
            features = model.bridge(model.encoder.suffix(batch.pictures.astype(jnp.float32), depth))
            logits = model.read(features, batch.inputs, batch.positions, batch.segments)
        weights = (batch.segments > 0).astype(jnp.float32)
        return smoothed_cross_entropy(logits, batch.targets, weights, options.label_smoothing)

    def step(
        state: TrainState, frozen: Parameters, batch: Batch, key: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(key, state.step)
        (smoothed, plain), gradients = jax.value_and_grad(loss, has_aux=True)(
            state.parameters, frozen, batch, key
        )
        updates, memory = optimizer.update(gradients, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        # A young average forgets faster, or it would remember the start for a thousand steps.
        decay = jnp.minimum(options.ema_decay, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(parameters, state.average, 1 - decay)
        state = TrainState(
            step=state.step + 1, parameters=parameters, optimizer=memory, average=average
        )
        norm = optax.tree.norm(gradients)
        return state, {"loss": smoothed, "nll": plain, "gradient_norm": norm}

    return jax.jit(step, donate_argnums=0)
