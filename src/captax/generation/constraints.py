"""What captions must and must not contain: pure functions of scores and of the tokens so far.

Each computes what the logits processor of transformers by that name does; `Constraints` applies
them in its order. Scores are logits, or log-probabilities in beam search.

Legend: `rows` captions, `time` places for tokens, of which the first `position` are filled, prompt
included. A row begins at its place `start`; before it, tokens are `NONE`. Lists of tokens are
arrays that are padded to a few sizes, so that a few programs serve all.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from captax.generation.automaton import Automaton
from captax.generation.decoding import GenerationError
from captax.text import Borders

Scores = Float[Array, "rows vocab"]
Ids = Bool[Any, " vocab"]
Tokens = Int[Array, "rows time"]
Position = Int[Array, ""] | int
# A place in each row, such as its prompt's end: one number for all, or a column.
Place = Int[Array, "#rows 1"] | Int[Array, ""] | int

Phrase = tuple[int, ...]

# In the place of a token where there is none.
NONE = -1
# Tables of phrases have a power of this as their number of rows and columns.
TABLE = 8
# More than any caption has; sums with it stay within 32 bits.
MOST = 2**30


def penalise_repetition(
    scores: Scores, tokens: Tokens, position: Position, penalty: Float[Any, ""] | float
) -> Scores:
    """Divide the positive scores of tokens that occurred by the penalty; multiply negative ones."""
    filled = (jnp.arange(tokens.shape[1]) < position) & (tokens != NONE)
    seen = _marked(scores, tokens, filled)
    return jnp.where(seen, jnp.where(scores < 0, scores * penalty, scores / penalty), scores)


def forbid_repeated_ngrams(
    scores: Scores, tokens: Tokens, position: Position, size: Int[Any, ""] | int
) -> Scores:
    """Forbid every token that would repeat an n-gram of that size, which is 1 or more."""
    starts = jnp.arange(tokens.shape[1])
    # An n-gram begins at each place that has a token, and ends among the tokens so far.
    repeats = (starts + size <= position) & (tokens != NONE)

    def also(i: Array, repeats: Array) -> Array:
        last = jax.lax.dynamic_slice_in_dim(tokens, position - size + 1 + i, 1, axis=1)
        return repeats & (jnp.roll(tokens, -i, axis=1) == last)

    # Where no n-gram fits there is nothing to compare.
    compared = jnp.where(size <= position, size - 1, 0)
    repeats = jax.lax.fori_loop(0, compared, also, repeats)
    banned = _marked(scores, jnp.roll(tokens, -compared, axis=1), repeats)
    return jnp.where(banned, -jnp.inf, scores)


def forbid_phrases(
    scores: Scores, tokens: Tokens, position: Position, phrases: Int[Any, "phrases size"]
) -> Scores:
    """Forbid the last token of each phrase in rows that end with its other tokens.

    The phrases end in the last column. -1 before them is any token or none; a row whose last token
    is not in the vocabulary is no phrase.
    """
    before = phrases.shape[1] - 1
    places = position - before + jnp.arange(before)
    last = jnp.where(places < 0, -2, tokens[:, jnp.maximum(places, 0)])
    wanted = phrases[:, :-1]
    begun = ((wanted == -1) | (wanted == last[:, None])).all(-1)
    ends = jnp.broadcast_to(phrases[:, -1], begun.shape)
    return jnp.where(_marked(scores, ends, begun), -jnp.inf, scores)


def forbid(
    scores: Scores, ids: Ids, when: Bool[Array, "#rows 1"] | Bool[Array, ""] | bool = True
) -> Scores:
    """Forbid tokens, in the rows where `when` is true."""
    return jnp.where(ids & when, -jnp.inf, scores)


def force(scores: Scores, ids: Ids, when: Bool[Array, "#rows 1"] | Bool[Array, ""]) -> Scores:
    """Allow only these tokens, with score 0, in the rows where `when` is true."""
    return jnp.where(when, jnp.where(ids, 0.0, -jnp.inf), scores)


@struct.dataclass
class Required:
    """Phrases that captions must contain as whole words, each in one of its spellings.

    The `count` first rows of `tokens` are spellings, of which `sizes` says the number of tokens.
    The spellings of a phrase follow each other: `phrases` numbers the phrases, `first` says where
    one begins, and `shortest` is the number of tokens that its shortest spelling takes (see
    `shortest_spelling`). A spelling that `joins` continues the word before it, and one that
    `ends_inside` is continued by the next token, if that joins. The fields of `Borders` for all
    tokens are `token_joins`, `token_ends_inside` and `token_silent`.
    """

    tokens: Int[Any, "spellings size"]
    sizes: Int[Any, " spellings"]
    phrases: Int[Any, " spellings"]
    first: Bool[Any, " spellings"]
    shortest: Int[Any, " spellings"]
    joins: Bool[Any, " spellings"]
    ends_inside: Bool[Any, " spellings"]
    count: Int[Any, ""]
    token_joins: Ids
    token_ends_inside: Ids
    token_silent: Ids

    @classmethod
    def of(
        cls, phrases: Sequence[Sequence[Phrase]], vocab: int, borders: Borders | None = None
    ) -> "Required":
        """The table of phrases that are given with their spellings.

        Without `borders`, tokens are all that counts: a phrase may be a part of a word.
        """
        none = np.zeros(vocab, bool)
        token_joins, token_ends, token_silent = none, none.copy(), none.copy()
        if borders is not None:
            token_joins = _padded(borders.joins, vocab, False)
            token_ends = _padded(borders.ends_inside, vocab, False)
            token_silent = _padded(borders.silent, vocab, True)
        spellings = [spelling for phrase in phrases for spelling in phrase]
        side = _rounded(max(len(spellings), *map(len, spellings)))
        tokens = np.full((side, side), -1, np.int32)
        for row, spelling in enumerate(spellings):
            tokens[row, : len(spelling)] = spelling

        def column(values: Iterable[int]) -> np.ndarray:
            given = [*values]
            return np.array([*given, *[0] * (side - len(given))], np.int32)

        return cls(
            tokens=tokens,
            sizes=column(map(len, spellings)),
            phrases=column(i for i, phrase in enumerate(phrases) for _ in phrase),
            first=column(j == 0 for phrase in phrases for j, _ in enumerate(phrase)).astype(bool),
            shortest=column(
                shortest_spelling(phrase, borders) for phrase in phrases for _ in phrase
            ),
            # If every spelling of a phrase joins, there is no way to force it as a word.
            joins=column(
                token_joins[spelling[0]] and not all(token_joins[each[0]] for each in phrase)
                for phrase in phrases
                for spelling in phrase
            ).astype(bool),
            ends_inside=column(token_ends[spelling[-1]] for spelling in spellings).astype(bool),
            count=np.array(len(spellings), np.int32),
            token_joins=token_joins,
            token_ends_inside=token_ends,
            token_silent=token_silent,
        )


def shortest_spelling(phrase: Sequence[Phrase], borders: Borders | None = None) -> int:
    """The number of tokens of the shortest spelling that can follow any text as whole words."""
    free = [each for each in phrase if borders is None or not borders.joins[each[0]]]
    return min(map(len, free or phrase))


def _padded(which: Bool[np.ndarray, " some"], vocab: int, rest: bool) -> Ids:
    """For all tokens of a model, which may have more of them than the tokenizer."""
    found = np.full(vocab, rest)
    found[: len(which)] = which[:vocab]
    return found


class _Words:
    """Where the texts of rows are inside a word: places run from 0 to `time`, the end of a row.

    The token at `start` is the one that captions begin with, which has no text.
    """

    def __init__(self, tokens: Tokens, position: Position, required: Required, start: Place):
        time = tokens.shape[1]
        places = jnp.arange(time)
        written = (places > start) & (places < position) & ~required.token_silent[tokens]
        before = jax.lax.cummax(jnp.where(written, places, -1), axis=1)
        after = jax.lax.cummin(jnp.where(written, places, time), axis=1, reverse=True)
        ends = required.token_ends_inside[tokens]
        joins = required.token_joins[tokens]
        edge = ((0, 0), (1, 0))
        # Whether the text before each place ends within a word.
        self.inside = jnp.pad((before >= 0) & _take(ends, before), edge)
        edge = ((0, 0), (0, 1))
        # Whether there is text from each place on, and whether it joins what is before.
        self.continued = jnp.pad(after < time, edge)
        self.joined = jnp.pad((after < time) & _take(joins, after), edge)


def _take(values: Bool[Array, "rows time"], places: Int[Array, "rows time"]) -> Bool[Array, "..."]:
    return jnp.take_along_axis(values, jnp.clip(places, 0, values.shape[1] - 1), axis=1)


def require_phrases(
    scores: Scores,
    unconstrained: Scores,
    tokens: Tokens,
    position: Position,
    required: Required,
    *,
    start: Place = 0,
    left: Place,
    eos: Ids,
) -> Scores:
    """Let no caption end before it contains each phrase, in any one of its spellings.

    Until then eos is forbidden. When only as many tokens are `left` as the missing phrases need,
    their next token is the only one allowed, even if another constraint forbids it. So every
    caption that has room for all phrases contains them. A phrase is not contained in a longer word.
    One at the end of the text would be, if the next token continued it: this is allowed only if
    there is room to say the phrase again.
    """
    required = jax.tree.map(jnp.asarray, required)
    missing, loose, next_token = _progress(tokens, position, required, start, left)
    scores = forbid(scores, eos, (missing > 0)[:, None])
    tight = (loose > 0)[:, None] & (left - 1 < (missing + loose)[:, None])
    others = jnp.where(tight & required.token_joins, -jnp.inf, scores)
    # Other constraints may have left no token but those.
    rest = jnp.where(required.token_joins, -jnp.inf, unconstrained)
    stuck = tight & jnp.isneginf(others).all(-1, keepdims=True)
    scores = jnp.where(stuck, rest, others)
    # A free choice may have interrupted a phrase; then the whole phrase is still missing.
    urgent = (missing > 0)[:, None] & (left - 1 < missing[:, None])
    wanted = jnp.arange(scores.shape[1]) == next_token[:, None]
    return jnp.where(urgent, jnp.where(wanted, unconstrained, -jnp.inf), scores)


def _progress(
    tokens: Tokens, position: Position, required: Required, start: Place, left: Place
) -> tuple[Int[Array, " rows"], Int[Array, " rows"], Int[Array, " rows"]]:
    """The numbers of tokens in missing and in loose phrases, and the most complete one's next.

    A loose phrase is at the end of the text, where the next token may make it a part of a word.
    """
    rows, side = len(tokens), required.tokens.shape[1]
    none = jnp.zeros((rows, side), bool)
    words = _Words(tokens, position, required, start)

    def look(row: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        here = _contains(tokens, position, required.tokens[row], required.sizes[row])
        here &= ~(required.joins[row] & words.inside[:, :-1])
        open_end = required.ends_inside[row]
        ends = (jnp.roll(x, -required.sizes[row], axis=1)[:, :-1]
                for x in (words.joined, words.continued))  # fmt: skip
        joined, continued = ends
        here &= ~(open_end & joined)
        same = required.phrases == required.phrases[row]
        whole, firm = here.any(-1), (here & (~open_end | continued)).any(-1)
        said, sure = found
        return said | (whole[:, None] & same), sure | (firm[:, None] & same)

    said, sure = jax.lax.fori_loop(0, required.count, look, (none, none))
    each = required.first & (jnp.arange(side) < required.count)

    def total(which: Array) -> Array:
        return jnp.where(each & which, required.shortest, 0).sum(-1)

    missing, loose = total(~said), total(said & ~sure)
    inside = _take_at(words.inside, position)

    def follow(row: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        best, following = found
        size = required.sizes[row]
        begun = _ends_with(tokens, position, required.tokens[row], size)
        counts = jnp.arange(side)
        begun &= ~(required.joins[row] & _take_at(words.inside, position - counts))
        gain = jnp.where(begun & (counts < size), counts - (size - required.shortest[row]), -1)
        gain = jnp.where(said[:, row, None], -1, gain)
        # A phrase that goes on with the word of a loose one needs room for that one again.
        joins = (counts > 0) & required.token_joins[required.tokens[row]] & inside
        room = left + gain >= (missing + loose)[:, None]
        gain = jnp.where(joins & (loose > 0)[:, None] & ~room, -1, gain)
        most = gain.argmax(-1)
        gained = gain.max(-1)
        better = gained > best
        following = jnp.where(better, required.tokens[row][most], following)
        return jnp.where(better, gained, best), following

    none_yet = jnp.full(rows, -1, jnp.int32), jnp.zeros(rows, jnp.int32)
    _, following = jax.lax.fori_loop(0, required.count, follow, none_yet)
    return missing, loose, following


def _take_at(
    inside: Bool[Array, "rows places"], places: Int[Array, "*some"] | int
) -> Bool[Array, "rows some"]:
    """The values at the same places of every row, as columns."""
    return inside[:, jnp.atleast_1d(jnp.clip(places, 0, inside.shape[1] - 1))]


def _contains(
    tokens: Tokens, position: Position, phrase: Int[Array, " side"], size: Int[Array, ""]
) -> Bool[Array, "rows time"]:
    """At which places of which rows the first `size` tokens of `phrase` are."""
    here = jnp.broadcast_to(jnp.arange(tokens.shape[1]) + size <= position, tokens.shape)

    def also(i: Array, here: Array) -> Array:
        return here & (jnp.roll(tokens, -i, axis=1) == phrase[i])

    return jax.lax.fori_loop(0, size, also, here)


def _ends_with(
    tokens: Tokens, position: Position, phrase: Int[Array, " side"], size: Int[Array, ""]
) -> Bool[Array, "rows side"]:
    """For each number below `side`: which rows end with that many first tokens of `phrase`."""
    counts = jnp.arange(len(phrase))

    def also(i: Array, begun: Array) -> Array:
        last = tokens[:, jnp.clip(position - counts + i, 0, tokens.shape[1] - 1)]
        return begun & ((i >= counts) | (last == phrase[i]))

    begun = jnp.broadcast_to(counts <= position, (len(tokens), len(phrase)))
    return jax.lax.fori_loop(0, size - 1, also, begun)


def _marked(
    scores: Scores, tokens: Int[Array, "rows some"], which: Bool[Array, "rows some"]
) -> Bool[Array, "rows vocab"]:
    """Which token ids occur in `tokens` at a place where `which` is true."""
    rows, vocab = scores.shape
    at = jnp.where(which, tokens, vocab)
    none = jnp.zeros((rows, vocab), bool)
    return none.at[jnp.arange(rows)[:, None], at].set(True, mode="drop")


def _rounded(count: int) -> int:
    """The smallest power of `TABLE` that is at least `count`, and at least `TABLE`."""
    size = TABLE
    while size < count:
        size *= TABLE
    return size


@struct.dataclass
class Rules:
    """`Constraints` as arrays, which programs take as an argument.

    Whatever is not constrained has a value that changes nothing, and a table that would be empty is
    None. So one program serves all constraints whose tables have the same sizes.
    """

    repetition_penalty: Float[Any, ""]
    no_repeat_ngram_size: Int[Any, ""]
    bad_tokens: Ids
    bad_phrases: Int[Any, "phrases size"] | None
    min_length: Int[Any, ""]
    min_new_tokens: Int[Any, ""]
    forced_bos: Ids
    forced_eos: Ids
    suppressed: Ids
    suppressed_first: Ids
    required: Required | None
    automata: tuple[Automaton, ...]
    eos: Ids
    renormalize: bool = struct.field(pytree_node=False)

    def __call__(
        self,
        scores: Scores,
        tokens: Tokens,
        position: Position,
        *,
        start: Place = 0,
        prompt: Place,
        limit: Place,
    ) -> Scores:
        """Scores of the next token.

        Rows begin at `start`, prompts end at `prompt`, and captions at `limit` at the latest.
        """
        unconstrained = scores
        scores = _if(
            self.repetition_penalty != 1,
            lambda x: penalise_repetition(x, tokens, position, self.repetition_penalty),
            scores,
        )
        scores = _if(
            self.no_repeat_ngram_size > 0,
            lambda x: forbid_repeated_ngrams(x, tokens, position, self.no_repeat_ngram_size),
            scores,
        )
        scores = forbid(scores, self.bad_tokens)
        if self.bad_phrases is not None:
            scores = forbid_phrases(scores, tokens, position, self.bad_phrases)
        short = jnp.asarray(position - start < self.min_length)
        short |= jnp.asarray(position - prompt < self.min_new_tokens)
        scores = forbid(scores, self.eos, short)
        bos, end = jnp.asarray(self.forced_bos).any(), jnp.asarray(self.forced_eos).any()
        scores = force(scores, self.forced_bos, bos & jnp.asarray(position - start == 1))
        scores = force(scores, self.forced_eos, end & jnp.asarray(position == limit - 1))
        scores = forbid(scores, self.suppressed)
        # The caption begins after a forced bos.
        later = bos & jnp.asarray(prompt - start == 1)
        scores = forbid(scores, self.suppressed_first, position == prompt + later)
        if self.required is not None:
            left = limit - position - end
            given = scores, unconstrained, tokens, position, self.required
            scores = require_phrases(*given, start=start, left=left, eos=self.eos)
        ending = jnp.where(self.eos, unconstrained, -jnp.inf)
        for each in self.automata:
            begin = prompt + later if each.after_bos else prompt
            how = {"prompt": begin, "limit": limit, "ending": ending}
            scores = each(scores, tokens, position, **how)
        return jax.nn.log_softmax(scores) if self.renormalize else scores


def _if(on: Bool[Any, ""] | bool, change: Any, scores: Scores) -> Scores:
    return jax.lax.cond(on, change, lambda x: x, scores)


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
        start: Place = 0,
        prompt: Place,
        limit: Place,
        eos: tuple[int, ...],
    ) -> Scores:
        """Scores of the next token.

        Rows begin at `start`, prompts end at `prompt`, and captions at `limit` at the latest.
        """
        rules = self.rules(scores.shape[-1], eos)
        return rules(scores, tokens, position, start=start, prompt=prompt, limit=limit)

    def rules(
        self,
        vocab: int,
        eos: Sequence[int],
        borders: Borders | None = None,
        automata: tuple[Automaton, ...] = (),
    ) -> Rules:
        """The constraints as arrays, for a model that writes `vocab` tokens.

        With the tokenizer's `borders`, required phrases are whole words. `automata` say which
        tokens may follow. Raises `GenerationError` for tokens that are not among them.
        """
        ids = functools.partial(_ids, vocab)
        phrases = [phrase for phrase in self.bad_words_ids if phrase not in [(e,) for e in eos]]
        several = [phrase for phrase in phrases if len(phrase) > 1]
        ids([phrase[-1] for phrase in several])  # looks whether they are in the vocabulary
        bos = self.forced_bos_token_id
        required = self.force_words_ids
        ids([token for phrase in required for spelling in phrase for token in spelling])
        return Rules(
            repetition_penalty=np.array(self.repetition_penalty, np.float32),
            no_repeat_ngram_size=np.array(min(self.no_repeat_ngram_size, MOST), np.int32),
            bad_tokens=ids([phrase[0] for phrase in phrases if len(phrase) == 1]),
            bad_phrases=_table(several, vocab) if several else None,
            min_length=np.array(min(self.min_length, MOST), np.int32),
            min_new_tokens=np.array(min(self.min_new_tokens, MOST), np.int32),
            forced_bos=ids(() if bos is None else (bos,)),
            forced_eos=ids(self.forced_eos_token_id),
            suppressed=ids(self.suppress_tokens),
            suppressed_first=ids(self.begin_suppress_tokens),
            required=Required.of(required, vocab, borders) if required else None,
            automata=automata,
            eos=ids(eos),
            renormalize=self.renormalize_logits,
        )


def _table(phrases: Sequence[Phrase], vocab: int) -> Int[np.ndarray, "phrases size"]:
    """Phrases at the ends of rows, as `forbid_phrases` takes them."""
    side = _rounded(max(len(phrases), *map(len, phrases)))
    table = np.full((side, side), -1, np.int32)
    table[:, -1] = vocab
    for row, phrase in enumerate(phrases):
        table[row, side - len(phrase) :] = phrase
    return table


def _ids(vocab: int, ids: Sequence[int]) -> Bool[np.ndarray, " vocab"]:
    outside = [index for index in ids if not 0 <= index < vocab]
    if outside:
        raise GenerationError(
            f"token ids {outside} are not in the vocabulary; use ids from 0 to {vocab - 1}"
        )
    found = np.zeros(vocab, bool)
    found[list(ids)] = True
    return found
