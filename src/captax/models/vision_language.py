"""Language models that read pictures inside their prompts, and what their configs share."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from captax.errors import quoted
from captax.models.arithmetic import map_pictures
from captax.models.config import ConfigError, ModelConfig, Roles
from captax.models.connectors import Connector
from captax.models.decoders import TextDecoder, Together
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import Features, VisionEncoder
from captax.models.language import LanguageConfig
from captax.models.layout import Layout, Rule, join
from captax.models.observing import scope
from captax.models.prompt import Prompt
from captax.models.two_towers import PictureTowerConfig

Config = TypeVar("Config", bound="VisionLanguageConfig")
Part = TypeVar("Part", bound=ModelConfig)
VISION, TEXT = PictureTowerConfig(), LanguageConfig()  # of no family, which each replaces
# More would take more memory for attention than for all else: 32 pictures may have 544 views.
VIEWS_AT_ONCE = 32
MOST_FRAMES = 256
Views = Float[Array, "batch views height width 3"] | Float[Array, "batch height width 3"]


@dataclasses.dataclass(frozen=True)
class VisionLanguageConfig(ModelConfig):
    """The configs of the encoder and of the language model, and what lies between them.

    `languages` are the families that the language model may have, and `towers` those of the
    encoder; the first one is meant where a config names none. Every view of a picture takes the
    places of `places` tokens with the id `image_token_id`. `tie_word_embeddings` decides for the
    language model, whose own config is not asked, as in transformers.
    """

    architecture: ClassVar[str]
    languages: ClassVar[tuple[type[LanguageConfig], ...]]
    towers: ClassVar[tuple[type[ModelConfig], ...]] = ()
    # What sees each other in a prompt, and not only what is before it.
    together: ClassVar[Together] = "nothing"
    # Whether a prompt may show several pictures, and so the frames of a video.
    several: ClassVar[bool] = False
    # How a config on disk spells `image_token_id`.
    picture_key: ClassVar[str] = "image_token_id"

    vision_config: Any = VISION
    text_config: LanguageConfig = TEXT
    image_token_id: int = 0
    tie_word_embeddings: bool = False

    @classmethod
    def read(cls: type[Config], config: Mapping[str, Any], tensors: Collection[str] = ()) -> Config:
        vision, text = cls.vision_config, cls.text_config
        if cls.picture_key in config:
            config = {**config, "image_token_id": config[cls.picture_key]}
        if (said := _part(cls, config, "vision_config")) is not None:
            vision = _family(cls, "vision_config", said, cls.towers or (type(vision),)).read(said)
        if (said := _part(cls, config, "text_config")) is not None:
            text = cls.read_text(said)
        tied = config.get("tie_word_embeddings", cls.tie_word_embeddings)
        text = dataclasses.replace(text, tie_word_embeddings=bool(tied))
        parts = {"vision_config": vision, "text_config": text}
        described = super().read({**config, **parts}, tensors)
        try:
            described.check()
        except ConfigError as error:
            raise ConfigError(f"{cls.model_type}: {error}") from None
        return described

    def check(self) -> None:
        """Raise `ConfigError` if the parts do not fit each other."""
        self.connector(rngs=None).grid(self.vision_config.grid)

    @classmethod
    def read_text(cls, config: Mapping[str, Any]) -> LanguageConfig:
        """The config of the language model; raises `ConfigError` if it is of another family."""
        return _family(cls, "text_config", config, cls.languages).read(config)

    def write(self) -> dict[str, Any]:
        parts = {"vision_config": self.vision_config, "text_config": self.text_config}
        written = {name: part.write() for name, part in parts.items()}
        said = {**super().write(), **written, "architectures": [self.architecture]}
        said[self.picture_key] = said.pop("image_token_id")
        return said

    def roles(self) -> Roles:
        return self.text_config.roles()

    def build(self, *, rngs: nnx.Rngs | None = None) -> "VisionLanguageModel":
        encoder: Any = self.vision_config.build(rngs=rngs)
        connector, decoder = self.connector(rngs=rngs), self.text_config.build(rngs=rngs)
        decoder.together = self.together
        return self.kind(encoder, connector, decoder, config=self)

    @property
    def kind(self) -> "type[VisionLanguageModel]":
        """The class of its models."""
        return VisionLanguageModel

    def connector(self, *, rngs: nnx.Rngs | None) -> Connector:
        """The part between the encoder and the language model."""
        raise NotImplementedError

    @property
    def places(self) -> int:
        """How many tokens stand for one view of a picture."""
        rows, columns = self.connector(rngs=None).grid(self.vision_config.grid)
        return rows * columns

    def layout(self) -> Layout:
        parts = join(
            self.vision_config.layout().within("vision_tower.", "encoder."),
            Layout(self.connector_rules()).within("multi_modal_projector.", "connector."),
            language_layout(self.text_config, "language_model.model.", "language_model.lm_head."),
        )

        def canonical(name: str) -> str | None:
            # As transformers 5 has them in memory, and as some checkpoints have them on disk.
            name = name.removeprefix("model.")
            if name.startswith("lm_head."):
                name = f"language_model.{name}"
            within, dot, rest = name.partition("language_model.")
            if dot and not within and not rest.startswith(("model.", "lm_head.")):
                name = f"language_model.model.{rest}"
            return parts.canonical(name)

        return Layout(parts.rules, canonical)

    def connector_rules(self) -> tuple[Rule, ...]:
        """The rules of the connector's tensors, without prefixes."""
        raise NotImplementedError


class VisionLanguageModel(EncoderDecoder):
    """An encoder, a connector to the decoder's width, and a language model.

    A picture is one view or several of the same size, and several pictures are more views. Their
    tokens take the places of the tokens `image_token_id` of a prompt, in order.
    """

    config: Any

    @property
    def most_frames(self) -> int:
        return MOST_FRAMES if self.config.several else 0

    def __init__(
        self,
        encoder: VisionEncoder,
        connector: nnx.Module,
        decoder: TextDecoder,
        *,
        config: ModelConfig,
    ):
        super().__init__(encoder, decoder, config=config)
        self.connector: Any = connector

    def encode(self, inputs: Views) -> Features:  # type: ignore[override]
        """Encode pictures: the tokens of all views of each, one view after the other."""
        views = inputs[:, None] if inputs.ndim == 4 else inputs
        batch, count = views.shape[:2]
        with scope("encoder"):
            flat = views.reshape(-1, *views.shape[2:])
            features = map_pictures(self.look, flat, VIEWS_AT_ONCE)
        found = self.bridge(features)
        tokens = found.tokens.reshape(batch, count * found.tokens.shape[1], -1)
        return dataclasses.replace(found, tokens=tokens)

    def look(self, views: Float[Array, "batch height width 3"]) -> Features:
        """What the connector is given of each view."""
        return self.encoder(views)

    def bridge(self, features: Features) -> Features:
        return self.connector(features)

    def placed(self, prompt: Prompt) -> Prompt:
        pictures = jnp.asarray(prompt.tokens) == self.config.image_token_id
        pictures &= prompt.real
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


def _family(
    cls: type[VisionLanguageConfig],
    part: str,
    config: Mapping[str, Any],
    families: Sequence[type[Part]],
) -> type[Part]:
    """The one of `families` that a part's config names; raises `ConfigError` for another."""
    known = {family.model_type: family for family in families}
    name = config.get("model_type", families[0].model_type)
    if not isinstance(name, str) or name not in known:
        raise ConfigError(
            f"{cls.model_type}: {part}.model_type={quoted(name)} is not supported; it must be "
            f"{' or '.join(known)}"
        )
    return known[name]


def _part(
    cls: type[VisionLanguageConfig], config: Mapping[str, Any], name: str
) -> Mapping[str, Any] | None:
    said = config.get(name)
    if said is not None and not isinstance(said, Mapping):
        raise ConfigError(f"{cls.model_type}: {name}={quoted(said)} must be a JSON object")
    return said
