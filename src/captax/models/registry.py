"""All families, and the way from a config to a model and back."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

# Importing a family's file adds it to `FAMILIES`.
from captax.models import (  # noqa: F401
    bart,
    bert,
    blip,
    clip,
    convnext,
    davit,
    efficientnet,
    encoder_decoder,
    florence2,
    gemma,
    gemma2,
    gemma3,
    gemma3_vision,
    git,
    gpt2,
    llama,
    llava,
    paligemma,
    qwen2,
    qwen2_5_vl,
    qwen3,
    qwen3_vl,
    resnet,
    siglip,
    smolvlm,
    swinv2,
    timm,
    transformer,
    vit,
    vit_msn,
)
from captax.models.config import FAMILIES, ConfigError, ModelConfig, read_config

__all__ = ["FAMILIES", "ConfigError", "build", "describe", "model_config", "read_config"]


def build(config: Mapping[str, Any], *, rngs: nnx.Rngs | None = None) -> nnx.Module:
    """A new model from `config`; without `rngs` it has only shapes, and a checkpoint fills it."""
    return read_config(config).build(rngs=rngs)


def model_config(model: nnx.Module) -> ModelConfig:
    """The config with which the model can be saved and built again."""
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        raise ConfigError(
            f"{type(model).__name__} has no `config` of a family and cannot be saved; give a model "
            "of one of captax's families"
        )
    return config


def describe(model: nnx.Module) -> dict[str, Any]:
    """The config from which `build` makes another model with the same shape."""
    return model_config(model).write()
