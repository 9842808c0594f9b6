"""What text decoders promise, and the loops over layers that all of them share.

Legend: `batch` images, `rows` = batch x beams, `time` token positions, `patches` visual tokens.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from captax.models.arithmetic import ACTIVATIONS, activation_dtype, look_up, project
from captax.models.cache import Cache, KeysValues
from captax.models.encoders import Features, LengthError
from captax.models.layers import Layer, run_layer
from captax.models.modules import Dropout, LayerConfig, LayerNorm, Linear, parameter
from captax.models.observing import record
from captax.models.rotary import Rotary, Turns
from captax.models.shapes import BertLikeConfig


class LanguageHead(nnx.Module):
    """BERT's output layer: one more layer and norm, then the word embedding again and a bias.

    Unless `tied`, it has its own matrix in the place of the embedding.
    """

    def __init__(self, config: BertLikeConfig, *, rngs: nnx.Rngs | None, tied: bool = True):
        width, std = config.hidden_size, config.initializer_range
        self.dense = Linear(width, width, rngs=rngs, std=std)
        self.norm = LayerNorm(width, rngs=rngs, epsilon=config.layer_norm_eps)
        self.kernel = None if tied else parameter(rngs, (config.vocab_size, width), std=std)
        self.bias = parameter(rngs, (config.vocab_size,))
        self.activation = config.hidden_act

    def __call__(
        self, x: Float[Array, "*rows width"], embedding: Float[Array, "vocab width"]
    ) -> Float[Array, "*rows vocab"]:
        """Logits of every token."""
        x = self.norm(ACTIVATIONS[self.activation](self.dense(x)))
        kernel = embedding if self.kernel is None else self.kernel[...]
        return project(x, kernel) + self.bias[...]


class TextDecoder(nnx.Module):
    """Predicts each next token from the tokens before it and, where there is one, a picture.

    A family gives `layers`, `max_positions`, `embed` and `logits`. It also gives `memory` or
    `context` if its tokens do not see the picture by cross-attention to `Features.tokens`.
    """

    config: Any
    layers: nnx.List[Layer]
    # How many classes the encoder must tell apart, if the decoder takes them as hints.
    classes: int = 0

    @property
    def max_positions(self) -> int:
        """How many tokens the decoder can read."""
        raise NotImplementedError

    @property
    def context_width(self) -> int | None:
        """Width of the features it must be given; None when it takes what it was built for."""
        cross = self.layers[0].cross_attention
        return None if cross is None else cross.key.kernel.shape[1]

    def embed(
        self, tokens: Int[Array, "rows time"], positions: Int[Array, "#rows time"]
    ) -> Float[Array, "rows time width"]:
        """The input of the first layer."""
        raise NotImplementedError

    def logits(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows vocab"]:
        """Logits of every next token, from the output of the last layer."""
        raise NotImplementedError

    def memory(self, features: Features) -> Float[Array, "batch patches width"]:
        """What cross-attention reads."""
        return features.tokens

    def context(self, features: Features) -> tuple[KeysValues, ...]:
        """The keys and values of a picture that each layer attends to, computed once."""
        memory = self.memory(features)
        return tuple(
            layer.cross_attention.keys_and_values(memory)
            for layer in self.layers
            if layer.cross_attention is not None
        )

    def __call__(
        self,
        features: Features | None,
        tokens: Int[Array, "batch time"],
        positions: Int[Array, "#batch time"] | None = None,
        segments: Int[Array, "batch time"] | None = None,
    ) -> Float[Array, "batch time vocab"]:
        """Logits after every token, all at once.

        Several captions of one picture may lie in one row, told apart by `segments`: a token sees
        those before it in its own segment, and `positions` count from each caption's start.
        """
        time = tokens.shape[1]
        mask = jnp.tril(jnp.ones((1, time, time), bool))
        if segments is not None:
            mask = mask & (segments[:, :, None] == segments[:, None, :])
        if positions is None:
            positions = jnp.arange(time)[None]
        contexts, context_mask = self._look(features)
        turns = self._turns(positions)
        x = self.embed(tokens, positions)
        for i, layer in enumerate(self.layers):
            record("hidden_states", x)
            seen = mask
            if layer.window is not None:
                seen = mask & (positions[:, :, None] - positions[:, None] < layer.window)

            def forward(
                x: Array, context: KeysValues | None, layer: Layer = layer, seen: Array = seen
            ) -> Array:
                return layer(
                    x,
                    seen,
                    context=context,
                    context_mask=context_mask,
                    turns=turns.get(layer.rotary),
                )[0]

            x = run_layer(forward, x, contexts[i] if contexts else None)
        return self.logits(x)

    def begin(
        self,
        features: Features | None,
        prompt: Int[Array, "batch time"],
        capacity: int,
        length: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "batch vocab"], Cache]:
        """Logits after the prompt, and a cache with room for `capacity` tokens in all.

        With a `length`, only so many tokens of the prompt count; the rest is padding.
        Raises `LengthError` when that is more than the decoder can read.
        """
        if capacity > self.max_positions:
            raise LengthError(
                f"the decoder has {self.max_positions} positions and {capacity} are needed; use a "
                "lower `max_new_tokens` or a shorter prompt"
            )
        contexts, context_mask = self._look(features)
        attention = self.layers[0].self_attention
        kernel = attention.key.kernel[...]
        heads = attention.kv_heads
        shape = (prompt.shape[0], heads, capacity, len(kernel) // heads)
        empty = jnp.zeros(shape, activation_dtype(kernel.dtype))
        cache = Cache(
            past=tuple((empty, empty) for _ in self.layers),
            context=contexts,
            mask=context_mask,
            length=jnp.zeros((), jnp.int32),
            ancestry=jnp.zeros((prompt.shape[0], 1, capacity), jnp.int32),
        )
        return self._extend(prompt, cache, length)

    def advance(
        self, tokens: Int[Array, " rows"], cache: Cache
    ) -> tuple[Float[Array, "rows vocab"], Cache]:
        """Logits after one more token in each row."""
        return self._extend(tokens[:, None], cache)

    def _extend(
        self, tokens: Array, cache: Cache, length: Array | None = None
    ) -> tuple[Array, Cache]:
        time = tokens.shape[1]
        windows = {layer.window for layer in self.layers}
        masks = {window: cache.visible(time, window) for window in windows}
        positions = cache.length + jnp.arange(time)[None]
        turns = self._turns(positions)
        x = self.embed(tokens, positions)
        past = []
        for i, layer in enumerate(self.layers):
            context = cache.context[i] if cache.context else None
            before = (cache.past[i], cache.length)
            x, seen = layer(
                x,
                masks[layer.window],
                context=context,
                context_mask=cache.mask,
                past=before,
                turns=turns.get(layer.rotary),
            )
            past.append(seen)
        if length is None:
            return self.logits(x[:, -1]), cache.extended(tuple(past), time)
        last = jax.lax.dynamic_index_in_dim(x, length - 1, axis=1, keepdims=False)
        # The next tokens take the places of the padding, which no token has seen.
        return self.logits(last), cache.extended(tuple(past), length)

    def _turns(self, positions: Int[Array, "#rows time"]) -> dict[Rotary | None, Turns]:
        """Cosines and sines of these positions, once for all layers with the same angles."""
        kinds = {layer.rotary for layer in self.layers} - {None}
        return {kind: kind.turns(positions) for kind in kinds if kind is not None}

    def _look(
        self, features: Features | None
    ) -> tuple[tuple[KeysValues, ...] | None, Array | None]:
        if features is None:
            return None, None
        mask = None if features.mask is None else features.mask[:, None]
        return self.context(features), mask


class WordDecoder(TextDecoder):
    """A decoder that reads the sum of word and position embeddings."""

    def __init__(
        self,
        config: Any,
        vocab: int,
        positions: int,
        layer: LayerConfig,
        depth: int,
        *,
        rngs: nnx.Rngs | None,
        dropout: float,
        std: float = 0.02,
    ):
        self.config = config
        self.embedding = parameter(rngs, (vocab, layer.width), std=std)
        self.positions = parameter(rngs, (positions, layer.width), std=std)
        self.dropout = Dropout(dropout)
        self.layers = nnx.List([Layer(layer, rngs=rngs) for _ in range(depth)])

    @property
    def max_positions(self) -> int:
        return self.positions.shape[0]

    def embed(
        self, tokens: Int[Array, "rows time"], positions: Int[Array, "#rows time"]
    ) -> Float[Array, "rows time width"]:
        x = look_up(self.embedding[...], tokens) + self.positions[...][positions]
        return self.dropout(self.normed(x))

    def normed(self, x: Float[Array, "rows time width"]) -> Float[Array, "rows time width"]:
        """The sum, normalised if the family does so."""
        return x


class BertLikeDecoder(WordDecoder):
    """A decoder of words and positions with BERT's fields."""

    def __init__(self, config: BertLikeConfig, *, rngs: nnx.Rngs | None):
        super().__init__(
            config,
            config.vocab_size,
            config.max_position_embeddings,
            config.layer(),
            config.num_hidden_layers,
            rngs=rngs,
            dropout=config.hidden_dropout_prob,
            std=config.initializer_range,
        )
