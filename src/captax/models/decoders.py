"""What text decoders promise, and the loops over layers that all of them share.

Legend: `batch` images, `rows` = batch x beams, `time` token positions, `patches` visual tokens.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from captax.models.arithmetic import ACTIVATIONS, activation_dtype, look_up, project
from captax.models.cache import Cache, KeysValues, Past, Prefix, Span
from captax.models.encoders import Features, check_positions
from captax.models.layers import Layer, run_layer
from captax.models.modules import Dropout, LayerConfig, LayerNorm, Linear, parameter
from captax.models.observing import record, scope
from captax.models.prompt import Prompt, splice, spread
from captax.models.quantised import Quantised
from captax.models.rotary import Positions, Rotary, Turns
from captax.models.shapes import BertLikeConfig

# All of a prompt sees all of it, or each picture in it sees all of itself.
Together = Literal["nothing", "pictures", "prompt"]


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
        self, x: Float[Array, "*rows width"], embedding: Float[Array, "vocab width"] | Quantised
    ) -> Float[Array, "*rows vocab"]:
        """Logits of every token."""
        x = self.norm(ACTIVATIONS[self.activation](self.dense(x)))
        kernel = embedding if self.kernel is None else self.kernel[...]
        return project(x, kernel) + self.bias[...]


class TextDecoder(nnx.Module):
    """Predicts each next token from the tokens before it and, where there is one, a picture.

    A family gives `layers`, `max_positions`, `embed` and `logits`. Its tokens see the picture by
    cross-attention to `memory`, if the layers have it. A family that reads the picture as part of
    its text gives `front`, for places before all tokens.
    """

    config: Any
    layers: nnx.List[Layer]
    # How many classes the encoder must tell apart, if the decoder takes them as hints.
    classes: int = 0
    # What sees each other in a prompt, besides what is before it.
    together: Together = "nothing"

    @property
    def max_positions(self) -> int:
        """How many tokens the decoder can read."""
        return self.config.max_position_embeddings

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

    def front(self, features: Features) -> Float[Array, "batch places width"] | None:
        """Places of the picture before all tokens, which see each other and no token."""
        return None

    def __call__(
        self,
        features: Features | None,
        tokens: Int[Array, "batch time"],
        positions: Int[Array, "#batch time"] | None = None,
        segments: Int[Array, "batch time"] | None = None,
        prompt: Prompt | None = None,
    ) -> Float[Array, "batch time vocab"]:
        """Logits after every token, all at once.

        Several captions of one picture may lie in one row, told apart by `segments`: a token sees
        those before it in its own segment, and `positions` count from each caption's start.

        With a `prompt`, which is read once, every caption of the row follows it. The first token of
        a caption, at position 0, then stands for the prompt: whichever it is, the logits after it
        are those after the prompt, and no other token sees it.
        """
        mask = _causal(tokens.shape[1])
        if segments is not None:
            mask = mask & (segments[:, :, None] == segments[:, None, :])
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None]
        begins = positions == 0
        prefix, last = self._read_first(features, prompt)
        if last is not None:
            mask = mask & ~begins[:, None]
            positions = prefix.next_position[:, None] - 1 + positions
        x, _ = self._run(self.embed(tokens, positions), mask, positions, prefix)
        if last is not None:
            x = jnp.where(begins[..., None], last[:, None], x)
        return self.logits(x)

    def predict(
        self, features: Features | None, prompt: Prompt, tokens: Int[Array, "batch time"]
    ) -> Float[Array, "batch time vocab"]:
        """Logits that predict each of `tokens`, from the prompt and the tokens before it."""
        return self(features, jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1], prompt=prompt)

    def begin(
        self,
        features: Features | None,
        prompt: Prompt | Int[Array, "batch time"],
        new_tokens: int,
        beams: int = 1,
    ) -> tuple[Float[Array, "batch vocab"], Cache]:
        """Logits after the prompts, and a cache for `beams` texts after each of them.

        There is room for `new_tokens` tokens in every text. Raises `LengthError` when these and
        prompts of one length are more than the decoder can read.
        """
        given = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
        batch, time = given.tokens.shape
        if given.lengths is None:
            check_positions(time + new_tokens, self.max_positions)
        prefix, logits = self.prefill(features, given)
        assert logits is not None  # since there is a prompt
        attention = self.layers[0].self_attention
        kernel = attention.key.kernel[...]
        heads = attention.kv_heads
        shape = (batch, heads, new_tokens * beams, kernel.shape[0] // heads)
        empty = jnp.zeros(shape, activation_dtype(kernel.dtype))
        past: tuple[Past, ...] = tuple((empty, empty) for _ in self.layers)
        own = jnp.arange(beams)[:, None]
        length = 0
        if prefix.places is not None and prefix.places[0][0].shape[2] == 1:
            # A place in the past costs less than a span of its own.
            length, new_tokens = 1, new_tokens + 1
            past = jax.tree.map(
                lambda one, room: jnp.concatenate([jnp.repeat(one, beams, axis=2), room], axis=2),
                prefix.places,
                past,
            )
            prefix = dataclasses.replace(prefix, places=None, next_position=jnp.zeros(1, jnp.int32))
        ancestry = jnp.broadcast_to(own, (batch, beams, new_tokens))
        return logits, Cache(prefix, past, jnp.asarray(length, jnp.int32), ancestry)

    def advance(
        self, tokens: Int[Array, " rows"], cache: Cache
    ) -> tuple[Float[Array, "rows vocab"], Cache]:
        """Logits after one more token in each row."""
        positions = cache.positions
        windows = {layer.window for layer in self.layers}
        masks = {window: cache.visible(window) for window in windows}
        # All beams of a picture are at the same position.
        beams = cache.ancestry.shape[1]
        alike = beams == 1 or len(positions) == 1
        of_rows = positions if alike else jnp.repeat(positions, beams, axis=0)
        turns = self._turns(of_rows)
        x = self.embed(tokens[:, None], of_rows)
        past = []
        for i, layer in enumerate(self.layers):
            x, seen = layer(
                x,
                masks[layer.window],
                before=cache.prefix.before(i, positions, layer.window),
                memory=cache.prefix.remembered(i),
                past=(cache.past[i], cache.length),
                turns=turns.get(layer.rotary),
            )
            past.append(seen)
        return self.logits(x[:, 0]), cache.extended(tuple(past))

    def prefill(
        self, features: Features | None, prompt: Prompt | None = None
    ) -> tuple[Prefix, Float[Array, "batch vocab"] | None]:
        """Read the picture and the prompts, once; with them come the logits after the prompts.

        Hidden states and attentions are recorded under `prefix.`.
        """
        prefix, last = self._read_first(features, prompt)
        if last is None:
            return prefix, None
        with scope("prefix"):
            return prefix, self.logits(last)

    def _read_first(
        self, features: Features | None, prompt: Prompt | None
    ) -> tuple[Prefix, Float[Array, "batch width"] | None]:
        """The picture and the prompts, and the last layer's output at the end of each prompt."""
        memory, memory_mask, front = None, None, None
        if features is not None:
            front = self.front(features)
            crosses = [layer.cross_attention for layer in self.layers]
            if any(crosses):
                read = self.memory(features)
                memory = tuple(cross.keys_and_values(read) for cross in crosses if cross)
                memory_mask = None if features.mask is None else features.mask[:, None]
        prefix = Prefix(memory, memory_mask)
        if prompt is None and front is None:
            return prefix, None
        time = 0 if prompt is None else prompt.tokens.shape[1]
        positions, mask, count = jnp.arange(time)[None], _causal(time), 0
        parts, together, added = [], None, []
        if prompt is not None:
            x = self.embed(prompt.tokens, positions)
            if prompt.pictures is not None and features is not None:
                x = splice(x, features.tokens, prompt.pictures)
                if features.deep is not None:
                    levels = jnp.moveaxis(features.deep.astype(x.dtype), 1, 0)
                    added = [spread(level, prompt.pictures) for level in levels]
            parts = [x]
            together = self._together(prompt)
        if front is not None:
            count = front.shape[1]
            parts = [front, *parts]
            # The picture's places see each other, and tokens see them all.
            seen = jnp.arange(count + time) < count
            mask = jnp.pad(mask, ((0, 0), (count, 0), (count, 0))) | seen
            positions = jnp.pad(positions, ((0, 0), (count, 0)))
        x = jnp.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        with scope("prefix"):
            axes = None if prompt is None else prompt.positions
            seen_by = mask if time else None
            x, places = self._run(x, seen_by, positions, prefix, together, axes, added)
            record("hidden_states", x)
        prefix = dataclasses.replace(prefix, places=tuple(places), positions=positions)
        if prompt is None:
            return prefix, None
        if prompt.lengths is None:
            ends, last = jnp.full(1, time), x[:, -1]
        else:
            ends = jnp.asarray(prompt.lengths)
            last = x[jnp.arange(len(ends)), count + ends - 1]
            if time > 1:
                real = jnp.arange(count + time) < count + ends[:, None]
                prefix = dataclasses.replace(prefix, real=real)
        return dataclasses.replace(prefix, next_position=jnp.asarray(prompt.next_position)), last

    def _together(self, prompt: Prompt) -> Bool[Array, "#batch #time time"] | None:
        """True where a token of a prompt may see another, wherever that is."""
        time = prompt.tokens.shape[1]
        if self.together == "prompt":
            ends = time if prompt.lengths is None else prompt.lengths[:, None, None]
            return jnp.arange(time)[None, None] < ends
        if self.together == "pictures" and prompt.pictures is not None:
            # Each run of places is one picture.
            first = prompt.pictures & ~jnp.pad(prompt.pictures, ((0, 0), (1, 0)))[:, :-1]
            which = jnp.where(prompt.pictures, jnp.cumsum(first, axis=1), 0)
            return (which[:, :, None] == which[:, None]) & prompt.pictures[:, None]
        return None

    def _run(
        self,
        x: Array,
        mask: Array | None,
        positions: Array,
        prefix: Prefix,
        together: Array | None = None,
        axes: Array | None = None,
        added: Sequence[Array] = (),
    ) -> tuple[Array, list[KeysValues]]:
        """Run all layers on tokens after a prefix: their output, and their keys and values.

        Tokens see what `mask` says within the layer's window, and at any distance what is
        `together`. They are turned to their positions on several `axes`, if there are any. What is
        `added` joins the outputs of the first layers.
        """
        turns = self._turns(positions if axes is None else axes)
        found = []
        for i, layer in enumerate(self.layers):
            record("hidden_states", x)
            seen = mask
            if layer.window is not None and mask is not None:
                seen = mask & (positions[:, :, None] - positions[:, None] < layer.window)
            if seen is not None and together is not None:
                seen = seen | together

            def forward(
                x: Array,
                before: Span | None,
                memory: Span | None,
                layer: Layer = layer,
                seen: Array | None = seen,
            ) -> tuple[Array, KeysValues]:
                turned = turns.get(layer.rotary)
                return layer(x, seen, before=before, memory=memory, turns=turned)

            before = prefix.before(i, positions, layer.window)
            x, own = run_layer(forward, x, before, prefix.remembered(i))
            found.append(own)
            if i < len(added):
                x = x + added[i]
        return x, found

    def _turns(self, positions: Positions) -> dict[Rotary | None, Turns]:
        """Cosines and sines of these positions, once for all layers with the same angles."""
        kinds = {layer.rotary for layer in self.layers} - {None}
        return {kind: kind.turns(positions) for kind in kinds if kind is not None}


def _causal(time: Any) -> Bool[Array, "1 time time"]:
    """True where a token (second axis) may see another: those before it, and itself."""
    places = jnp.arange(time)
    return (places[:, None] >= places)[None]


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
