"""Every family there is, and how a config becomes a model and back."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

# Importing a family is what makes its name known.
from captax.models import (  # noqa: F401
    bert,
    blip,
    clip,
    efficientnet,
    encoder_decoder,
    git,
    gpt2,
    resnet,
    transformer,
    vit,
    vit_msn,
)
from captax.models.config import FAMILIES, ConfigError, ModelConfig, read_config

__all__ = ["FAMILIES", "ConfigError", "build", "describe", "model_config", "read_config"]


def build(config: Mapping[str, Any], *, rngs: nnx.Rngs | None = None) -> nnx.Module:
    """A new model as `config` describes it; without `rngs`, shapes alone, for a checkpoint."""
    return read_config(config).build(rngs=rngs)


def model_config(model: nnx.Module) -> ModelConfig:
    """The config by which the model can be saved and built again."""
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        raise ConfigError(f"{type(model).__name__} is in no family that can be saved")
    return config


def describe(model: nnx.Module) -> dict[str, Any]:
    """The config from which `build` makes this model's like."""
    return model_config(model).write()
