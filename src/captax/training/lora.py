"""Low-rank adaptation: kernels stay as they are, and a product of two thin matrices is learned.

Hu et al., *LoRA* (https://arxiv.org/abs/2106.09685). Parameters are named tensors throughout, so
this is arithmetic on them: models do not change, and any matrix can be adapted.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array

from captax.training.recipe import Lora, RecipeError, matches

DOWN, UP = ".lora_down", ".lora_up"
# The `trainable` pattern of a stage that trains only the low-rank matrices.
LORA_PATTERN = r".*\.lora_(down|up)$"


def add_lora(parameters: Mapping[str, Array], lora: Lora, key: Array) -> dict[str, Array]:
    """The parameters and, for every target `[out in]`, `down [rank in]` and `up [out rank]`.

    `up` begins as zero, so that nothing changes yet. Raises `RecipeError` when no target matches.
    """
    added = dict(parameters)
    for name, kernel in parameters.items():
        if kernel.ndim == 2 and matches(lora.targets, name, whole=True):
            out, width = kernel.shape
            key, draw = jax.random.split(key)
            added[name + DOWN] = jax.random.normal(draw, (lora.rank, width)) * width**-0.5
            added[name + UP] = jnp.zeros((out, lora.rank))
    if len(added) == len(parameters):
        raise RecipeError(
            f"model.lora.targets match no kernel: {', '.join(lora.targets)}; kernels have names "
            f"such as {next(name for name in parameters if name.endswith('kernel'))}"
        )
    return added


def merge_lora(parameters: Mapping[str, Array], lora: Lora | None) -> dict[str, Array]:
    """Parameters of the model: every adapted kernel plus its change."""
    if lora is None:
        return dict(parameters)
    merged = {}
    for name, value in parameters.items():
        if name.endswith((DOWN, UP)):
            continue
        if name + UP in parameters:
            change = parameters[name + UP] @ parameters[name + DOWN]
            value = value + (lora.alpha / lora.rank) * change
        merged[name] = value
    return merged
