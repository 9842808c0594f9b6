"""Optimisers and schedules of optax, as recipes name them."""

from collections.abc import Callable, Mapping
from typing import Any

import optax

from captax.training.recipe import Optimizer, Stage, matches

Parameters = dict[str, Any]
# The cosine schedule ends at this share of its highest rate.
REST = 0.01


def make_schedule(stage: Stage, steps: int) -> optax.Schedule:
    """The learning rate by step: linear warm-up, then as the stage's `schedule` says.

    The warm-up is at most a fifth of the stage.
    """
    warmup = min(stage.warmup_steps, steps // 5)
    left = steps - warmup
    after = {
        "cosine": lambda: optax.cosine_decay_schedule(stage.lr, left, alpha=REST),
        "linear": lambda: optax.linear_schedule(stage.lr, 0.0, left),
        "constant": lambda: optax.constant_schedule(stage.lr),
    }[stage.schedule]()
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, stage.lr, warmup), after], [warmup])


def make_optimizer(
    stage: Stage, options: Optimizer, steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Clipping, the optimiser, weight decay of kernels only, and a learning rate by group."""
    schedule = make_schedule(stage, steps)

    def kernels(parameters: Parameters) -> dict[str, bool]:
        return {name: name.endswith("kernel") for name in parameters}

    def scale_groups(updates: Parameters, *_: Any) -> Parameters:
        return {name: _group_scale(stage.lr_scale, name) * u for name, u in updates.items()}

    decay = optax.add_decayed_weights(options.weight_decay, mask=kernels)
    adam = optax.scale_by_adam(b1=options.beta1, b2=options.beta2)
    # Adam and AdamW differ in the place of the decay: Adam scales it and AdamW does not.
    rules: dict[str, Callable[[], list[optax.GradientTransformation]]] = {
        "adamw": lambda: [adam, decay],
        "adam": lambda: [decay, adam],
        "sgd": lambda: [decay, optax.trace(options.momentum, options.nesterov)],
        "lion": lambda: [optax.scale_by_lion(options.beta1, options.beta2), decay],
        "adafactor": lambda: [
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.scale_by_param_block_rms(),
            decay,
        ],
        "lamb": lambda: [adam, decay, optax.scale_by_trust_ratio()],
    }
    clip = [] if options.clip_norm is None else [optax.clip_by_global_norm(options.clip_norm)]
    optimizer = optax.chain(
        *clip,
        *rules[options.name](),
        optax.stateless(scale_groups),
        optax.scale_by_learning_rate(schedule),
    )
    return optimizer, schedule


def _group_scale(scales: Mapping[str, float], name: str) -> float:
    return next((scale for pattern, scale in scales.items() if matches((pattern,), name)), 1.0)
