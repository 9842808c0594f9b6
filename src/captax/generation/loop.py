"""The decoding loop: encode once, then one token a step for all rows until all have ended.

It knows only `begin`, `advance` and the cache's `repeat` and `reorder`, so it decodes every family
alike. Everything here runs inside one jitted program.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from captax.generation.constraints import Constraints, Rules
from captax.generation.decoding import (
    Constrain,
    Decoding,
    GenerationError,
    Strategy,
    is_any,
    parents_of,
)
from captax.models.cache import Cache
from captax.models.encoders import Features


@struct.dataclass
class Sequences:
    """Decoded captions, best first.

    `tokens` exclude the prompt. Each caption ends with eos, unless it reached its limit, and is
    padded. `scores` are log-probabilities summed over `lengths` tokens and divided by
    `lengths ** length_penalty`; `logprobs` are those of each token, and 0 for padding. `signals`
    hold what `captax.generation.confidence` measured of the best caption, if that was asked for.
    The arrays are JAX's, or NumPy's after they were fetched from the device.
    """

    tokens: Int[Any, "*batch beams time"]
    lengths: Int[Any, "*batch beams"]
    scores: Float[Any, "*batch beams"]
    logprobs: Float[Any, "*batch beams time"]
    signals: dict[str, Float[Any, "*batch"]] = struct.field(default_factory=dict)


@struct.dataclass
class Prompts:
    """Prompts of different lengths, padded on the right with any token.

    Row `i` has `lengths[i]` tokens, and at most `limits[i]` together with its caption. As many
    tokens as the shortest prompt has are read in one call. The rest is read token by token while
    shorter prompts are already being continued, so each row is decoded as if it were alone. There
    is room for `capacity` tokens, the largest limit or more.
    """

    tokens: Int[Any, "batch time"]
    lengths: Int[Any, " batch"]
    limits: Int[Any, " batch"]
    capacity: int = struct.field(pytree_node=False)


@runtime_checkable
class Captioning(Protocol):
    """What the loop asks of a model."""

    def begin(
        self,
        features: Any,
        prompt: Int[Array, "batch time"],
        capacity: int,
        length: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "batch vocab"], Cache]:
        """Logits after the prompt, or after its first `length` tokens alone, and the cache."""

    def advance(
        self, tokens: Int[Array, " rows"], cache: Cache
    ) -> tuple[Float[Array, "rows vocab"], Cache]:
        """Logits after one more token."""


def generate(
    model: Captioning,
    features: Features | None,
    prompt: Int[Array, "batch time"] | Prompts,
    strategy: Strategy,
    *,
    eos_id: int | tuple[int, ...],
    pad_id: int,
    max_new_tokens: int | None = None,
    constraints: Constraints | Rules | None = None,
    alive: Bool[Array, " batch"] | None = None,
    seeds: Int[Array, "batch 2"] | None = None,
) -> Sequences:
    """Decode at most `max_new_tokens` tokens (eos included) after each prompt.

    `Prompts` carry their own limits instead. A row where `alive` is false is padding of the batch:
    the loop does not wait for it. Sampling draws by `seeds`, by default the number of the row.
    Raises `GenerationError` if no token may be decoded.
    """
    # The number of tokens that all prompts have; with a single place it is known.
    begun: Any
    if isinstance(prompt, Prompts):
        given, time = prompt.tokens, prompt.capacity
        begun = jnp.min(prompt.lengths) if given.shape[1] > 1 else 1
        first, limit = prompt.lengths[:, None], prompt.limits[:, None]
    else:
        if max_new_tokens is None or max_new_tokens < 1:
            raise GenerationError(f"`max_new_tokens` is {max_new_tokens}; it must be 1 or more")
        given, begun = prompt, prompt.shape[1]
        first, limit = begun, begun + max_new_tokens
        time = limit
    ragged = not isinstance(begun, int)
    batch, beams = len(given), strategy.beams
    if alive is None:
        alive = jnp.ones(batch, bool)
    if seeds is None:
        seeds = jnp.stack([jnp.zeros(batch, jnp.int32), jnp.arange(batch, dtype=jnp.int32)], 1)
    eos = (eos_id,) if isinstance(eos_id, int) else eos_id
    decoding = Decoding(first, limit, eos, constrainer(constraints, first, limit, eos), seeds)

    def choose(state: Any, logits: Array, position: Array) -> Any:
        new = strategy.choose(decoding, state, logits, position)
        if not ragged:
            return new
        # A row whose prompt has not ended keeps the prompt's own token.
        prompted = position < first[:, 0]

        def keep(old: Array, new: Array) -> Array:
            return jnp.where(prompted.reshape(-1, *[1] * (old.ndim - 1)), old, new)

        return jax.tree.map(keep, state, new)

    def unfinished(carry: tuple) -> Array:
        return carry[1].live.any()

    def body(carry: tuple) -> tuple:
        position, state, cache = carry
        parents = parents_of(state)
        cache = cache if parents is None else cache.reorder(parents)
        last = state.tokens[:, :, position - 1].reshape(-1)
        logits, cache = model.advance(last, cache)
        return position + 1, choose(state, logits, position), cache

    # The last token is never fed back, so the cache needs no place for it.
    logits, cache = model.begin(features, given, time - 1, begun if ragged else None)
    tokens = jnp.full((batch, time), pad_id, jnp.int32)
    inside = jnp.arange(given.shape[1]) < first
    tokens = tokens.at[:, : given.shape[1]].set(jnp.where(inside, given, pad_id))
    state = strategy.start(tokens, alive)
    position = jnp.asarray(begun, jnp.int32)
    state = choose(state, jnp.repeat(logits, beams, axis=0), position)
    carry = (position + 1, state, cache.repeat(beams))
    _, state, _ = jax.lax.while_loop(unfinished, body, carry)
    return _sequences(decoding, *strategy.finish(state), shared=0 if ragged else begun, pad=pad_id)


def constrainer(
    constraints: Constraints | Rules | None, first: Any, limit: Any, eos: tuple[int, ...]
) -> Constrain:
    """`constraints` for pictures that have several captions each: [batch beams vocab]."""
    if constraints is None or constraints == Constraints():
        return lambda scores, tokens, position: scores

    def constrain(scores: Array, tokens: Array, position: Array) -> Array:
        _, beams, vocab = scores.shape
        given = constraints
        rules = given.rules(vocab, eos) if isinstance(given, Constraints) else given

        def of_rows(length: Any) -> Any:
            return length if isinstance(length, int) else jnp.repeat(length, beams, axis=0)

        found = rules(
            scores.reshape(-1, vocab),
            tokens.reshape(-1, tokens.shape[-1]),
            position,
            prompt=of_rows(first),
            limit=of_rows(limit),
        )
        return found.reshape(scores.shape)

    return constrain


def _sequences(
    decoding: Decoding, tokens: Array, logprobs: Array, scores: Array, *, shared: int, pad: int
) -> Sequences:
    """The decoded captions without their prompts."""
    tokens, logprobs = tokens[:, :, shared:], logprobs[:, :, shared:]
    if not shared:
        places = jnp.arange(tokens.shape[-1] - 1) + decoding.prompt
        inside = (places < tokens.shape[-1])[:, None]
        places = jnp.minimum(places, tokens.shape[-1] - 1)[:, None]
        shape = (*tokens.shape[:2], places.shape[-1])
        tokens, logprobs = (
            jnp.take_along_axis(x, jnp.broadcast_to(places, shape), -1) for x in (tokens, logprobs)
        )
        tokens, logprobs = jnp.where(inside, tokens, pad), jnp.where(inside, logprobs, 0)
    ends = is_any(tokens, decoding.eos)
    lengths = ((ends.cumsum(-1) - ends) == 0).sum(-1)
    lengths = jnp.minimum(lengths, decoding.limit - decoding.prompt)
    return Sequences(tokens=tokens, lengths=lengths, scores=scores, logprobs=logprobs)
