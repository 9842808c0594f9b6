"""Attention, written once for every family.

Legend: `batch` images, `rows` = batch x beams, `time` token positions, `places` what is attended
to, `width` model width, `heads`, `kv_heads` heads of keys and values, `head` = width of one head.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from captax.models.arithmetic import softcapped
from captax.models.cache import KeysValues, Span
from captax.models.modules import Dropout, LayerConfig, Linear
from captax.models.observing import observing, record
from captax.models.rotary import Turns, turn
from captax.models.tracing import modes

# Scores of one head: those of all heads fit no processor's cache, while those of one may.
LARGE = 512 * 512
# Scores of all heads, which take 4 GB: no device should hold so many at once.
MOST = 1 << 30
# Scores of one head, which take 256 MB: of more, some queries' are computed at once.
BLOCK = 1 << 26


class Attention(nnx.Module):
    """Multi-head attention to keys and values that may come from elsewhere, or from a cache."""

    def __init__(
        self, config: LayerConfig, *, rngs: nnx.Rngs | None, context_width: int | None = None
    ):
        width, std, shape = config.width, config.std, config.attention
        self.heads, self.kv_heads = shape.heads, shape.kv_heads or shape.heads
        head = shape.head_dim or width // shape.heads
        self.scale = head**-0.5 if shape.scale is None else shape.scale
        self.softcap = shape.softcap
        self.name = "attentions" if context_width is None else "cross_attentions"
        context, inner, narrow = context_width or width, self.heads * head, self.kv_heads * head
        self.query = Linear(width, inner, rngs=rngs, std=std, bias=shape.bias)
        self.key = Linear(context, narrow, rngs=rngs, std=std, bias=shape.bias)
        self.value = Linear(context, narrow, rngs=rngs, std=std, bias=shape.bias)
        self.out = Linear(inner, width, rngs=rngs, std=config.out_std or std, bias=shape.out_bias)
        norm = shape.norm
        self.query_norm = None if norm is None else norm.build(head, rngs=rngs)
        self.key_norm = None if norm is None else norm.build(head, rngs=rngs)
        self.dropout = Dropout(shape.dropout)

    def keys_and_values(
        self, context: Float[Array, "batch places context_width"], turns: Turns | None = None
    ) -> KeysValues:
        """The keys and values of what is attended to; keys are turned to their positions."""
        keys = self._split(self.key(context), self.kv_heads)
        if self.key_norm is not None:
            keys = self.key_norm(keys)
        if turns is not None:
            keys = turn(keys, turns)
        return keys.swapaxes(1, 2), self._split(self.value(context), self.kv_heads).swapaxes(1, 2)

    def __call__(
        self,
        x: Float[Array, "rows time width"],
        spans: Sequence[Span],
        turns: Turns | None = None,
    ) -> Float[Array, "rows time width"]:
        """Attend from `x` to the places of all `spans`, under one softmax.

        Queries are turned to their positions by `turns`. If `x` has more rows than the spans (beams
        of one picture), the rows of a picture are joined along the time axis, as `queries`, so
        that no keys and values are repeated.
        """
        batch, _, _, head = spans[0].keys.shape
        query = self._split(self.query(x), self.heads)
        if self.query_norm is not None:
            query = self.query_norm(query)
        query = query * self.scale
        if turns is not None:
            query = turn(query, turns)
        query = query.reshape(batch, -1, self.heads, head).swapaxes(1, 2)
        if self._is_large(query, spans):
            mixed = _by_heads(query, spans[0])
            return self.out(mixed.swapaxes(1, 2).reshape(*x.shape[:2], -1))
        scores = [self._scores(query, span) for span in spans]
        together = jnp.concatenate(scores, axis=-1) if len(scores) > 1 else scores[0]
        weights = jax.nn.softmax(together, axis=-1).astype(x.dtype)
        weights = self.dropout(record(self.name, weights))
        first, last = 0, spans[0].keys.shape[2]
        mixed = self._mixed(weights[..., :last], spans[0])
        for span in spans[1:]:
            first, last = last, last + span.keys.shape[2]
            mixed += self._mixed(weights[..., first:last], span)
        return self.out(mixed.swapaxes(1, 2).reshape(*x.shape[:2], -1))

    def _is_large(self, query: Array, spans: Sequence[Span]) -> bool:
        """Whether the scores of all heads are too many to be computed at once.

        On a CPU they would go through memory again and again; elsewhere they may find no room. Only
        plain attention to one span is asked for, of which nothing is recorded or dropped.
        """
        if modes().portable or observing() or len(spans) != 1 or self.softcap is not None:
            return False
        if self.kv_heads != self.heads or self.dropout.key is not None:
            return False
        batch, heads, queries, _ = query.shape
        scores = queries * spans[0].keys.shape[2]
        return scores >= LARGE if jax.default_backend() == "cpu" else batch * heads * scores > MOST

    def _scores(self, query: Array, span: Span) -> Float[Array, "batch heads queries places"]:
        # The queries of a group of heads follow each other, so that its keys are never repeated.
        grouped = query.reshape(query.shape[0], self.kv_heads, -1, query.shape[-1])
        scores = jnp.einsum(
            "bhqd,bhkd->bhqk", grouped, span.keys, preferred_element_type=jnp.float32
        )
        scores = softcapped(scores, self.softcap).reshape(*query.shape[:3], -1)
        if span.mask is None:
            return scores
        return jnp.where(span.mask[:, None], scores, jnp.finfo(scores.dtype).min)

    def _mixed(self, weights: Array, span: Span) -> Float[Array, "batch heads queries head"]:
        batch, _, queries, places = weights.shape
        grouped = weights.reshape(batch, self.kv_heads, -1, places)
        mixed = jnp.einsum("bhqk,bhkd->bhqd", grouped, span.values)
        return mixed.reshape(batch, self.heads, queries, -1)

    def _split(self, x: Array, heads: int) -> Float[Array, "batch places heads head"]:
        return x.reshape(*x.shape[:2], heads, -1)


def _by_heads(
    query: Float[Array, "batch heads queries head"], span: Span
) -> Float[Array, "batch heads queries head"]:
    """What attention to one span mixes, computed head by head, and in blocks of queries."""
    batch, heads = query.shape[:2]
    mask = span.mask

    def one(parts: tuple[Array, Array, Array, Array]) -> Array:
        query, keys, values, row = parts
        seen = None if mask is None else mask[jnp.minimum(row, len(mask) - 1)]
        queries, places = len(query), len(keys)
        blocks = -(-queries * places // BLOCK)
        if blocks == 1:
            return mixed(query, keys, values, seen)
        size = -(-queries // blocks)
        filled = ((0, blocks * size - queries), (0, 0))
        query = jnp.pad(query, filled).reshape(blocks, size, -1)
        if seen is None or len(seen) == 1:
            found = jax.lax.map(lambda query: mixed(query, keys, values, seen), query)
        else:
            masks = jnp.pad(seen, filled).reshape(blocks, size, -1)
            found = jax.lax.map(lambda each: mixed(each[0], keys, values, each[1]), (query, masks))
        return found.reshape(blocks * size, -1)[:queries]

    def mixed(query: Array, keys: Array, values: Array, seen: Array | None) -> Array:
        scores = jnp.einsum("qd,kd->qk", query, keys, preferred_element_type=jnp.float32)
        if seen is not None:
            scores = jnp.where(seen, scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
        return jnp.einsum("qk,kd->qd", weights, values)

    query, keys, values = (
        each.reshape(-1, *each.shape[2:]) for each in (query, span.keys, span.values)
    )
    rows = jnp.repeat(jnp.arange(batch), heads)
    found = jax.lax.map(one, (query, keys, values, rows))
    return found.reshape(batch, heads, *found.shape[1:])
