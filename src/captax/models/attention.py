"""Attention, written once for every family.

Legend: `batch` images, `rows` = batch x beams, `time` token positions, `places` what is attended
to, `width` model width, `heads`, `head` = width of one head.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from captax.models.cache import KeysValues
from captax.models.modules import Dropout, LayerConfig, Linear
from captax.models.observing import record


class Attention(nnx.Module):
    """Multi-head attention whose keys and values may come from elsewhere, or from a cache."""

    def __init__(
        self, config: LayerConfig, *, rngs: nnx.Rngs | None, context_width: int | None = None
    ):
        width, std, bias = config.width, config.std, config.qkv_bias
        self.heads = config.heads
        self.name = "attentions" if context_width is None else "cross_attentions"
        context = context_width or width
        self.query = Linear(width, width, rngs=rngs, std=std, bias=bias)
        self.key = Linear(context, width, rngs=rngs, std=std, bias=bias)
        self.value = Linear(context, width, rngs=rngs, std=std, bias=bias)
        self.out = Linear(width, width, rngs=rngs, std=config.out_std or std)
        self.dropout = Dropout(config.attention_dropout)

    def keys_and_values(self, context: Float[Array, "batch places context_width"]) -> KeysValues:
        """The keys and values of what is attended to."""
        return self._split(self.key(context)), self._split(self.value(context))

    def __call__(
        self,
        x: Float[Array, "rows time width"],
        own: KeysValues,
        mask: Bool[Array, "#batch #queries places"] | None = None,
        shared: KeysValues | None = None,
    ) -> Float[Array, "rows time width"]:
        """Attend from `x` to the keys and values `own`, and to `shared` ones before them.

        `mask` is true where a place of `own` may be seen; `shared` is seen by all. If `x` has
        more rows than the keys and values (beams of one picture), the rows of a picture are joined
        along the time axis, as `queries`, so that no keys and values are repeated.
        """
        batch, heads, _, head = own[0].shape
        query = (self.query(x) * head**-0.5).reshape(batch, -1, heads, head).swapaxes(1, 2)
        scores = self._scores(query, own[0])
        if mask is not None:
            scores = jnp.where(mask[:, None], scores, jnp.finfo(scores.dtype).min)
        count = 0
        if shared is not None:
            count = shared[0].shape[2]
            scores = jnp.concatenate([self._scores(query, shared[0]), scores], axis=-1)
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        weights = self.dropout(record(self.name, weights))
        mixed = jnp.einsum("bhqk,bhkd->bhqd", weights[..., count:], own[1])
        if shared is not None:
            mixed += jnp.einsum("bhqk,bhkd->bhqd", weights[..., :count], shared[1])
        return self.out(mixed.swapaxes(1, 2).reshape(x.shape))

    def _scores(self, query: Array, keys: Array) -> Float[Array, "batch heads queries places"]:
        return jnp.einsum("bhqd,bhkd->bhqk", query, keys, preferred_element_type=jnp.float32)

    def _split(self, x: Array) -> Float[Array, "batch heads places head"]:
        return x.reshape(*x.shape[:2], self.heads, -1).swapaxes(1, 2)
