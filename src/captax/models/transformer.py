"""A transformer decoder that writes captions from a grid of visual tokens.

Pre-norm (https://arxiv.org/abs/2002.04745): self-attention, cross-attention to the picture and an
MLP in every layer; the token embedding is also the output layer.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from captax.models.layers import (
    Attention,
    Cache,
    Dropout,
    Features,
    KeysValues,
    LayerNorm,
    LengthError,
    Linear,
    Mlp,
    TextDecoder,
    parameter,
    write_cache,
)


@dataclasses.dataclass(frozen=True)
class TransformerDecoderConfig:
    """Shape of the decoder; `grid` and `features_width` are those of the encoder it reads."""

    vocab_size: int
    width: int = 384
    layers: int = 3
    heads: int = 6
    mlp_width: int = 1536
    max_positions: int = 64
    dropout: float = 0.0
    features_width: int = 1280
    grid: tuple[int, int] = (9, 9)


class Bridge(nnx.Module):
    """Bring visual tokens to the decoder's width and tell it where each lies.

    A place has the sum of a learned row and a learned column embedding.
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
        return self.dropout(memory.at[:, features.lead :].add(places))


class DecoderLayer(nnx.Module):
    """Self-attention, cross-attention, MLP; each normalised first and added."""

    def __init__(self, config: TransformerDecoderConfig, *, rngs: nnx.Rngs | None):
        self.self_norm = LayerNorm(config.width, rngs=rngs)
        self.self_attention = Attention(config.width, config.heads, rngs=rngs)
        self.cross_norm = LayerNorm(config.width, rngs=rngs)
        self.cross_attention = Attention(config.width, config.heads, rngs=rngs)
        self.mlp_norm = LayerNorm(config.width, rngs=rngs)
        self.mlp = Mlp(config.width, config.mlp_width, rngs=rngs)
        self.dropout = Dropout(config.dropout)

    def __call__(
        self,
        x: Float[Array, "rows time width"],
        cross: KeysValues,
        mask: Bool[Array, "#rows time places"],
        past: tuple[KeysValues, Int[Array, ""]] | None = None,
    ) -> tuple[Float[Array, "rows time width"], KeysValues]:
        """The layer's output, and the keys and values its self-attention saw.

        With a `past`, cached keys and values and their length, those of `x` are written behind.
        """
        y = self.self_norm(x)
        seen = self.self_attention.keys_and_values(y)
        if past is not None:
            seen = write_cache(past[0], seen, past[1])
        x = x + self.dropout(self.self_attention(y, *seen, mask))
        x = x + self.dropout(self.cross_attention(self.cross_norm(x), *cross))
        return x + self.dropout(self.mlp(self.mlp_norm(x))), seen


class TransformerDecoder(TextDecoder):
    """Predicts each next token from the tokens before it and the picture's features."""

    def __init__(self, config: TransformerDecoderConfig, *, rngs: nnx.Rngs | None):
        self.config = config
        self.bridge = Bridge(config, rngs=rngs)
        self.embedding = parameter(rngs, (config.vocab_size, config.width), std=0.02)
        self.positions = parameter(rngs, (config.max_positions, config.width), std=0.02)
        self.dropout = Dropout(config.dropout)
        self.layers = nnx.List([DecoderLayer(config, rngs=rngs) for _ in range(config.layers)])
        self.norm = LayerNorm(config.width, rngs=rngs)

    def __call__(
        self,
        features: Features,
        tokens: Int[Array, "batch time"],
        positions: Int[Array, "#batch time"] | None = None,
        segments: Int[Array, "batch time"] | None = None,
    ) -> Float[Array, "batch time vocab"]:
        time = tokens.shape[1]
        mask = jnp.tril(jnp.ones((1, time, time), bool))
        if segments is not None:
            mask = mask & (segments[:, :, None] == segments[:, None, :])
        memory = self.bridge(features)
        x = self._embed(tokens, jnp.arange(time)[None] if positions is None else positions)
        for layer in self.layers:
            x, _ = layer(x, layer.cross_attention.keys_and_values(memory), mask)
        return self._logits(x)

    def begin(
        self, features: Features, prompt: Int[Array, "batch time"], capacity: int
    ) -> tuple[Float[Array, "batch vocab"], Cache]:
        config = self.config
        if capacity > config.max_positions:
            raise LengthError(
                f"the decoder has {config.max_positions} positions and {capacity} are needed; "
                "give a lower max_new_tokens"
            )
        memory = self.bridge(features)
        shape = (prompt.shape[0], capacity, config.heads, config.width // config.heads)
        empty = jnp.zeros(shape, memory.dtype)
        cache = Cache(
            past=tuple((empty, empty) for _ in self.layers),
            cross=tuple(layer.cross_attention.keys_and_values(memory) for layer in self.layers),
            length=jnp.zeros((), jnp.int32),
        )
        return self._extend(prompt, cache)

    def advance(
        self, tokens: Int[Array, " rows"], cache: Cache
    ) -> tuple[Float[Array, "rows vocab"], Cache]:
        return self._extend(tokens[:, None], cache)

    def _extend(self, tokens: Array, cache: Cache) -> tuple[Array, Cache]:
        time = tokens.shape[1]
        positions = cache.length + jnp.arange(time)
        capacity = cache.past[0][0].shape[1]
        mask = (jnp.arange(capacity)[None] <= positions[:, None])[None]
        x = self._embed(tokens, positions[None])
        past = []
        for i, layer in enumerate(self.layers):
            x, seen = layer(x, cache.cross[i], mask, (cache.past[i], cache.length))
            past.append(seen)
        cache = dataclasses.replace(cache, past=tuple(past), length=cache.length + time)
        return self._logits(x[:, -1]), cache

    def _embed(self, tokens: Array, positions: Array) -> Array:
        return self.dropout(self.embedding[...][tokens] + self.positions[...][positions])

    def _logits(self, x: Array) -> Array:
        return self.norm(x) @ self.embedding[...].T
