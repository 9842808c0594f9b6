"""One training step: loss, gradients, update, moving average; jitted as one program.

Parameters are named tensors; a step does not depend on a task's batches and losses.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jaxtyping import Array, Bool, Float, Int

from captax.models.modules import dropout_enabled, norms_of_batch
from captax.models.tracing import rematerialised
from captax.training.recipe import Optimizer

Parameters = dict[str, Any]
# Of the statistics that a batch norm keeps, this share comes from the newest batch, as in PyTorch.
NEWEST = 0.1
# The loss that float16 begins with is multiplied by this. The factor is doubled after so many
# steps without an overflow, and halved by an overflow.
FIRST_SCALE, STEPS_TO_GROW = 2.0**10, 2000


@struct.dataclass
class TrainState:
    """What a step changes: trainable parameters, the optimiser's state, the moving average.

    Without a moving average `average` is empty. With float16 the optimiser's state is `Scaled`. The
    leaves are arrays; the type is `Any` because tree functions put other things in their place for
    a while.
    """

    step: Any
    parameters: Any
    optimizer: Any
    average: Any

    @property
    def evaluated(self) -> Parameters:
        """The weights that are evaluated and saved."""
        return self.average or self.parameters


class Scaled(NamedTuple):
    """An optimiser's state, what the loss is multiplied by, and the steps since that changed."""

    memory: Any
    factor: Array
    steps: Array

    def after(self, memory: Any, finite: Bool[Array, ""]) -> "Scaled":
        """The state after a step, as PyTorch's `GradScaler` scales."""
        steps = jnp.where(finite, self.steps + 1, 0)
        grows = steps == STEPS_TO_GROW
        grown = jnp.where(grows, 2 * self.factor, self.factor)
        factor = jnp.where(finite, grown, self.factor / 2)
        return Scaled(memory, factor, jnp.where(grows, 0, steps))


class Losses(NamedTuple):
    """Sums over a batch, so that the parts of a batch add up: the mean loss is `total / weight`.

    `measures` are summed too, and reported divided by `weight`.
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]
    measures: dict[str, Array]


Loss = Callable[[nnx.Module, Any], Losses]
Step = Callable[[TrainState, Parameters, Any, Array], tuple[TrainState, dict[str, Array]]]


def token_losses(
    logits: Float[Array, "batch time vocab"],
    targets: Int[Array, "batch time"],
    counted: Bool[Array, "batch time"],
    smoothing: float = 0.0,
) -> Losses:
    """Cross-entropy of tokens with label smoothing (https://arxiv.org/abs/1512.00567).

    Sums are over the places that are `counted`, so padding does not count. The measures are `nll`,
    the loss without smoothing, and `accuracy`, how many targets had the highest logit, ties too.
    """
    weights = counted.astype(jnp.float32)
    logits = logits.astype(jnp.float32)
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    right = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nll = ((normalizer - right) * weights).sum()
    total = nll
    if smoothing:
        uniform = ((normalizer - logits.mean(-1)) * weights).sum()
        total = (1 - smoothing) * nll + smoothing * uniform
    # The normalizer computes the maximum anyway; an argmax would need another pass.
    best = right >= logits.max(-1)
    return Losses(total, weights.sum(), {"nll": nll, "accuracy": (best * weights).sum()})


def begin_stage(
    parameters: Parameters, optimizer: optax.GradientTransformation, options: Optimizer
) -> TrainState:
    """The state before the first step. It holds copies, because a step reuses the memory."""
    memory: Any = optimizer.init(parameters)
    if options.precision == "float16":
        memory = Scaled(memory, jnp.float32(FIRST_SCALE), jnp.zeros((), jnp.int32))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        parameters=jax.tree.map(jnp.copy, parameters),
        optimizer=memory,
        average={} if options.ema_decay is None else jax.tree.map(jnp.copy, parameters),
    )


def narrowed(parameters: Mapping[str, Any], options: Optimizer) -> Parameters:
    """Parameters for products: in the recipe's precision, except norms and biases."""
    if options.precision == "float32":
        return dict(parameters)
    # Leaf by leaf: a kernel may be `Adapted`.
    return jax.tree.map(
        lambda value: value.astype(options.precision) if value.ndim > 1 else value, dict(parameters)
    )


def make_step(
    rebuild: Callable[[Parameters], nnx.Module],
    loss: Loss,
    optimizer: optax.GradientTransformation,
    options: Optimizer,
    *,
    merge: Callable[[Parameters], Parameters] = dict,
    dropout: bool = True,
) -> Step:
    """The jitted step `(state, frozen parameters, batch, key) -> (state, measures)`.

    `merge` makes the model's parameters from trained and frozen ones, and `rebuild` makes a model
    from them. The state is donated. When the loss or a gradient is not finite, the state keeps its
    values, the measure `finite` is 0, and `culprit` is the place of the first such gradient among
    the sorted names. With float16 the step is left out, the loss is scaled less from then on, and
    `finite` is 0 only if that does not help.
    """
    parts = options.accumulation
    scaled = options.precision == "float16"

    def losses(
        parameters: Parameters, frozen: Parameters, part: Any, key: Array, factor: Array | float
    ) -> Any:
        model = rebuild(narrowed(merge({**frozen, **parameters}), options))
        with contextlib.ExitStack() as stack:
            stack.enter_context(rematerialised(options.remat))
            norms = {}
            if dropout:
                stack.enter_context(dropout_enabled(model, key))
            if options.update_statistics:
                norms = stack.enter_context(norms_of_batch(model))
            found = loss(model, part)
            seen = {name: norm.seen for name, norm in norms.items() if norm.seen is not None}
        statistics = {f"{name}.mean": mean for name, (mean, _) in seen.items()}
        statistics |= {f"{name}.variance": variance for name, (_, variance) in seen.items()}
        return found.total * factor, (found, statistics)

    def gradients(
        parameters: Parameters, frozen: Parameters, part: Any, key: Array, factor: Array | float
    ) -> Any:
        value = jax.grad(losses, has_aux=True)
        gradient, (found, statistics) = value(parameters, frozen, part, key, factor)
        return gradient, found, statistics

    def accumulated(
        parameters: Parameters, frozen: Parameters, batch: Any, key: Array, factor: Array | float
    ) -> Any:
        if parts == 1:
            return gradients(parameters, frozen, batch, key, factor)
        # Every part takes rows from the whole batch, so that each device of a mesh holds some.
        leaves, structure = jax.tree.flatten(batch)
        split = [x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1) for x in leaves]

        def add(sums: Any, indexed: Any) -> tuple[Any, None]:
            index, part = indexed[0], jax.tree.unflatten(structure, indexed[1])
            own = jax.random.fold_in(key, index)
            found = gradients(parameters, frozen, part, own, factor)
            return jax.tree.map(jnp.add, sums, found), None

        first = jax.tree.unflatten(structure, [x[0] for x in split])
        shapes = jax.eval_shape(gradients, parameters, frozen, first, key, factor)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, (jnp.arange(parts), split))[0]

    def step(
        state: TrainState, frozen: Parameters, batch: Any, key: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(key, state.step)
        scaling: Any = state.optimizer
        memory, factor = (scaling.memory, scaling.factor) if scaled else (scaling, 1.0)
        gradient, sums, seen = accumulated(state.parameters, frozen, batch, key, factor)
        weight = jnp.maximum(sums.weight, 1)
        gradient = jax.tree.map(lambda x: x / (weight * factor), gradient)
        updates, memory = optimizer.update(gradient, memory, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        for name, value in seen.items():  # the optimiser leaves them, for they have no gradient
            kept = state.parameters[name]
            parameters[name] = (1 - NEWEST) * kept + NEWEST * value / parts
        average = state.average
        if options.ema_decay is not None:
            # A young average forgets faster; otherwise the start would count for a thousand steps.
            decay = jnp.minimum(options.ema_decay, (1 + state.step) / (10 + state.step))
            average = optax.incremental_update(parameters, average, 1 - decay)
        squares = jnp.stack([jnp.vdot(x, x) for x in jax.tree.leaves(gradient)])
        norm = jnp.sqrt(squares.sum())
        finite = jnp.isfinite(sums.total) & jnp.isfinite(norm)
        new = TrainState(
            step=state.step + 1,
            parameters=parameters,
            optimizer=scaling._replace(memory=memory) if scaled else memory,
            average=average,
        )
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)
        measures = {name: value / weight for name, value in sums.measures.items()}
        if scaled:
            measures["loss_scale"] = factor
            scaling = scaling.after(state.optimizer.memory, finite)
            state = dataclasses.replace(state, optimizer=scaling)
            finite = finite | (factor > 1)
        return state, {
            "loss": sums.total / weight,
            **measures,
            "gradient_norm": norm,
            "finite": finite,
            "culprit": jnp.argmin(jnp.isfinite(squares)),
        }

    return jax.jit(step, donate_argnums=0)
