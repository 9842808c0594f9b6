"""Ways to choose the next token, each a frozen dataclass that runs the loop its own way.

Option names and semantics are those of transformers' `generate`.

Legend: `batch` pictures, `beams` candidates a picture, `rows` = batch x beams, `time` new tokens.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from captax.errors import CaptaxError
from captax.models.decoders import Cache

Advance = Callable[[Int[Array, " rows"], Cache], tuple[Float[Array, "rows vocab"], Cache]]
Decoded = tuple[Int[Array, "batch beams time"], Float[Array, "batch beams"]]

# Stands for minus infinity, but finite, so that sums and differences stay numbers.
NEVER = -1e9


class GenerationError(CaptaxError):
    """A decoding option that has no meaning."""


@runtime_checkable
class Strategy(Protocol):
    """Chooses tokens, given the logits and cache after the prompt."""

    def run(
        self,
        advance: Advance,
        logits: Float[Array, "batch vocab"],
        cache: Cache,
        *,
        max_new_tokens: int,
        eos_id: int,
        pad_id: int,
    ) -> Decoded:
        """New tokens and scores, best first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Greedy:
    """The most probable token at every step."""

    length_penalty: float = 1.0

    def run(
        self,
        advance: Advance,
        logits: Float[Array, "batch vocab"],
        cache: Cache,
        *,
        max_new_tokens: int,
        eos_id: int,
        pad_id: int,
    ) -> Decoded:
        """One sequence a picture; its score is as `Beam` would compute it."""
        batch = logits.shape[0]

        # Who has ended is kept apart from the tokens: the pad that fills them may be eos itself.
        def choose(
            step: Array, tokens: Array, total: Array, lengths: Array, live: Array, logits: Array
        ) -> tuple[Array, Array, Array, Array, Array]:
            logprobs = jax.nn.log_softmax(logits.astype(jnp.float32))
            best = logprobs.argmax(-1).astype(jnp.int32)
            total += jnp.where(live, logprobs.max(-1), 0)
            tokens = tokens.at[:, step].set(jnp.where(live, best, pad_id))
            return step + 1, tokens, total, lengths + live, live & (best != eos_id)

        def unfinished(state: tuple) -> Array:
            (step, _, _, _, live), _ = state
            return (step < max_new_tokens) & live.any()

        def body(state: tuple) -> tuple:
            (step, tokens, total, lengths, live), cache = state
            logits, cache = advance(tokens[:, step - 1], cache)
            return choose(step, tokens, total, lengths, live, logits), cache

        begun = choose(
            jnp.zeros((), jnp.int32),
            jnp.full((batch, max_new_tokens), pad_id, jnp.int32),
            jnp.zeros(batch),
            jnp.zeros(batch, jnp.int32),
            jnp.ones(batch, bool),
            logits,
        )
        (_, tokens, total, lengths, _), _ = jax.lax.while_loop(unfinished, body, (begun, cache))
        scores = total / lengths.astype(jnp.float32) ** self.length_penalty
        return tokens[:, None], scores[:, None]


@struct.dataclass
class _Beams:
    """State of beam search: hypotheses still growing, and the best of those that are `done`.

    A picture no longer `open` takes no more, however long others of its batch go on.
    """

    step: Int[Array, ""]
    open: Bool[Array, " batch"]
    tokens: Int[Array, "batch beams time"]
    totals: Float[Array, "batch beams"]
    done_tokens: Int[Array, "batch beams time"]
    done_scores: Float[Array, "batch beams"]
    parents: Int[Array, " rows"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beam:
    """Beam search: the `num_beams` best prefixes grow together.

    A hypothesis that ended scores its summed log-probability over its length to the power of
    `length_penalty`. `early_stopping` says when a picture is finished: `True`, as soon as
    `num_beams` hypotheses ended; `False`, when no live one could score better if it ended now;
    `"never"`, when none could at any length.
    """

    num_beams: int = 3
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    num_return_sequences: int = 1

    def __post_init__(self) -> None:
        if self.num_beams < 1:
            raise GenerationError(f"num_beams is {self.num_beams}: give 1 or more")
        if not 1 <= self.num_return_sequences <= self.num_beams:
            raise GenerationError(
                f"num_return_sequences is {self.num_return_sequences}: give 1 to num_beams "
                f"({self.num_beams})"
            )
        if self.early_stopping not in (True, False, "never"):
            raise GenerationError(
                f"early_stopping is {self.early_stopping!r}: give True, False or 'never'"
            )

    def run(
        self,
        advance: Advance,
        logits: Float[Array, "batch vocab"],
        cache: Cache,
        *,
        max_new_tokens: int,
        eos_id: int,
        pad_id: int,
    ) -> Decoded:
        """`num_return_sequences` sequences a picture."""
        batch, vocab = logits.shape
        beams = self.num_beams

        def choose(state: _Beams, logits: Array) -> _Beams:
            logprobs = jax.nn.log_softmax(logits.astype(jnp.float32))
            totals = state.totals[..., None] + logprobs.reshape(batch, beams, vocab)
            # Twice as many as live beams, so that enough go on even if half of them end here.
            totals, flat = jax.lax.top_k(totals.reshape(batch, -1), 2 * beams)
            parents, chosen = flat // vocab, (flat % vocab).astype(jnp.int32)
            tokens = _pick(state.tokens, parents).at[:, :, state.step].set(chosen)
            ended = (chosen == eos_id) | (state.step + 1 == max_new_tokens)

            length = (state.step + 1).astype(jnp.float32)
            may_end = ended & (jnp.arange(2 * beams) < beams) & state.open[:, None]
            may_end &= totals > NEVER / 2  # there may be fewer captions than beams
            scores = jnp.where(may_end, totals / length**self.length_penalty, NEVER)
            done_scores, best = jax.lax.top_k(
                jnp.concatenate([state.done_scores, scores], 1), beams
            )
            done_tokens = _pick(jnp.concatenate([state.done_tokens, tokens], 1), best)

            totals, best = jax.lax.top_k(jnp.where(ended, totals + NEVER, totals), beams)
            parents = _pick(parents, best) + jnp.arange(batch)[:, None] * beams
            state = _Beams(
                step=state.step + 1,
                open=state.open,
                tokens=_pick(tokens, best),
                totals=totals,
                done_tokens=done_tokens,
                done_scores=done_scores,
                parents=parents.reshape(-1),
            )
            still = state.open & self._improvable(state, max_new_tokens)
            return dataclasses.replace(state, open=still)

        def unfinished(carry: tuple[_Beams, Cache]) -> Array:
            state, _ = carry
            return (state.step < max_new_tokens) & state.open.any()

        def body(carry: tuple[_Beams, Cache]) -> tuple[_Beams, Cache]:
            state, cache = carry
            last = state.tokens[:, :, state.step - 1].reshape(-1)
            logits, cache = advance(last, cache.reorder(state.parents))
            return choose(state, logits), cache

        empty = jnp.full((batch, beams, max_new_tokens), pad_id, jnp.int32)
        nothing = jnp.full((batch, beams), NEVER)
        state = _Beams(
            step=jnp.zeros((), jnp.int32),
            open=jnp.ones(batch, bool),
            tokens=empty,
            # All beams begin alike: only the first may speak, or each would say the same.
            totals=nothing.at[:, 0].set(0.0),
            done_tokens=empty,
            done_scores=nothing,
            parents=jnp.arange(batch * beams),
        )
        state = choose(state, jnp.repeat(logits, beams, axis=0))
        state, _ = jax.lax.while_loop(unfinished, body, (state, cache.repeat(beams)))
        count = self.num_return_sequences
        return state.done_tokens[:, :count], state.done_scores[:, :count]

    def _improvable(self, state: _Beams, max_new_tokens: int) -> Bool[Array, " batch"]:
        """Pictures for which a live hypothesis may still beat the worst that ended."""
        if self.early_stopping is True:
            return (state.done_scores <= NEVER / 2).any(-1)
        longest = self.early_stopping == "never" and self.length_penalty > 0
        length = jnp.float32(max_new_tokens) if longest else state.step.astype(jnp.float32)
        hope = state.totals[:, 0] / length**self.length_penalty
        return hope > state.done_scores.min(-1)


def _pick(
    x: Int[Array, "batch from *rest"], index: Int[Array, "batch to"]
) -> Int[Array, "batch to *rest"]:
    return jnp.take_along_axis(x, index.reshape(index.shape + (1,) * (x.ndim - 2)), axis=1)
