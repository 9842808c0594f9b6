"""A transformer decoder that writes captions from a grid of visual tokens.

It is pre-norm (https://arxiv.org/abs/2002.04745). Every layer has self-attention, cross-attention
to the picture and an MLP. The token embedding is also the output layer.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from captax.models.arithmetic import project
from captax.models.config import ModelConfig
from captax.models.decoders import WordDecoder
from captax.models.encoders import Features
from captax.models.modules import Dropout, LayerConfig, LayerNorm, Linear, parameter
from captax.models.observing import record


@dataclasses.dataclass(frozen=True)
class TransformerDecoderConfig(ModelConfig):
    """Shape of the decoder; `grid` and `features_width` describe the encoder that it reads."""

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

    def layer(self) -> LayerConfig:
        """The shape of its layers, which read the picture at the decoder's own width."""
        return LayerConfig(
            self.width,
            self.heads,
            self.mlp_width,
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
        self.norm = LayerNorm(config.width, rngs=rngs)

    @property
    def context_width(self) -> None:
        return None  # the bridge projects the encoder's tokens

    def memory(self, features: Features) -> Float[Array, "batch patches width"]:
        return self.bridge(features)

    def logits(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows vocab"]:
        return project(record("hidden_states", self.norm(x)), self.embedding[...])
