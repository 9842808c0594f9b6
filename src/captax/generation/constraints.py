"""What captions must and must not contain: pure functions of scores and of the tokens so far.

Each computes what the logits processor of transformers by that name does; `Constraints` applies
them in its order. Scores are logits, or log-probabilities in beam search.

Legend: `rows` captions, `time` places for tokens, of which the first `position` are filled, prompt
included.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from captax.generation.decoding import GenerationError

Scores = Float[Array, "rows vocab"]
Tokens = Int[Array, "rows time"]
Position = Int[Array, ""] | int
# The length of each row's prompt or caption: one number for all, or a column.
Length = Int[Array, "#rows 1"] | Int[Array, ""] | int

Phrase = tuple[int, ...]


def penalise_repetition(
    scores: Scores, tokens: Tokens, position: Position, penalty: float
) -> Scores:
    """Divide the positive scores of tokens that occurred by the penalty; multiply negative ones."""
    filled = jnp.arange(tokens.shape[1]) < position
    seen = _marked(scores, tokens, jnp.broadcast_to(filled, tokens.shape))
    return jnp.where(seen, jnp.where(scores < 0, scores * penalty, scores / penalty), scores)


def forbid_repeated_ngrams(scores: Scores, tokens: Tokens, position: Position, size: int) -> Scores:
    """Forbid every token that would repeat an n-gram of that size."""
    time = tokens.shape[1]
    windows = time - size + 1
    if windows < 1:
        return scores
    repeats = (jnp.arange(windows) + size <= position)[None]
    last = jax.lax.dynamic_slice_in_dim(tokens, position - size + 1, size - 1, axis=1)
    for i in range(size - 1):
        repeats = repeats & (tokens[:, i : i + windows] == last[:, i : i + 1])
    ends = tokens[:, size - 1 :]
    banned = _marked(scores, ends, jnp.broadcast_to(repeats, ends.shape))
    return jnp.where(banned, -jnp.inf, scores)


def forbid_phrases(
    scores: Scores, tokens: Tokens, position: Position, phrases: Sequence[Phrase]
) -> Scores:
    """Forbid the last token of each phrase in rows that end with its other tokens."""
    for phrase in phrases:
        begun = _ends_with(tokens, position, phrase[:-1])
        scores = forbid(scores, phrase[-1:], begun[:, None])
    return scores


def forbid(
    scores: Scores, ids: Sequence[int], when: Bool[Array, "#rows 1"] | Bool[Array, ""] | bool = True
) -> Scores:
    """Forbid tokens, in the rows where `when` is true."""
    return jnp.where(_among(scores, ids) & when, -jnp.inf, scores)


def force(
    scores: Scores, ids: Sequence[int], when: Bool[Array, "#rows 1"] | Bool[Array, ""]
) -> Scores:
    """Allow only these tokens, with score 0, in the rows where `when` is true."""
    return jnp.where(when, jnp.where(_among(scores, ids), 0.0, -jnp.inf), scores)


def require_phrases(
    scores: Scores,
    unconstrained: Scores,
    tokens: Tokens,
    position: Position,
    phrases: Sequence[tuple[Phrase, ...]],
    *,
    left: Length,
    eos: Sequence[int],
) -> Scores:
    """Let no caption end before it contains each phrase, in any one of its spellings.

    Until then eos is forbidden. When only as many tokens are `left` as the missing phrases need,
    their next token is the only one allowed, even if another constraint forbids it. So every
    caption that has room for all phrases contains them.
    """
    missing, next_token = _progress(tokens, position, phrases)
    scores = forbid(scores, eos, (missing > 0)[:, None])
    # A free choice may have interrupted a phrase; then the whole phrase is still missing.
    urgent = (missing > 0)[:, None] & (left - 1 < missing[:, None])
    wanted = jnp.arange(scores.shape[1]) == next_token[:, None]
    return jnp.where(urgent, jnp.where(wanted, unconstrained, -jnp.inf), scores)


def _progress(
    tokens: Tokens, position: Position, phrases: Sequence[tuple[Phrase, ...]]
) -> tuple[Int[Array, " rows"], Int[Array, " rows"]]:
    """The number of tokens in missing phrases, and the next token of the most complete one."""
    rows = len(tokens)
    missing = jnp.zeros(rows, jnp.int32)
    best = jnp.full(rows, -1, jnp.int32)
    following = jnp.zeros(rows, jnp.int32)
    for spellings in phrases:
        shortest = min(map(len, spellings))
        said = jnp.zeros(rows, bool)
        for phrase in spellings:
            said |= _contains(tokens, position, phrase)
        missing += jnp.where(said, 0, shortest)
        for phrase in spellings:
            for count in range(len(phrase)):
                gain = count - (len(phrase) - shortest)
                better = ~said & _ends_with(tokens, position, phrase[:count]) & (gain > best)
                best = jnp.where(better, gain, best)
                following = jnp.where(better, phrase[count], following)
    return missing, following


def _contains(tokens: Tokens, position: Position, phrase: Phrase) -> Bool[Array, " rows"]:
    windows = tokens.shape[1] - len(phrase) + 1
    if windows < 1:
        return jnp.zeros(len(tokens), bool)
    here = (jnp.arange(windows) + len(phrase) <= position)[None]
    for i, token in enumerate(phrase):
        here = here & (tokens[:, i : i + windows] == token)
    return here.any(-1)


def _ends_with(tokens: Tokens, position: Position, phrase: Phrase) -> Bool[Array, " rows"]:
    size = len(phrase)
    if size > tokens.shape[1]:
        return jnp.zeros(len(tokens), bool)
    last = jax.lax.dynamic_slice_in_dim(tokens, position - size, size, axis=1)
    return (last == jnp.array(phrase, tokens.dtype)).all(-1) & (position >= size)


def _marked(
    scores: Scores, tokens: Int[Array, "rows some"], which: Bool[Array, "rows some"]
) -> Bool[Array, "rows vocab"]:
    """Which token ids occur in `tokens` at a place where `which` is true."""
    rows, vocab = scores.shape
    at = jnp.where(which, tokens, vocab)
    none = jnp.zeros((rows, vocab), bool)
    return none.at[jnp.arange(rows)[:, None], at].set(True, mode="drop")


def _among(scores: Scores, ids: Sequence[int]) -> Bool[np.ndarray, " vocab"]:
    vocab = scores.shape[-1]
    outside = [index for index in ids if not 0 <= index < vocab]
    if outside:
        raise GenerationError(
            f"token ids {outside} are not in the vocabulary; use ids from 0 to {vocab - 1}"
        )
    found = np.zeros(vocab, bool)
    found[list(ids)] = True
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constraints:
    """Options with the names and the meaning that they have in transformers' `generate`.

    `force_words_ids` holds phrases, each with its spellings: see `require_phrases`.
    """

    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[Phrase, ...] = ()
    min_length: int = 0
    min_new_tokens: int = 0
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    force_words_ids: tuple[tuple[Phrase, ...], ...] = ()
    renormalize_logits: bool = False

    def __call__(
        self,
        scores: Scores,
        tokens: Tokens,
        position: Position,
        *,
        prompt: Length,
        limit: Length,
        eos: tuple[int, ...],
    ) -> Scores:
        """Scores of the next token; prompts end at `prompt`, captions at `limit` at the latest."""
        unconstrained = scores
        if self.repetition_penalty != 1:
            scores = penalise_repetition(scores, tokens, position, self.repetition_penalty)
        if self.no_repeat_ngram_size > 0:
            scores = forbid_repeated_ngrams(scores, tokens, position, self.no_repeat_ngram_size)
        phrases = [phrase for phrase in self.bad_words_ids if phrase not in [(e,) for e in eos]]
        single = [phrase[0] for phrase in phrases if len(phrase) == 1]
        scores = forbid(scores, single) if single else scores
        scores = forbid_phrases(scores, tokens, position, [p for p in phrases if len(p) > 1])
        if self.min_length > 0:
            scores = forbid(scores, eos, jnp.asarray(position < self.min_length))
        if self.min_new_tokens > 0:
            scores = forbid(scores, eos, jnp.asarray(position - prompt < self.min_new_tokens))
        if self.forced_bos_token_id is not None:
            scores = force(scores, (self.forced_bos_token_id,), jnp.asarray(position == 1))
        if self.forced_eos_token_id:
            scores = force(scores, self.forced_eos_token_id, jnp.asarray(position == limit - 1))
        if self.suppress_tokens:
            scores = forbid(scores, self.suppress_tokens)
        if self.begin_suppress_tokens:
            # The caption begins after a forced bos.
            later = jnp.asarray(prompt == 1) & (self.forced_bos_token_id is not None)
            scores = forbid(scores, self.begin_suppress_tokens, position == prompt + later)
        if self.force_words_ids:
            scores = require_phrases(
                scores,
                unconstrained,
                tokens,
                position,
                self.force_words_ids,
                left=limit - position - bool(self.forced_eos_token_id),
                eos=eos,
            )
        return jax.nn.log_softmax(scores) if self.renormalize_logits else scores
