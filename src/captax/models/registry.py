"""Families by name: how a `config.json` becomes a model, and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx

from captax.errors import CaptaxError
from captax.models.efficientnet import EfficientNetLite, EfficientNetLiteConfig
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.layers import TextDecoder, VisionEncoder
from captax.models.transformer import TransformerDecoder, TransformerDecoderConfig

FAMILIES: dict[str, tuple[Any, Any]] = {
    "efficientnet-lite": (EfficientNetLiteConfig, EfficientNetLite),
    "captax-transformer": (TransformerDecoderConfig, TransformerDecoder),
}
ENCODER_DECODER = "captax-encoder-decoder"


class ConfigError(CaptaxError):
    """A config describes no model that captax has."""


def build(config: Mapping[str, Any], *, rngs: nnx.Rngs | None = None) -> nnx.Module:
    """A new model as `config` describes it; without `rngs`, shapes alone, for a checkpoint."""
    fields = dict(config)
    name = fields.pop("model_type", None)
    if name == ENCODER_DECODER:
        encoder, decoder = (build(fields.get(x) or {}, rngs=rngs) for x in ("encoder", "decoder"))
        if not isinstance(encoder, VisionEncoder) or not isinstance(decoder, TextDecoder):
            raise ConfigError("a captioner needs a vision encoder and a text decoder")
        return EncoderDecoder(encoder, decoder)
    if name not in FAMILIES:
        known = ", ".join([*FAMILIES, ENCODER_DECODER])
        raise ConfigError(f"model_type {name!r} is not supported; supported are {known}")
    config_class, module = FAMILIES[name]
    fields = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
    try:
        return module(config_class(**fields), rngs=rngs)
    except TypeError as error:
        known = ", ".join(field.name for field in dataclasses.fields(config_class))
        raise ConfigError(f"{name}: {error}; its config has {known}") from None


def describe(model: nnx.Module) -> dict[str, Any]:
    """The config from which `build` makes this model's like."""
    if isinstance(model, EncoderDecoder):
        halves = {"encoder": describe(model.encoder), "decoder": describe(model.decoder)}
        return {"model_type": ENCODER_DECODER, **halves}
    for name, (_, module) in FAMILIES.items():
        if isinstance(model, module):
            return {"model_type": name, **dataclasses.asdict(model.config)}
    raise ConfigError(f"{type(model).__name__} is in no family that can be saved")
