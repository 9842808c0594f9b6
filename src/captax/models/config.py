"""What every family's config can do: be read from a `config.json`, build its model, be written."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, TypeVar

from flax import nnx

from captax.errors import CaptaxError
from captax.models.layers import ACTIVATIONS
from captax.models.layout import Layout

Config = TypeVar("Config", bound="ModelConfig")


class ConfigError(CaptaxError):
    """A config describes no model that captax has."""


# Families by name; each puts itself here when its file is imported.
FAMILIES: dict[str, type["ModelConfig"]] = {}


@dataclasses.dataclass(frozen=True)
class Roles:
    """Ids of the tokens that captions begin with, end with and are filled up with; None: not said.

    `binding`: whatever else a checkpoint says of them.
    """

    start: int | None = None
    eos: int | None = None
    pad: int | None = None
    binding: bool = False


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape of a model. Fields of a family that transformers has bear its names and defaults.

    Class attributes: `model_type` names the family, `fixed` what transformers' config may say only
    in one way here, and `strict` families, captax's own, refuse keys they do not know.
    """

    model_type: ClassVar[str] = ""
    fixed: ClassVar[Mapping[str, Any]] = {}
    strict: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if cls.model_type:
            FAMILIES.setdefault(cls.model_type, cls)

    @classmethod
    def read(cls: type[Config], config: Mapping[str, Any], tensors: Collection[str] = ()) -> Config:
        """From the contents of a `config.json`; keys of no concern to the model are left alone.

        `tensors` are the names in the checkpoint: some parts are known only by being there.
        Raises `ConfigError` for what captax does not do.
        """
        for key, supported in cls.fixed.items():
            if config.get(key, supported) != supported:
                raise ConfigError(
                    f"{cls.model_type}: {key}={config[key]!r} is not supported, only {supported!r}"
                )
        for key in ("hidden_act", "activation_function"):
            if config.get(key, "gelu") not in ACTIVATIONS:
                raise ConfigError(
                    f"{cls.model_type}: {key}={config[key]!r} is not supported, only "
                    f"{', '.join(ACTIVATIONS)}"
                )
        known = [field.name for field in dataclasses.fields(cls)]
        fields = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in config.items()
            if key in known or (cls.strict and key not in ("model_type", "dtype"))
        }
        try:
            return cls(**fields)
        except TypeError as error:
            names = ", ".join(known)
            raise ConfigError(f"{cls.model_type}: {error}; its config has {names}") from None

    def write(self) -> dict[str, Any]:
        """The contents of a `config.json` from which `read` makes this config."""
        return {"model_type": self.model_type, **dataclasses.asdict(self)}

    def layout(self) -> Layout:
        """How a checkpoint names the model's tensors; by default, as captax does."""
        return Layout()

    def roles(self) -> Roles:
        """The special tokens that the config names."""
        return Roles()

    def as_encoder(self) -> "ModelConfig":
        """The config of this model as the encoder of another: without a head."""
        raise ConfigError(f"{self.model_type} is no encoder")

    def as_decoder(self) -> "ModelConfig":
        """The config of this model as the decoder of another: with cross-attention."""
        raise ConfigError(f"{self.model_type} is no text decoder")

    def as_classifier(self, labels: tuple[str, ...]) -> "ModelConfig":
        """The config of this model with a head for `labels`."""
        raise ConfigError(f"{self.model_type} cannot classify; vit, deit and resnet can")

    def build(self, *, rngs: nnx.Rngs | None = None) -> nnx.Module:
        """A new model; without `rngs`, shapes alone, for a checkpoint to fill."""
        raise NotImplementedError


def read_config(config: Mapping[str, Any], tensors: Collection[str] = ()) -> ModelConfig:
    """The config that a `config.json` describes; `tensors` are the names in the checkpoint.

    Raises `ConfigError` when no family here is of that kind.
    """
    name = config.get("model_type")
    if name not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ConfigError(f"model_type {name!r} is not supported; supported are {known}")
    return FAMILIES[name].read(config, tensors)


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Labels of a classifier in the order of its logits, from transformers' `id2label`."""
    labels = config.get("id2label")
    if isinstance(labels, Mapping):
        named = {int(index): str(label) for index, label in labels.items()}
        if sorted(named) != list(range(len(named))):
            raise ConfigError("id2label: labels must be numbered 0, 1, 2, ... without a gap")
        return tuple(named[index] for index in range(len(named)))
    return tuple(f"LABEL_{index}" for index in range(int(config.get("num_labels", 2))))


def write_labels(labels: tuple[str, ...]) -> dict[str, Any]:
    """The keys by which transformers' configs name labels."""
    return {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
