"""What text decoders promise, and the loops over layers that all of them share.

Legend: `batch` images, `rows` = batch x beams, `time` token positions, `patches` visual tokens.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Bool, Float, Int

from captax.errors import CaptaxError
from captax.models.encoders import Features
from captax.models.layers import (
    ACTIVATIONS,
    KeysValues,
    Layer,
    LayerNorm,
    Linear,
    Past,
    activation_dtype,
    parameter,
    project,
    run_layer,
)
from captax.models.record import record

# A number or, in programs for any number, a symbol of JAX for it.
Size = int | Any


@struct.dataclass
class Cache:
    """What decoding one more token needs of the tokens before, layer by layer.

    `past`, of self-attention: [batch heads places head], where each of `capacity` places, of which
    `length` are filled, holds one of every beam of the picture. `context`, of the picture:
    [batch heads patches head], one a picture, however many beams share it. `mask` is true where
    the context may be seen.

    Beams that branch do not copy their pasts: what each wrote stays where it is, and `ancestry`
    tells for every beam and place which beam wrote what it continues.
    """

    past: tuple[Past, ...]
    context: tuple[KeysValues, ...] | None
    mask: Bool[Array, "batch 1 patches"] | None
    length: Int[Array, ""]
    ancestry: Int[Array, "batch beams capacity"]

    def reorder(self, rows: Int[Array, " rows"]) -> "Cache":
        """The cache in which row `i` continues what row `rows[i]`, of the same picture, was."""
        flat = self.ancestry.reshape(len(rows), -1)
        return dataclasses.replace(self, ancestry=flat[rows].reshape(self.ancestry.shape))

    def repeat(self, times: int) -> "Cache":
        """The cache with every row there `times`, side by side; pictures are still shared.

        Only rows that have not been repeated yet can be.
        """
        past = jax.tree.map(lambda array: jnp.repeat(array, times, axis=2), self.past)
        batch, _, capacity = self.ancestry.shape
        ancestry = jnp.broadcast_to(jnp.arange(times)[:, None], (batch, times, capacity))
        return dataclasses.replace(self, past=past, ancestry=ancestry)

    def visible(self, time: Size) -> Bool[Array, "#batch queries places"]:
        """Which places of the past the next `time` tokens see: those before them, and their own."""
        batch, beams, capacity = self.ancestry.shape
        positions = self.length + jnp.arange(time)
        before = jnp.arange(capacity) <= positions[:, None]  # [time capacity]
        if beams == 1:
            return before[None]
        beam = jnp.arange(beams)
        # Each beam's new tokens are its own, whatever stood in their places before.
        filled = (jnp.arange(capacity) < self.length)[:, None]
        own = (self.ancestry[..., None] == beam) & filled
        new = (beam == beam[:, None, None]) & ~filled
        mask = (own | new)[:, :, None] & before[..., None]  # [batch beams time capacity beams]
        return mask.reshape(batch, beams * time, capacity * beams)

    def extended(self, past: tuple[Past, ...], time: Size) -> "Cache":
        """The cache after `time` more tokens a row."""
        places = jnp.arange(self.ancestry.shape[2])
        written = (places >= self.length) & (places < self.length + time)
        own = jnp.arange(self.ancestry.shape[1])[:, None]
        ancestry = jnp.where(written, own, self.ancestry)
        return dataclasses.replace(self, past=past, ancestry=ancestry, length=self.length + time)


class LengthError(CaptaxError):
    """A caption is to be longer than its decoder can read."""


class LanguageHead(nnx.Module):
    """BERT's output layer: one more layer and norm, then the word embedding again and a bias.

    Unless `tied`, a matrix of its own is in the embedding's place.
    """

    def __init__(
        self,
        width: int,
        vocab: int,
        *,
        rngs: nnx.Rngs | None,
        activation: str = "gelu",
        epsilon: float = 1e-12,
        std: float = 0.02,
        tied: bool = True,
    ):
        self.dense = Linear(width, width, rngs=rngs, std=std)
        self.norm = LayerNorm(width, rngs=rngs, epsilon=epsilon)
        self.kernel = None if tied else parameter(rngs, (vocab, width), std=std)
        self.bias = parameter(rngs, (vocab,))
        self.activation = activation

    def __call__(
        self, x: Float[Array, "*rows width"], embedding: Float[Array, "vocab width"]
    ) -> Float[Array, "*rows vocab"]:
        """Scores of every token."""
        x = self.norm(ACTIVATIONS[self.activation](self.dense(x)))
        kernel = embedding if self.kernel is None else self.kernel[...]
        return project(x, kernel) + self.bias[...]


class TextDecoder(nnx.Module):
    """Predicts each next token from the tokens before it and, where there is one, a picture.

    A family gives `layers`, `max_positions`, `embed` and `logits`; if its tokens see the picture
    otherwise than by cross-attention to `Features.tokens`, `memory` or `context` too.
    """

    config: Any
    layers: nnx.List[Layer]

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
        """What the first layer reads."""
        raise NotImplementedError

    def logits(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows vocab"]:
        """Scores of every next token, from what the last layer gave."""
        raise NotImplementedError

    def memory(self, features: Features) -> Float[Array, "batch patches width"]:
        """What cross-attention reads."""
        return features.tokens

    def context(self, features: Features) -> tuple[KeysValues, ...]:
        """What each layer looks at of a picture, computed once."""
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
        contexts, context_mask = self._look(features)
        x = self.embed(tokens, jnp.arange(time)[None] if positions is None else positions)
        for i, layer in enumerate(self.layers):
            record("hidden_states", x)

            def forward(x: Array, context: KeysValues | None, layer: Layer = layer) -> Array:
                return layer(x, mask, context=context, context_mask=context_mask)[0]

            x = run_layer(forward, x, contexts[i] if contexts else None)
        return self.logits(x)

    def begin(
        self, features: Features | None, prompt: Int[Array, "batch time"], capacity: int
    ) -> tuple[Float[Array, "batch vocab"], Cache]:
        """Logits after the prompt, and a cache with room for `capacity` tokens in all.

        Raises `LengthError` when that is more than the decoder can read.
        """
        if capacity > self.max_positions:
            raise LengthError(
                f"the decoder has {self.max_positions} positions and {capacity} are needed; give a "
                "lower max_new_tokens or a shorter prompt"
            )
        contexts, context_mask = self._look(features)
        attention = self.layers[0].self_attention
        kernel = attention.key.kernel[...]
        heads = attention.heads
        shape = (prompt.shape[0], heads, capacity, len(kernel) // heads)
        empty = jnp.zeros(shape, activation_dtype(kernel.dtype))
        cache = Cache(
            past=tuple((empty, empty) for _ in self.layers),
            context=contexts,
            mask=context_mask,
            length=jnp.zeros((), jnp.int32),
            ancestry=jnp.zeros((prompt.shape[0], 1, capacity), jnp.int32),
        )
        return self._extend(prompt, cache)

    def advance(
        self, tokens: Int[Array, " rows"], cache: Cache
    ) -> tuple[Float[Array, "rows vocab"], Cache]:
        """Logits after one more token a row."""
        return self._extend(tokens[:, None], cache)

    def _extend(self, tokens: Array, cache: Cache) -> tuple[Array, Cache]:
        time = tokens.shape[1]
        mask = cache.visible(time)
        x = self.embed(tokens, cache.length + jnp.arange(time)[None])
        past = []
        for i, layer in enumerate(self.layers):
            context = cache.context[i] if cache.context else None
            before = (cache.past[i], cache.length)
            x, seen = layer(x, mask, context=context, context_mask=cache.mask, past=before)
            past.append(seen)
        return self.logits(x[:, -1]), cache.extended(tuple(past), time)

    def _look(
        self, features: Features | None
    ) -> tuple[tuple[KeysValues, ...] | None, Array | None]:
        if features is None:
            return None, None
        mask = None if features.mask is None else features.mask[:, None]
        return self.context(features), mask
