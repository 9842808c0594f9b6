"""Language models that read pictures inside their prompts, and what their configs share."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, TypeVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from captax.errors import quoted
from captax.models.arithmetic import map_pictures
from captax.models.config import ConfigError, ModelConfig, Roles
from captax.models.connectors import Connector
from captax.models.decoders import TextDecoder
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import Features, VisionEncoder
from captax.models.language import LanguageConfig
from captax.models.layout import Layout
from captax.models.observing import scope
from captax.models.prompt import Prompt
from captax.models.two_towers import PictureTowerConfig

Config = TypeVar("Config", bound="VisionLanguageConfig")
VISION, TEXT = PictureTowerConfig(), LanguageConfig()  # of no family, which each replaces
# More would take more memory for attention than for all else: 32 pictures may have 544 views.
VIEWS_AT_ONCE = 32
Views = Float[Array, "batch views height width 3"] | Float[Array, "batch height width 3"]


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
    # Whether pictures and prompt all see each other.
    whole_prompts: ClassVar[bool] = False

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

    def build(self, *, rngs: nnx.Rngs | None = None) -> "VisionLanguageModel":
        encoder: Any = self.vision_config.build(rngs=rngs)
        decoder = self.text_config.build(rngs=rngs)
        decoder.whole_prompts = self.whole_prompts
        return VisionLanguageModel(
            encoder,
            self.connector(rngs=rngs),
            decoder,
            config=self,
            picture_id=self.image_token_id,
        )

    def connector(self, *, rngs: nnx.Rngs | None) -> Connector:
        """The part between the encoder and the language model."""
        raise NotImplementedError

    @property
    def places(self) -> int:
        """How many tokens stand for one view of a picture."""
        rows, columns = self.connector(rngs=None).grid(self.vision_config.grid)
        return rows * columns


class VisionLanguageModel(EncoderDecoder):
    """An encoder, a connector to the decoder's width, and a language model.

    A picture is one view or several of the same size. Their tokens take the places of the tokens
    `picture_id` of a prompt, in order.
    """

    config: Any

    def __init__(
        self,
        encoder: VisionEncoder,
        connector: nnx.Module,
        decoder: TextDecoder,
        *,
        config: ModelConfig,
        picture_id: int,
    ):
        super().__init__(encoder, decoder, config=config)
        self.connector: Any = connector
        self.picture_id = picture_id

    def encode(self, inputs: Views) -> Features:  # type: ignore[override]
        """Encode pictures: the tokens of all views of each, one view after the other."""
        views = inputs[:, None] if inputs.ndim == 4 else inputs
        batch, count = views.shape[:2]
        with scope("encoder"):
            flat = views.reshape(-1, *views.shape[2:])
            features = map_pictures(self.encoder, flat, VIEWS_AT_ONCE)
        found = self.bridge(features)
        tokens = found.tokens.reshape(batch, count * found.tokens.shape[1], -1)
        return dataclasses.replace(found, tokens=tokens)

    def bridge(self, features: Features) -> Features:
        return self.connector(features)

    def placed(self, prompt: Prompt) -> Prompt:
        pictures = (jnp.asarray(prompt.tokens) == self.picture_id) & prompt.real
        return dataclasses.replace(prompt, pictures=pictures)


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
