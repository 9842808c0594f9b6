"""What every family's config can do: be read from a `config.json`, build its model, be written."""

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping
from types import UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from flax import nnx

from captax.errors import CaptaxError
from captax.models.arithmetic import ACTIVATIONS
from captax.models.layout import Layout

Config = TypeVar("Config", bound="ModelConfig")


class ConfigError(CaptaxError):
    """A config describes no model that captax has."""


# More than any model has: whoever says so would wait for a model that no checkpoint can fill.
MOST_LAYERS, MOST_LABELS, MOST = 1000, 10**6, 2**31

# Families by name; each puts itself here when its file is imported.
FAMILIES: dict[str, type["ModelConfig"]] = {}


@dataclasses.dataclass(frozen=True)
class Roles:
    """Ids of the tokens that begin captions, end them and fill them up; None where not said.

    If `binding`, they hold whatever else the checkpoint says about them.
    """

    start: int | None = None
    eos: int | tuple[int, ...] | None = None
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
            name = config.get(key, "gelu")
            if not isinstance(name, str) or name not in ACTIVATIONS:
                raise ConfigError(
                    f"{cls.model_type}: {key}={config[key]!r} is not supported, only "
                    f"{', '.join(ACTIVATIONS)}"
                )
        known = [field.name for field in dataclasses.fields(cls)]
        fields = {
            key: as_field(value)
            for key, value in config.items()
            if key in known or (cls.strict and key not in ("model_type", "dtype"))
        }
        try:
            fields = checked_fields(cls, fields)
            _check_sizes(cls, fields)
            described = cls(**fields)
            described._check_heads()
            return described
        except ConfigError as error:
            raise ConfigError(f"{cls.model_type}: {error}") from None
        except TypeError as error:
            names = ", ".join(known)
            raise ConfigError(f"{cls.model_type}: {error}; its config has {names}") from None

    def _check_heads(self) -> None:
        if (layer := getattr(self, "layer", None)) is not None:
            width, heads = layer().width, layer().heads
            if width % heads:
                raise ConfigError(f"a width of {width} cannot be shared by {heads} heads")

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
    if not isinstance(name, str) or name not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ConfigError(f"model_type {name!r} is not supported; supported are {known}")
    return FAMILIES[name].read(config, tensors)


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Labels of a classifier in the order of its logits, from transformers' `id2label`."""
    labels = config.get("id2label")
    if isinstance(labels, Mapping):
        named = {str(index): str(label) for index, label in labels.items()}
        numbers = [str(number) for number in range(len(labels))]
        if named.keys() != set(numbers):
            raise ConfigError("id2label: labels must be numbered 0, 1, 2, ... without a gap")
        return tuple(named[number] for number in numbers)
    count = config.get("num_labels", 2)
    if type(count) is not int or not 0 < count <= MOST_LABELS:
        raise ConfigError(f"num_labels={count!r}: expected 1 to {MOST_LABELS:,}")
    return tuple(f"LABEL_{index}" for index in range(count))


def architecture_of(config: Mapping[str, Any]) -> str:
    """The class of transformers' that wrote a config; empty where it does not say."""
    match config.get("architectures"):
        case [str(name), *_]:
            return name
    return ""


def as_field(value: Any) -> Any:
    """A value of JSON as frozen configs hold it."""
    return tuple(value) if isinstance(value, list) else value


def checked_fields(cls: type, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Values out of a file for fields of `cls`; a whole number will do for a float.

    Raises `ConfigError` for one that is not of its field's type.
    """
    hints = _hints(cls)
    for key, value in fields.items():
        if key in hints and not _is_of(value, hints[key]):
            raise ConfigError(f"{key}={value!r} must be of the type {_told(hints[key])}")
    return {k: float(v) if hints.get(k) is float else v for k, v in fields.items()}


def _check_sizes(cls: type, fields: Mapping[str, Any]) -> None:
    """Sizes are above 0, or 0 where that is the default, and not absurd; token ids are no sizes."""
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    for key, value in fields.items():
        if key.endswith("_id"):
            continue
        least = 0 if defaults.get(key) == 0 else 1
        most = MOST_LAYERS if "layer" in key or key == "depths" else MOST
        for size in value if isinstance(value, tuple) else (value,):
            if type(size) is int and not least <= size <= most:
                raise ConfigError(f"{key}={value!r} must be {least:,} to {most:,}")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _is_of(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if get_origin(kind) in (Union, UnionType):
        return any(_is_of(value, each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value) if isinstance(value, tuple) else ()
        return (
            isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is_of, value, kinds))
        )
    if kind is float:
        return (type(value) is float and math.isfinite(value)) or (
            type(value) is int and abs(value) <= MOST
        )
    return type(value) is int if kind is int else isinstance(value, kind)


def _told(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def write_labels(labels: tuple[str, ...]) -> dict[str, Any]:
    """The keys by which transformers' configs name labels."""
    return {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
