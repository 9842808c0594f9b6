"""The transformer layer, written once for every family.

Legend: `batch` images, `rows` = batch x beams, `time` token positions, `places` what is attended
to, `width` model width, `heads`, `head` = width of one head.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from captax.models.attention import Attention
from captax.models.cache import KeysValues, Past, Span, write_cache
from captax.models.modules import Dropout, LayerConfig, LayerNorm, Mlp, RmsNorm
from captax.models.observing import record
from captax.models.rotary import Turns
from captax.models.tracing import modes

T = TypeVar("T")
Norm = LayerNorm | RmsNorm


def run_layer(layer: Callable[..., T], *inputs: Any) -> T:
    """`layer(*inputs)`; gradients keep as much of it as `rematerialised` says."""
    if not modes().rematerialised:
        return layer(*inputs)
    return jax.checkpoint(lambda *inputs: layer(*inputs))(*inputs)


class Layer(nnx.Module):
    """One transformer layer: self-attention, cross-attention if it has any, MLP; each is added."""

    def __init__(self, config: LayerConfig, *, rngs: nnx.Rngs | None):
        width, context, norm = config.width, config.context_width, config.norm
        self.order = config.order
        self.rotary, self.window = config.attention.rotary, config.attention.window
        self.self_attention = Attention(config, rngs=rngs)
        self.self_norm = norm.build(width, rngs=rngs)
        crosses = context is not None
        self.cross_attention = (
            Attention(config, rngs=rngs, context_width=context) if crosses else None
        )
        self.cross_norm = norm.build(width, rngs=rngs) if crosses else None
        self.mlp = Mlp(
            width,
            config.mlp,
            rngs=rngs,
            std=config.mlp_std or config.std,
            out_std=config.mlp_out_std or config.out_std,
        )
        self.mlp_norm = norm.build(width, rngs=rngs)
        outs = config.order == "sandwich"
        self.self_out_norm = norm.build(width, rngs=rngs) if outs else None
        self.mlp_out_norm = norm.build(width, rngs=rngs) if outs else None
        self.dropout = Dropout(config.dropout)

    def __call__(
        self,
        x: Float[Array, "rows time width"],
        mask: Bool[Array, "#batch #queries places"] | None = None,
        *,
        before: Span | None = None,
        memory: Span | None = None,
        past: tuple[Past, Int[Array, ""]] | None = None,
        turns: Turns | None = None,
    ) -> tuple[Float[Array, "rows time width"], KeysValues | Past]:
        """The layer's output, and the keys and values of `x` or, with a `past`, all of it.

        Self-attention reads what is `before` the tokens and those tokens that `mask` lets see; with
        a `past`, which is cached keys and values and their length, the keys and values of `x` are
        written after them, and `mask` covers the places of all beams, place by place.
        Cross-attention reads the `memory`. `turns` are those of the positions of `x`, if `rotary`
        is set.
        """
        y = self._enter(x, self.self_norm)
        seen = self.self_attention.keys_and_values(y, turns)
        if past is not None:
            seen = write_cache(past[0], seen, past[1])
        own = Span(*seen, mask)
        y = self.self_attention(y, [own] if before is None else [before, own], turns)
        x = self._add(x, y, self.self_norm, self.self_out_norm)
        if self.cross_attention and self.cross_norm and memory is not None:
            y = self._enter(x, self.cross_norm)
            x = self._add(x, self.cross_attention(y, [memory]), self.cross_norm)
        y = self.mlp(self._enter(x, self.mlp_norm))
        return self._add(x, y, self.mlp_norm, self.mlp_out_norm), seen

    def _enter(self, x: Array, norm: Norm) -> Array:
        return x if self.order == "post" else norm(x)

    def _add(self, x: Array, y: Array, norm: Norm, out: Norm | None = None) -> Array:
        x = x + self.dropout(y if out is None else out(y))
        return norm(x) if self.order == "post" else x


class EncoderLayer(Layer):
    """A layer of an encoder: every place sees every other one that no mask hides."""

    def __call__(  # type: ignore[override]
        self,
        x: Float[Array, "batch places width"],
        mask: Bool[Array, "#batch #places places"] | None = None,
        turns: Turns | None = None,
    ) -> Float[Array, "batch places width"]:
        """The layer's output; `mask` is true where a place (second axis) may see another.

        `turns` are those of the places, if `rotary` is set.
        """
        record("hidden_states", x)
        return super().__call__(x, mask, turns=turns)[0]
