"""A transformer decoder that writes captions from a grid of visual tokens.

Every layer has self-attention, cross-attention to the picture and an MLP. By default, layers are
pre-norm (https://arxiv.org/abs/2002.04745), and the token embedding is also the output layer.

If the encoder also classifies, its likeliest classes are hints: further places that cross-attention
reads beside the grid. A class has the embeddings of its words (its name, and more common words for
the same), so that the decoder can copy a word which it rarely or never saw in captions.
"""

import dataclasses
import itertools
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from captax.errors import quoted
from captax.models.arithmetic import largest, look_up, project
from captax.models.config import ConfigError, ModelConfig, as_field
from captax.models.decoders import WordDecoder
from captax.models.encoders import Features
from captax.models.modules import (
    AttentionConfig,
    Dropout,
    LayerConfig,
    LayerNorm,
    Linear,
    MlpConfig,
    parameter,
)
from captax.models.observing import record
from captax.models.quantised import Quantised


@dataclasses.dataclass(frozen=True)
class TransformerDecoderConfig(ModelConfig):
    """Shape of the decoder; `grid` and `features_width` describe the encoder that it reads.

    `hints` of the encoder's classes are read beside the grid; `class_words` are the tokens of
    words for each class. `order` is `pre` or `post`, as in `LayerConfig`. Without
    `tie_word_embeddings` the output layer has weights of its own.
    """

    model_type: ClassVar[str] = "captax-transformer"
    strict: ClassVar[bool] = True

    vocab_size: int
    width: int = 384
    layers: int = 3
    heads: int = 6
    mlp_width: int = 1536
    max_positions: int = 64
    dropout: float = 0.0
    features_width: int = 1280
    grid: tuple[int, int] = (9, 9)
    hints: int = 0
    class_words: tuple[tuple[int, ...], ...] = ()
    order: str = "pre"
    tie_word_embeddings: bool = True

    @classmethod
    def read(
        cls, config: Mapping[str, Any], tensors: Collection[str] = ()
    ) -> "TransformerDecoderConfig":
        words = config.get("class_words", ())
        if isinstance(words, list):
            config = {**config, "class_words": tuple(map(as_field, words))}
        described = super().read(config, tensors)
        tokens = set(itertools.chain.from_iterable(described.class_words))
        if (
            described.hints > len(described.class_words)
            or not all(described.class_words)
            or not tokens <= set(range(described.vocab_size))
        ):
            raise ConfigError(
                "captax-transformer: class_words must have one token of the vocabulary or more "
                "for each class, and as many classes as hints, or more"
            )
        if described.order not in ("pre", "post"):
            raise ConfigError(
                f"captax-transformer: order={quoted(described.order)} must be pre or post"
            )
        return described

    def write(self) -> dict[str, Any]:
        said = super().write()
        if not self.hints:
            del said["hints"], said["class_words"]
        for name in ("order", "tie_word_embeddings"):
            if said[name] == type(self).__dataclass_fields__[name].default:
                del said[name]
        return said

    def layer(self) -> LayerConfig:
        """The shape of its layers, which read the picture at the decoder's own width."""
        return LayerConfig(
            self.width,
            AttentionConfig(self.heads),
            MlpConfig(self.mlp_width),
            order="post" if self.order == "post" else "pre",
            context_width=self.width,
            dropout=self.dropout,
        )

    def build(self, *, rngs: nnx.Rngs | None = None) -> "TransformerDecoder":
        return TransformerDecoder(self, rngs=rngs)


class Bridge(nnx.Module):
    """Projects visual tokens to the decoder's width and adds an embedding of their positions.

    The embedding of a position is the sum of a learned row and a learned column embedding.
    """

    def __init__(self, config: TransformerDecoderConfig, *, rngs: nnx.Rngs | None):
        self.norm = LayerNorm(config.features_width, rngs=rngs)
        self.project = Linear(config.features_width, config.width, rngs=rngs)
        self.rows = parameter(rngs, (config.grid[0], config.width), std=0.02)
        self.columns = parameter(rngs, (config.grid[1], config.width), std=0.02)
        self.dropout = Dropout(config.dropout)

    def __call__(self, features: Features) -> Float[Array, "batch patches width"]:
        memory = self.project(self.norm(features.tokens))
        places = (self.rows[...][:, None] + self.columns[...][None]).reshape(-1, memory.shape[-1])
        return self.dropout(memory + jnp.pad(places, ((features.lead, 0), (0, 0))))


def padded_words(
    names: tuple[tuple[int, ...], ...],
) -> Int[np.ndarray, "classes words"]:
    """The tokens of the words for each class in a row, and -1 after them."""
    return np.array([*itertools.zip_longest(*names, fillvalue=-1)], np.int32).T


class Hints(nnx.Module):
    """The encoder's likeliest classes, as places at the decoder's width.

    A class is the mean embedding of its words, normalised and projected, and a direction
    that is scaled by its probability.
    """

    DROPPED = 0.3  # a share that is hidden in training, so that the decoder does not rely on them

    def __init__(self, config: TransformerDecoderConfig, *, rngs: nnx.Rngs | None):
        self.config = config
        self.norm = LayerNorm(config.width, rngs=rngs)
        self.project = Linear(config.width, config.width, rngs=rngs)
        self.certainty = parameter(rngs, (config.width,), std=0.02)
        self.dropout = Dropout(self.DROPPED)

    def __call__(
        self,
        labels: Float[Array, "batch labels"],
        embedding: Float[Array, "vocab width"] | Quantised,
    ) -> Float[Array, "batch hints width"]:
        # The loss of captions does not change what the classes are.
        shares = jax.nn.softmax(jax.lax.stop_gradient(labels).astype(jnp.float32))
        probable, which = largest(shares, self.config.hints)
        tokens = jnp.asarray(padded_words(self.config.class_words))[which]
        known = (tokens >= 0)[..., None]
        named = jnp.where(known, look_up(embedding, jnp.maximum(tokens, 0)), 0)
        hints = self.project(self.norm(named.sum(2) / known.sum(2)))
        hints = hints + probable[..., None].astype(hints.dtype) * self.certainty[...]
        kept = self.dropout(jnp.ones(which.shape, hints.dtype))[..., None] > 0
        return jnp.where(kept, hints, 0)


class TransformerDecoder(WordDecoder):
    """Predicts each next token from the tokens before it and the picture's features."""

    def __init__(self, config: TransformerDecoderConfig, *, rngs: nnx.Rngs | None):
        self.bridge = Bridge(config, rngs=rngs)
        super().__init__(
            config,
            config.vocab_size,
            config.max_positions,
            config.layer(),
            config.layers,
            rngs=rngs,
            dropout=config.dropout,
        )
        # Post-norm layers end with a norm of their own.
        self.norm = LayerNorm(config.width, rngs=rngs) if config.order == "pre" else None
        self.classes = len(config.class_words) if config.hints else 0
        self.hints = nnx.data(Hints(config, rngs=rngs) if config.hints else None)
        self.head = None
        if not config.tie_word_embeddings:
            self.head = nnx.data(Linear(config.width, config.vocab_size, rngs=rngs))

    @property
    def context_width(self) -> None:
        return None  # the bridge projects the encoder's tokens

    def memory(self, features: Features) -> Float[Array, "batch patches width"]:
        memory = self.bridge(features)
        if self.hints is None or features.labels is None:
            return memory
        hints = self.hints(features.labels, self.embedding[...])
        return jnp.concatenate([memory, hints.astype(memory.dtype)], axis=1)

    def logits(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows vocab"]:
        x = record("hidden_states", x if self.norm is None else self.norm(x))
        return project(x, self.embedding[...]) if self.head is None else self.head(x)
