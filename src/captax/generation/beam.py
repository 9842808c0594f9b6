"""Beam search, and beam search in groups that avoid each other's tokens.

Option names and semantics are those of transformers' `generate`.

Legend: `batch` pictures, `beams` hypotheses of each, `rows` = batch x beams, `time` all tokens.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from captax.generation.decoding import NEVER, Decoding, GenerationError, as_arguments, is_any


@struct.dataclass
class _Beams:
    """State of beam search: the open hypotheses, and the best of those that have ended (`done`).

    A picture that is not `live` takes no more hypotheses, however long the rest of its batch runs.
    """

    live: Bool[Array, " batch"]
    tokens: Int[Array, "batch beams time"]
    logprobs: Float[Array, "batch beams time"]
    totals: Float[Array, "batch beams"]
    done_tokens: Int[Array, "batch beams time"]
    done_logprobs: Float[Array, "batch beams time"]
    done_scores: Float[Array, "batch beams"]
    parents: Int[Array, "batch beams"]


# `early_stopping` as a number, which programs take as an argument.
STOPPING: dict[bool | str, int] = {False: 0, True: 1, "never": 2}


@as_arguments("length_penalty", "stopping", structure=("num_beams", "num_return_sequences"))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Beam:
    """Beam search: the `num_beams` best open hypotheses are continued together.

    The score of a hypothesis is its summed log-probability divided by its length to the power of
    `length_penalty`. `early_stopping` says when a picture is finished: `True`, as soon as
    `num_beams` hypotheses have ended; `False`, when no open one would score better if it ended now;
    `"never"`, when none could score better at any length.
    """

    num_beams: int = 3
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    num_return_sequences: int = 1

    def __post_init__(self) -> None:
        if self.num_beams < 1:
            raise GenerationError(f"`num_beams` is {self.num_beams}; it must be 1 or more")
        if not 1 <= self.num_return_sequences <= self.num_beams:
            raise GenerationError(
                f"`num_return_sequences` is {self.num_return_sequences}; it must be from 1 to "
                f"`num_beams`, which is {self.num_beams}"
            )
        if self.early_stopping not in (True, False, "never"):
            raise GenerationError(
                f"`early_stopping` is {self.early_stopping!r}; use True, False or 'never'"
            )

    @property
    def beams(self) -> int:
        """Hypotheses for each picture."""
        return self.num_beams

    @functools.cached_property
    def stopping(self) -> Any:
        """The number of `early_stopping`."""
        return STOPPING[self.early_stopping]

    def returning_all(self) -> "Beam":
        """The same search, with as many captions as beams."""
        return dataclasses.replace(self, num_return_sequences=self.num_beams)

    def start(self, tokens: Int[Array, "batch time"], alive: Bool[Array, " batch"]) -> _Beams:
        """The state before the first choice. Only the first beam counts: all of them are equal."""
        batch, time = tokens.shape
        rows = jnp.broadcast_to(tokens[:, None], (batch, self.num_beams, time))
        nothing = jnp.full((batch, self.num_beams), NEVER)
        return _Beams(
            live=alive,
            tokens=rows,
            logprobs=jnp.zeros(rows.shape),
            totals=nothing.at[:, 0].set(0.0),
            done_tokens=rows,
            done_logprobs=jnp.zeros(rows.shape),
            done_scores=nothing,
            parents=jnp.arange(batch * self.num_beams).reshape(batch, -1),
        )

    def choose(
        self,
        decoding: Decoding,
        state: _Beams,
        logits: Float[Array, "rows vocab"],
        position: Int[Array, ""],
        handicap: Float[Array, "batch 1 vocab"] | float = 0.0,
    ) -> _Beams:
        """Add a token to every beam; `handicap` is subtracted from the log-probabilities first."""
        batch, beams = state.totals.shape
        vocab = logits.shape[-1]
        logits = logits.reshape(batch, beams, vocab)
        logprobs = jax.nn.log_softmax(logits.astype(jnp.float32)) - handicap
        logprobs = decoding.constrain(logprobs, state.tokens, position)
        totals = state.totals[..., None] + logprobs
        # Enough candidates that `beams` of them stay open even if every beam could end here.
        candidates = max(2, 1 + len(decoding.eos)) * beams
        totals, flat = jax.lax.top_k(totals.reshape(batch, -1), candidates)
        parents, chosen = flat // vocab, (flat % vocab).astype(jnp.int32)
        tokens = _pick(state.tokens, parents).at[:, :, position].set(chosen)
        steps = totals - _pick(state.totals, parents)
        logprobs = _pick(state.logprobs, parents).at[:, :, position].set(steps)
        ended = decoding.ends(chosen, position)

        length = jnp.asarray(position + 1 - decoding.prompt).astype(jnp.float32)
        may_end = ended & (jnp.arange(candidates) < beams) & state.live[:, None]
        may_end &= totals > NEVER / 2  # early on there are fewer hypotheses than beams
        scores = jnp.where(may_end, totals / length**self.length_penalty, NEVER)
        done_scores, best = jax.lax.top_k(jnp.concatenate([state.done_scores, scores], 1), beams)
        done_tokens = _pick(jnp.concatenate([state.done_tokens, tokens], 1), best)
        done_logprobs = _pick(jnp.concatenate([state.done_logprobs, logprobs], 1), best)

        ended = is_any(chosen, decoding.eos)
        totals, best = jax.lax.top_k(jnp.where(ended, totals + NEVER, totals), beams)
        state = _Beams(
            live=state.live,
            tokens=_pick(tokens, best),
            logprobs=_pick(logprobs, best),
            totals=totals,
            done_tokens=done_tokens,
            done_logprobs=done_logprobs,
            done_scores=done_scores,
            parents=_pick(parents, best) + jnp.arange(batch)[:, None] * beams,
        )
        room = jnp.broadcast_to(position + 1 < decoding.limit, (batch, 1))[:, 0]
        still = state.live & room & self._improvable(decoding, state, length)
        return dataclasses.replace(state, live=still)

    def _improvable(
        self, decoding: Decoding, state: _Beams, length: Array
    ) -> Bool[Array, " batch"]:
        """The pictures whose best open hypothesis may still beat the worst one that has ended."""
        whole = jnp.asarray(decoding.limit - decoding.prompt).astype(jnp.float32)
        hopeful = (jnp.asarray(self.stopping) == STOPPING["never"]) & (self.length_penalty > 0)
        hope = state.totals[:, :1] / jnp.where(hopeful, whole, length) ** self.length_penalty
        better = (hope > state.done_scores.min(-1, keepdims=True))[:, 0]
        few = (state.done_scores <= NEVER / 2).any(-1)
        return jnp.where(jnp.asarray(self.stopping) == STOPPING[True], few, better)

    def logprobs(
        self,
        decoding: Decoding,
        logits: Float[Array, "batch beams vocab"],
        tokens: Int[Array, "batch beams time"],
        position: Int[Array, ""] | int,
    ) -> Float[Array, "batch beams vocab"]:
        """The log-probabilities after constraints."""
        logprobs = jax.nn.log_softmax(logits.astype(jnp.float32))
        return decoding.constrain(logprobs, tokens, jnp.asarray(position))

    def finish(
        self, state: _Beams
    ) -> tuple[
        Int[Array, "batch returned time"],
        Float[Array, "batch returned time"],
        Float[Array, "batch returned"],
    ]:
        """`num_return_sequences` captions for each picture, best first."""
        count = self.num_return_sequences
        scores = state.done_scores[:, :count]
        logprobs = jnp.where(scores[..., None] > NEVER / 2, state.done_logprobs[:, :count], 0)
        return state.done_tokens[:, :count], logprobs, scores


@struct.dataclass
class _Groups:
    """States of groups of beams."""

    groups: tuple[_Beams, ...]

    @property
    def live(self) -> Bool[Array, "batch groups"]:
        """Which groups have not finished."""
        return jnp.stack([group.live for group in self.groups], axis=1)

    @property
    def tokens(self) -> Int[Array, "batch beams time"]:
        """The tokens of all groups, group by group."""
        return jnp.concatenate([group.tokens for group in self.groups], axis=1)

    @property
    def parents(self) -> Int[Array, "batch beams"]:
        """Parents as rows of all groups together."""
        batch, size = self.groups[0].parents.shape
        first = jnp.arange(batch)[:, None] * size
        beams = size * len(self.groups)
        offsets = [jnp.arange(batch)[:, None] * beams + i * size for i in range(len(self.groups))]
        return jnp.concatenate(
            [g.parents - first + o for g, o in zip(self.groups, offsets, strict=True)], axis=1
        )


@as_arguments(
    *("diversity_penalty", "length_penalty", "group"),
    structure=("num_beams", "num_beam_groups", "num_return_sequences"),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class DiverseBeam:
    """Beam search in groups, which lose score when they choose the tokens of earlier groups.

    Vijayakumar et al. (https://arxiv.org/abs/1610.02424): the groups choose one after the other. A
    token loses `diversity_penalty` for every beam of an earlier group that chose it at the same
    step; scores include this loss. The best captions of all groups are returned; two of them may be
    equal.
    """

    num_beams: int = 4
    num_beam_groups: int = 2
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    num_return_sequences: int = 1

    def __post_init__(self) -> None:
        if self.num_beam_groups < 1 or self.num_beams % self.num_beam_groups:
            raise GenerationError(
                f"`num_beam_groups` is {self.num_beam_groups}; it must divide `num_beams`, which "
                f"is {self.num_beams}"
            )
        if self.diversity_penalty < 0:
            raise GenerationError(
                f"`diversity_penalty` is {self.diversity_penalty}; it must be 0 or more"
            )
        Beam(num_beams=self.num_beams, num_return_sequences=self.num_return_sequences)
        _ = self.group

    @property
    def beams(self) -> int:
        """Hypotheses a picture, of all groups."""
        return self.num_beams

    def returning_all(self) -> "DiverseBeam":
        """The same search, with as many captions as beams."""
        return dataclasses.replace(self, num_return_sequences=self.num_beams)

    @functools.cached_property
    def group(self) -> Beam:
        """The beam search of one group."""
        size = self.num_beams // self.num_beam_groups
        return Beam(
            num_beams=size,
            num_return_sequences=size,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
        )

    def start(self, tokens: Int[Array, "batch time"], alive: Bool[Array, " batch"]) -> _Groups:
        """The state before the first choice, equal in all groups."""
        return _Groups(groups=(self.group.start(tokens, alive),) * self.num_beam_groups)

    def choose(
        self,
        decoding: Decoding,
        state: _Groups,
        logits: Float[Array, "rows vocab"],
        position: Int[Array, ""],
    ) -> _Groups:
        """Continue the groups, one after the other."""
        batch, vocab = len(state.groups[0].live), logits.shape[-1]
        parts = logits.reshape(batch, self.num_beam_groups, -1, vocab)
        taken = jnp.zeros((batch, 1, vocab))
        chosen = []
        for i, group in enumerate(state.groups):
            part = parts[:, i].reshape(-1, vocab)
            handicap = self.diversity_penalty * taken
            chosen.append(self.group.choose(decoding, group, part, position, handicap))
            last = chosen[-1].tokens[:, :, position]
            # A group that has finished penalises no other.
            here = jnp.broadcast_to(group.live[:, None], last.shape).astype(jnp.float32)
            taken = taken.at[jnp.arange(batch)[:, None], 0, last].add(here)
        return _Groups(groups=tuple(chosen))

    def logprobs(
        self,
        decoding: Decoding,
        logits: Float[Array, "batch beams vocab"],
        tokens: Int[Array, "batch beams time"],
        position: Int[Array, ""] | int,
    ) -> Float[Array, "batch beams vocab"]:
        """As in `Beam`: for a single caption there is no other group to lose score to."""
        return self.group.logprobs(decoding, logits, tokens, position)

    def finish(
        self, state: _Groups
    ) -> tuple[
        Int[Array, "batch returned time"],
        Float[Array, "batch returned time"],
        Float[Array, "batch returned"],
    ]:
        """`num_return_sequences` captions for each picture, best first."""
        found = zip(*map(self.group.finish, state.groups), strict=True)
        tokens, logprobs, scores = (jnp.concatenate(each, axis=1) for each in found)
        scores, best = jax.lax.top_k(scores, self.num_return_sequences)
        return _pick(tokens, best), _pick(logprobs, best), scores


def _pick(x: Array, index: Int[Array, "batch to"]) -> Array:
    """The entries `index` of `x` [batch from ...] for each picture: [batch to ...]."""
    return jnp.take_along_axis(x, index.reshape(index.shape + (1,) * (x.ndim - 2)), axis=1)
