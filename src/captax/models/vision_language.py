"""What configs of vision-language models share: an encoder, a connector, a language model.

The model has them as `encoder`, `connector` and `decoder`.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, TypeVar

from flax import nnx

from captax.errors import quoted
from captax.models.config import ConfigError, ModelConfig, Roles
from captax.models.connectors import Connector
from captax.models.language import LanguageConfig
from captax.models.layout import Layout
from captax.models.two_towers import PictureTowerConfig

Config = TypeVar("Config", bound="VisionLanguageConfig")
VISION, TEXT = PictureTowerConfig(), LanguageConfig()  # of no family, which each replaces


@dataclasses.dataclass(frozen=True)
class VisionLanguageConfig(ModelConfig):
    """The configs of the encoder and of the language model, and what lies between them.

    `languages` are the families that the language model may have; the first one is meant where a
    config names none. Every view of a picture takes the places of `places` tokens with the id
    `image_token_id`. `tie_word_embeddings` decides for the language model, whose own config is not
    asked, as in transformers.
    """

    architecture: ClassVar[str]
    languages: ClassVar[tuple[type[LanguageConfig], ...]]

    vision_config: PictureTowerConfig = VISION
    text_config: LanguageConfig = TEXT
    image_token_id: int = 0
    tie_word_embeddings: bool = False

    @classmethod
    def read(cls: type[Config], config: Mapping[str, Any], tensors: Collection[str] = ()) -> Config:
        vision, text = cls.vision_config, cls.text_config
        if (said := _part(cls, config, "vision_config")) is not None:
            vision = type(vision).read(said)
        if (said := _part(cls, config, "text_config")) is not None:
            text = cls.read_text(said)
        tied = config.get("tie_word_embeddings", cls.tie_word_embeddings)
        text = dataclasses.replace(text, tie_word_embeddings=bool(tied))
        parts = {"vision_config": vision, "text_config": text}
        described = super().read({**config, **parts}, tensors)
        try:
            described.connector(rngs=None).grid(described.vision_config.grid)
        except ConfigError as error:
            raise ConfigError(f"{cls.model_type}: {error}") from None
        return described

    @classmethod
    def read_text(cls, config: Mapping[str, Any]) -> LanguageConfig:
        """The config of the language model; raises `ConfigError` if it is of another family."""
        families = {family.model_type: family for family in cls.languages}
        name = config.get("model_type", cls.languages[0].model_type)
        if not isinstance(name, str) or name not in families:
            raise ConfigError(
                f"{cls.model_type}: text_config.model_type={quoted(name)} is not supported; it "
                f"must be one of {', '.join(families)}"
            )
        return families[name].read(config)

    def write(self) -> dict[str, Any]:
        parts = {"vision_config": self.vision_config, "text_config": self.text_config}
        written = {name: part.write() for name, part in parts.items()}
        return {**super().write(), **written, "architectures": [self.architecture]}

    def roles(self) -> Roles:
        return self.text_config.roles()

    def connector(self, *, rngs: nnx.Rngs | None) -> Connector:
        """The part between the encoder and the language model."""
        raise NotImplementedError

    @property
    def places(self) -> int:
        """How many tokens stand for one view of a picture."""
        rows, columns = self.connector(rngs=None).grid(self.vision_config.grid)
        return rows * columns


def language_layout(text: LanguageConfig, within: str, head: str) -> Layout:
    """The layout of a language model as `decoder`.

    Where it is saved alone, the names of its tensors begin with `model.` and `lm_head.`; here they
    begin with `within` and `head`.
    """
    alone = text.layout()
    prefixes = {"model.": within, "lm_head.": head}

    def renamed(name: str) -> str:
        for old, new in prefixes.items():
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    def canonical(name: str) -> str | None:
        for old, new in prefixes.items():
            if name.startswith(new):
                spelt = alone.canonical(old + name.removeprefix(new))
                return None if spelt is None else renamed(spelt)
        return name

    rules = (
        dataclasses.replace(
            rule,
            theirs=renamed(rule.theirs),
            ours=tuple(f"decoder.{name}" for name in rule.ours),
        )
        for rule in alone.rules
    )
    return Layout(tuple(rules), canonical)


def _part(
    cls: type[VisionLanguageConfig], config: Mapping[str, Any], name: str
) -> Mapping[str, Any] | None:
    said = config.get(name)
    if said is not None and not isinstance(said, Mapping):
        raise ConfigError(f"{cls.model_type}: {name}={quoted(said)} must be a JSON object")
    return said
