"""Captioners and text-to-text models made of any encoder and any decoder.

If transformers has both halves, the model is its `VisionEncoderDecoderModel` or its
`EncoderDecoderModel` (https://arxiv.org/abs/1907.12461).
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float, Int

from captax.errors import quoted
from captax.models.cache import Cache, Prefix
from captax.models.config import (
    ConfigError,
    ModelConfig,
    Roles,
    as_field,
    checked_fields,
    read_config,
)
from captax.models.decoders import TextDecoder
from captax.models.encoders import Features, TextBatch, TextEncoder, VisionEncoder
from captax.models.layout import Layout, join, linear, table
from captax.models.modules import Linear
from captax.models.observing import scope
from captax.models.prompt import Prompt

MOST_SIDE = 1024  # of a grid that is stretched
# What an encoder reads: pictures, or texts.
Inputs = Float[Array, "batch height width 3"] | TextBatch | Int[Array, "batch time"]


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig(ModelConfig):
    """The configs of both halves, in captax's own form: transformers may not have both.

    With a `grid`, the encoder's is stretched to its rows and columns.
    """

    model_type: ClassVar[str] = "captax-encoder-decoder"

    encoder: ModelConfig
    decoder: ModelConfig
    grid: tuple[int, int] | None = dataclasses.field(default=None, kw_only=True)

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> Any:
        halves = []
        for half in ("encoder", "decoder"):
            described = config.get(half)
            if not isinstance(described, Mapping):
                raise ConfigError(
                    f"{cls.model_type}: the config does not describe the {half}; put its config "
                    f"under {quoted(half)}"
                )
            prefix = f"{half}."
            names = [n.removeprefix(prefix) for n in tensors if n.startswith(prefix)]
            halves.append(read_config(described, names))
        stretched = checked_fields(cls, {"grid": as_field(config.get("grid"))})
        grid = stretched["grid"]
        if grid is not None and not all(1 <= side <= MOST_SIDE for side in grid):
            raise ConfigError(
                f"{cls.model_type}: grid={quoted(list(grid))} must be two numbers of 1 to "
                f"{MOST_SIDE:,}"
            )
        return cls(*halves, **stretched)

    def write(self) -> dict[str, Any]:
        halves = {"encoder": self.encoder.write(), "decoder": self.decoder.write()}
        stretched = {} if self.grid is None else {"grid": list(self.grid)}
        return {"model_type": self.model_type, **halves, **stretched}

    def build(self, *, rngs: nnx.Rngs | None = None) -> "EncoderDecoder":
        encoder, decoder = self.encoder.build(rngs=rngs), self.decoder.build(rngs=rngs)
        if not isinstance(decoder, TextDecoder):
            raise ConfigError(
                f"{self.decoder.model_type} cannot be the decoder; give the config of a text "
                "decoder, such as gpt2"
            )
        if not isinstance(encoder, VisionEncoder | TextEncoder):
            raise ConfigError(
                f"{self.encoder.model_type} cannot be the encoder; give the config of an encoder, "
                "such as vit"
            )
        return EncoderDecoder(encoder, decoder, config=self, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class TransformersEncoderDecoderConfig(EncoderDecoderConfig):
    """What the two encoder-decoder families of transformers share: all but their names."""

    architecture: ClassVar[str]

    decoder_start_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Collection[str] = ()) -> Any:
        halves = super().read(config, tensors)
        names = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
        tokens = {name: as_field(config.get(name)) for name in names}
        return dataclasses.replace(halves, **checked_fields(cls, tokens))

    def write(self) -> dict[str, Any]:
        return {
            **super().write(),
            "architectures": [self.architecture],
            "is_encoder_decoder": True,
            "decoder_start_token_id": self.decoder_start_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
        }

    def roles(self) -> Roles:
        inner = self.decoder.roles()
        return Roles(
            inner.start if self.decoder_start_token_id is None else self.decoder_start_token_id,
            inner.eos if self.eos_token_id is None else self.eos_token_id,
            inner.pad if self.pad_token_id is None else self.pad_token_id,
        )

    def layout(self) -> Layout:
        halves = join(
            self.encoder.layout().within("encoder.", "encoder."),
            self.decoder.layout().within("decoder.", "decoder."),
        )
        project = table(linear("enc_to_dec_proj", "project"))
        return Layout(halves.rules + project, halves.canonical)


@dataclasses.dataclass(frozen=True)
class VisionEncoderDecoderConfig(TransformersEncoderDecoderConfig):
    """A captioner as transformers saves it."""

    model_type: ClassVar[str] = "vision-encoder-decoder"
    architecture: ClassVar[str] = "VisionEncoderDecoderModel"


@dataclasses.dataclass(frozen=True)
class TextEncoderDecoderConfig(TransformersEncoderDecoderConfig):
    """A text-to-text model as transformers saves it."""

    model_type: ClassVar[str] = "encoder-decoder"
    architecture: ClassVar[str] = "EncoderDecoderModel"


class EncoderDecoder(nnx.Module):
    """An encoder and the decoder that reads its output.

    If the decoder's cross-attention expects another width than the encoder's tokens have, and the
    decoder has no projection of its own, `project` maps the tokens to that width.
    """

    def __init__(
        self,
        encoder: VisionEncoder | TextEncoder,
        decoder: TextDecoder,
        *,
        config: ModelConfig | None = None,
        rngs: nnx.Rngs | None = None,
    ):
        self.config = config or EncoderDecoderConfig(encoder.config, decoder.config)
        self.encoder: Any = encoder
        self.decoder = decoder
        if decoder.classes and decoder.classes != getattr(encoder.config, "num_labels", 0):
            raise ConfigError(
                f"the decoder takes hints from {decoder.classes} classes, and the encoder "
                f"({encoder.config.model_type}) does not have so many; give its classifier too"
            )
        self.grid = self.config.grid if isinstance(self.config, EncoderDecoderConfig) else None
        self.project = None
        width = decoder.context_width
        if width is not None and width != encoder.features_width:
            self.project = nnx.data(Linear(encoder.features_width, width, rngs=rngs, std=0.02))

    @property
    def most_frames(self) -> int:
        """The most frames of a video that can be encoded together; 0 if none can be."""
        return 0

    @property
    def class_words(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of the name of each class of the encoder, if the decoder knows them."""
        return getattr(self.decoder.config, "class_words", ())

    def __call__(
        self, inputs: Inputs, tokens: Int[Array, "batch time"]
    ) -> Float[Array, "batch time vocab"]:
        """Logits after every token of whole captions, as in training."""
        return self.read(self.encode(inputs), tokens)

    def encode(self, inputs: Inputs) -> Features:
        """Encode pictures or texts, once; `read` and `begin` take the result."""
        with scope("encoder"):
            features = self.encoder(inputs)
        return self.bridge(features)

    def bridge(self, features: Features) -> Features:
        """The encoder's output with the grid and at the width that the decoder reads."""
        if self.grid is not None:
            features = features.stretched(self.grid)
        if self.project is None:
            return features
        return dataclasses.replace(features, tokens=self.project(features.tokens))

    def read(
        self,
        features: Features,
        tokens: Int[Array, "batch time"],
        positions: Int[Array, "#batch time"] | None = None,
        segments: Int[Array, "batch time"] | None = None,
        prompt: Prompt | None = None,
    ) -> Float[Array, "batch time vocab"]:
        """Logits after every token, from the output of `encode`; see `TextDecoder`."""
        if prompt is not None:
            features, prompt = self.given(features, prompt)
        with scope("decoder"):
            return self.decoder(features, tokens, positions, segments, prompt)

    def placed(self, prompt: Prompt) -> Prompt:
        """The prompt, which knows where its pictures are if they are read as part of it."""
        return prompt

    def given(self, features: Features, prompt: Prompt) -> tuple[Features, Prompt]:
        """What the decoder is given for the output of `encode` and a prompt."""
        return features, self.placed(prompt)

    def predict(
        self, features: Features, prompt: Prompt, tokens: Int[Array, "batch time"]
    ) -> Float[Array, "batch time vocab"]:
        """Logits that predict each of `tokens`, from the prompt and the tokens before it."""
        features, prompt = self.given(features, prompt)
        with scope("decoder"):
            return self.decoder.predict(features, prompt, tokens)

    def prefill(
        self, features: Features, prompt: Prompt | None = None
    ) -> tuple[Prefix, Float[Array, "batch vocab"] | None]:
        """What the decoder keeps of the picture and the prompts, and the logits after these."""
        if prompt is not None:
            features, prompt = self.given(features, prompt)
        with scope("decoder"):
            return self.decoder.prefill(features, prompt)

    def begin(
        self,
        features: Features,
        prompt: Prompt | Int[Array, "batch time"],
        new_tokens: int,
        beams: int = 1,
    ) -> tuple[Float[Array, "batch vocab"], Cache]:
        """Logits after the prompts, and a cache for `beams` texts of `new_tokens` after each."""
        read = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
        features, read = self.given(features, read)
        with scope("decoder"):
            return self.decoder.begin(features, read, new_tokens, beams)

    def advance(
        self, tokens: Int[Array, " rows"], cache: Cache
    ) -> tuple[Float[Array, "rows vocab"], Cache]:
        """Logits after one more token in each row."""
        with scope("decoder"):
            return self.decoder.advance(tokens, cache)
