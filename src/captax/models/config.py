"""What every family's config can do: be read from a `config.json`, build its model, be written."""

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping
from types import UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from flax import nnx

from captax.errors import CaptaxError, quoted
from captax.models.arithmetic import ACTIVATIONS
from captax.models.layout import Layout

Config = TypeVar("Config", bound="ModelConfig")


class ConfigError(CaptaxError):
    """A config describes a model that captax does not have."""


_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "projector_hidden_act")
# Limits that no real model reaches: a wrong config is refused before it builds a huge model.
MOST_LAYERS, MOST_LABELS, MOST = 1000, 10**6, 2**31
MOST_STAGES, MOST_RATIO = 8, 1000

# Config classes by `model_type`; each adds itself when its file is imported.
FAMILIES: dict[str, type["ModelConfig"]] = {}


@dataclasses.dataclass(frozen=True)
class Roles:
    """Ids of the tokens that begin, end and pad captions; None where the config names none.

    If `binding`, they override what the other files of the checkpoint say.
    """

    start: int | None = None
    eos: int | tuple[int, ...] | None = None
    pad: int | None = None
    binding: bool = False


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The config of a model. Families that transformers also has keep its names and defaults.

    Class attributes: `model_type` is the name of the family. `fixed` holds the keys of
    transformers' config for which captax supports one value only. `strict` families, which are
    captax's own, refuse keys that are not fields.
    """

    model_type: ClassVar[str] = ""
    fixed: ClassVar[Mapping[str, Any]] = {}
    strict: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if cls.model_type:
            FAMILIES.setdefault(cls.model_type, cls)

    @classmethod
    def read(cls: type[Config], config: Mapping[str, Any], tensors: Collection[str] = ()) -> Config:
        """The config that a `config.json` describes; keys that are not fields are ignored.

        `tensors` are the names of the checkpoint's tensors: some parts, such as a pooler, are
        known only from them. Raises `ConfigError` when captax does not have such a model.
        """
        for key, supported in cls.fixed.items():
            if config.get(key, supported) != supported:
                raise ConfigError(
                    f"{cls.model_type}: {key}={quoted(config[key])} is not supported; it must be "
                    f"{quoted(supported)}"
                )
        known = [field.name for field in dataclasses.fields(cls)]
        for key in _ACTIVATIONS:
            name = config.get(key, "gelu") if key in known else "gelu"
            if not isinstance(name, str) or name not in ACTIVATIONS:
                raise ConfigError(
                    f"{cls.model_type}: {key}={quoted(config[key])} is not supported; use one of "
                    f"{', '.join(ACTIVATIONS)}"
                )
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
            raise ConfigError(f"{cls.model_type}: {error}; its fields are {names}") from None

    def _check_heads(self) -> None:
        for name in ("layer", "encoder_layer"):
            if (layer := getattr(self, name, None)) is None:
                continue
            width, attention = layer().width, layer().attention
            heads = attention.heads
            if attention.head_dim is None and width % heads:
                raise ConfigError(
                    f"the width {width} is not a multiple of the number of heads, {heads}; change "
                    "one of them"
                )

    def write(self) -> dict[str, Any]:
        """The contents of a `config.json` from which `read` makes this config again."""
        return {"model_type": self.model_type, **dataclasses.asdict(self)}

    def layout(self) -> Layout:
        """How a checkpoint names and shapes the model's tensors; by default, as captax does."""
        return Layout()

    def roles(self) -> Roles:
        """The special tokens that the config names."""
        return Roles()

    def as_encoder(self) -> "ModelConfig":
        """The config of this model as the encoder of a larger one, without a head."""
        able = _families_with("as_encoder")
        raise ConfigError(f"{self.model_type} cannot be the encoder; use one of {able}")

    def as_decoder(self) -> "ModelConfig":
        """The config of this model as the decoder of a larger one, with cross-attention."""
        able = _families_with("as_decoder")
        raise ConfigError(f"{self.model_type} cannot be the decoder; use one of {able}")

    def as_classifier(self, labels: tuple[str, ...]) -> "ModelConfig":
        """The config of this model with a head for `labels`."""
        able = _families_with("as_classifier")
        raise ConfigError(f"{self.model_type} cannot classify; use one of {able}")

    def build(self, *, rngs: nnx.Rngs | None = None) -> nnx.Module:
        """A new model; without `rngs` it has only shapes, and a checkpoint fills it."""
        raise NotImplementedError


def _families_with(method: str) -> str:
    """The names of the families that define a method which `ModelConfig` refuses."""
    refused = getattr(ModelConfig, method)
    return ", ".join(sorted(n for n, cls in FAMILIES.items() if getattr(cls, method) != refused))


def read_config(config: Mapping[str, Any], tensors: Collection[str] = ()) -> ModelConfig:
    """The config that a `config.json` describes; `tensors` are the names in the checkpoint.

    Raises `ConfigError` when captax does not have such a family.
    """
    # timm's own configs name an architecture only.
    name = config.get("model_type", "timm_wrapper" if "architecture" in config else None)
    if not isinstance(name, str) or name not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ConfigError(f"model_type {quoted(name)} is not supported; use one of {known}")
    return FAMILIES[name].read(config, tensors)


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels of a classifier in the order of its logits, from transformers' `id2label`."""
    labels = config.get("id2label")
    if isinstance(labels, Mapping):
        named = {str(index): str(label) for index, label in labels.items()}
        numbers = [str(number) for number in range(len(labels))]
        if named.keys() != set(numbers):
            raise ConfigError("id2label: labels must be numbered 0, 1, 2, ... without a gap")
        return tuple(named[number] for number in numbers)
    count = config.get("num_labels", 2)
    if type(count) is not int or not 0 < count <= MOST_LABELS:
        raise ConfigError(
            f"num_labels={quoted(count)} must be a whole number from 1 to {MOST_LABELS:,}"
        )
    return tuple(f"LABEL_{index}" for index in range(count))


def labels_of_head(config: Mapping[str, Any], tensors: Collection[str]) -> tuple[str, ...]:
    """The labels of a checkpoint with a layer `classifier`; without that layer, none.

    Without the names of its tensors, the class that wrote the config says whether there is one.
    """
    classifies = "Classification" in architecture_of(config)
    if tensors:
        classifies = any("classifier.weight" in name for name in tensors)
    return labels_of(config) if classifies else ()


def architecture_of(config: Mapping[str, Any]) -> str:
    """The transformers class that wrote a config; empty if the config does not name it."""
    match config.get("architectures"):
        case [str(name), *_]:
            return name
    return ""


def as_field(value: Any) -> Any:
    """A JSON value as frozen configs hold it: a list becomes a tuple."""
    return tuple(value) if isinstance(value, list) else value


def checked_fields(cls: type, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a file gives for fields of `cls`; a float field takes whole numbers too.

    Raises `ConfigError` for a value that does not have its field's type.
    """
    hints = _hints(cls)
    fields = {key: _plain(key, value, hints.get(key)) for key, value in fields.items()}
    for key, value in fields.items():
        if key in hints and not _is_of(value, hints[key]):
            raise ConfigError(f"{key}={quoted(value)} must be of the type {_told(hints[key])}")
    whole = {key for key, value in fields.items() if type(value) is int}
    floats = {key for key in whole if hints.get(key) in (float, float | None)}
    return {key: float(value) if key in floats else value for key, value in fields.items()}


def _plain(key: str, value: Any, kind: Any) -> Any:
    """A value as files write it today: old ones have two sides of a square, and ids such as 1.0."""
    if key in ("image_size", "patch_size") and kind is int and isinstance(value, tuple):
        return value[0] if len(value) == 2 and value[0] == value[1] else value
    if key.endswith("_id"):
        if isinstance(value, tuple):
            return tuple(_plain(key, each, kind) for each in value)
        if type(value) is float and value.is_integer():
            return int(value)
    return value


def _check_sizes(cls: type, fields: Mapping[str, Any]) -> None:
    """Refuse sizes below 1 (or 0, if that is the default) or above the limits; skip token ids.

    Indexes of layers begin at 0.
    What is negative by default is a place, counted from either end.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    for key, value in fields.items():
        if key.endswith("_id"):
            continue
        if key == "mlp_ratio" and not 0 < value <= MOST_RATIO:
            raise ConfigError(f"{key}={quoted(value)} must be above 0 and at most {MOST_RATIO:,}")
        default = defaults.get(key)
        if isinstance(default, tuple) and default:
            default = default[0]
        most = MOST_LAYERS if "layer" in key or key in ("depth", "depths") else MOST
        least = 0 if default == 0 or key.endswith("_indexes") else 1
        if type(default) is int and default < 0:
            least = -most
        for size in value if isinstance(value, tuple) else (value,):
            if type(size) is int and not least <= size <= most:
                raise ConfigError(f"{key}={quoted(value)} must be {least:,} to {most:,}")


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
    """The keys in which transformers' configs keep labels."""
    return {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
