"""Rules for whole texts as automata over tokens: how they begin, how long they are, where they end.

An automaton is a table: which state follows a state when a token is said. Most tokens behave alike
in all states, so the columns are classes of tokens. Several automata can hold for one text, if each
of them lets it end in every state.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from captax.errors import quoted
from captax.generation.decoding import GenerationError
from captax.text.dangling import DANGLING
from captax.text.schema import NONE, SchemaError, table_apart, table_of

# Tables have a power of this as their number of rows and columns, so that few programs serve all.
_SIZE = 4
# More tokens than any text has.
_NEVER = 2**30
# The first states of texts whose words are counted: no word is open, or one is.
_BETWEEN, _WITHIN = 0, 1
# What may end a sentence, and close what was opened in it.
_CLOSING = frozenset(".!?\u2026\u3002\uff01\uff1f\u0964\u061f\"'\u201d\u2019\u00bb)]}")
# What tokens do to the end of a text.
_CLOSES, _DANGLES = 1, 2
# What may stand before the first word of a text.
_OPENING = b" \t\r\n\"'*#_(["


@struct.dataclass
class Words:
    """The words that tokens begin, of at most `most`.

    `begun` has their number for each state and class. `closing` says of each class whether it only
    closes a sentence, or ends the text, and `dangling` whether it is a word that asks for another.
    """

    begun: Int[Any, "states classes"]
    closing: Bool[Any, " classes"]
    dangling: Bool[Any, " classes"]
    most: Int[Any, ""]


@struct.dataclass
class Automaton:
    """What may follow a text, token by token. State 0 is its beginning, before any token.

    `classes` gives the column of each token, `following` the next state, or -1 where a token is
    forbidden, and `left` the fewest tokens, eos included, in which a text can end from each state.
    `words` counts them, where there may only be so many. With `after_bos`, the text begins after a
    first token that decoding forces.
    """

    classes: Int[Any, " vocab"]
    following: Int[Any, "states classes"]
    left: Int[Any, " states"]
    words: Words | None = None
    after_bos: bool = struct.field(pytree_node=False, default=False)

    @property
    def shortest(self) -> int:
        """The fewest tokens of a whole text."""
        return int(self.left[0])

    def with_words(self, most: int) -> "Automaton":
        """This automaton for texts of at most `most` words, if it counts words."""
        if self.words is None:
            return self
        limit = np.array(min(most, _NEVER), np.int32)
        return dataclasses.replace(self, words=dataclasses.replace(self.words, most=limit))

    def __call__(
        self,
        scores: Float[Array, "rows vocab"],
        tokens: Int[Array, "rows time"],
        position: Int[Array, ""] | int,
        *,
        prompt: Any,
        limit: Any,
        ending: Float[Array, "rows vocab"] | float = -jnp.inf,
    ) -> Float[Array, "rows vocab"]:
        """Scores of the next token, without those that may not follow or leave too little room.

        Texts begin at `prompt` and end at `limit` at the latest: numbers, or columns of them. A
        text that has all its words, or that nothing may follow, may end with the scores `ending`,
        whatever else forbids that it ends.
        """
        classes, following = jnp.asarray(self.classes), jnp.asarray(self.following)
        rows = len(tokens)
        begins = jnp.broadcast_to(jnp.asarray(prompt).reshape(-1), rows)

        counted = self.words
        begun = None if counted is None else jnp.asarray(counted.begun)

        def read(place: Array, before: tuple[Array, Array]) -> tuple[Array, Array]:
            states, words = before
            column = classes[jnp.maximum(tokens[:, place], 0)]
            said = (place >= begins) & (states >= 0)
            if begun is not None:
                words = jnp.where(said, words + begun[states, column], words)
            return jnp.where(said, following[states, column], states), words

        none = jnp.zeros(rows, jnp.int32)
        states, words = jax.lax.fori_loop(begins.min(), position, read, (none, none))
        # A text that has not begun is left alone, and one that other constraints have led astray.
        states = jnp.where(position >= begins, states, NONE)
        nexts = jnp.where(states[:, None] >= 0, following[states], 0)[:, classes]
        room = jnp.asarray(limit).reshape(-1, 1) - position - 1
        fits = (nexts >= 0) & (jnp.asarray(self.left)[nexts] <= room)
        full = jnp.zeros(rows, bool)
        if counted is not None:
            few, full = self._few_words(scores, states, words)
            fits &= few
        found = jnp.where(fits | (states[:, None] < 0), scores, -jnp.inf)
        full |= jnp.isneginf(found).all(-1)
        return jnp.where(full[:, None], jnp.maximum(found, ending), found)

    def _few_words(
        self,
        scores: Float[Array, "rows vocab"],
        states: Int[Array, " rows"],
        words: Int[Array, " rows"],
    ) -> tuple[Bool[Array, "rows vocab"], Bool[Array, " rows"]]:
        """Which tokens begin no word too many, and which texts have all their words.

        The last word is none that asks for another. After it, a text ends where it would rather
        begin another one than go on with that: else a model that may not write a space would go on
        without.
        """
        assert self.words is not None
        given = jax.tree.map(jnp.asarray, self.words)
        most, begun = given.most, given.begun[states]
        total = words[:, None] + begun
        unfit = (total > most) | ((total == most) & (begun > 0) & given.dangling)
        over, unfit = (total > most)[:, self.classes], unfit[:, self.classes]
        closes = given.closing[self.classes]
        another = jnp.where(over, scores, -jnp.inf).max(-1)
        goes_on = jnp.where(over | closes, -jnp.inf, scores).max(-1)
        last = (words >= most) & (states <= _WITHIN)
        ends = last & (another > goes_on)
        return ~unfit & (closes | ~ends[:, None]), last


def until(
    texts: Sequence[str], pieces: Sequence[bytes], vocab: int, eos: Sequence[int]
) -> Automaton:
    """The automaton of texts in which only eos follows one of `texts`.

    `pieces` are the bytes of each token. It is that of Aho and Corasick
    (https://doi.org/10.1145/360825.360855).
    """
    wanted = [text.encode() for text in texts]
    tails = dict.fromkeys(word[:n] for word in wanted for n in range(len(word)))
    states = {tail: i for i, tail in enumerate(tails)}  # the empty one first
    done = len(states)
    bytewise = np.full((done + 1, 256), done, np.int32)
    for tail, state in states.items():
        for byte in range(256):
            read = tail + bytes([byte])
            if not any(read.endswith(word) for word in wanted):
                kept = next(read[i:] for i in range(len(read) + 1) if read[i:] in states)
                bytewise[state, byte] = states[kept]
    classes, table, _ = _by_token(bytewise, pieces, vocab, eos)
    table[done, table[done] == done] = NONE
    return _made(classes, table, np.zeros(len(table), np.int32))


def avoiding(
    beginnings: Sequence[str], pieces: Sequence[bytes], vocab: int, eos: Sequence[int]
) -> Automaton:
    """The automaton of texts that begin with none of `beginnings`.

    These are ASCII in lower case; the text's case, white space and what opens a quotation do not
    count.
    """
    states: dict[tuple[frozenset[bytes], bool], int] = {}
    rows: list[np.ndarray] = []
    free, done = 0, 1  # for now; the numbers of the others follow
    first = frozenset(text.encode() for text in beginnings)
    waiting = [(first, True)]
    states[waiting[0]] = 2
    for rest, spaced in waiting:
        row = np.full(256, free, np.int32)
        for byte in range(256):
            letter = b" " if byte in b" \t\r\n" else bytes([byte]).lower()
            if (rest == first and byte in _OPENING) or (spaced and letter == b" "):
                row[byte] = states[rest, spaced]
                continue
            after = frozenset(text[1:] for text in rest if text[:1] == letter)
            if b"" in after:
                row[byte] = done
            elif after:
                following = after, letter == b" "
                if following not in states:
                    states[following] = 2 + len(states)
                    waiting.append(following)
                row[byte] = states[following]
        rows.append(row)
    # The beginning is the first state.
    order = np.array([len(rows), len(rows) + 1, *range(len(rows))], np.int32)
    bytewise = np.concatenate(
        [order[np.stack(rows)], np.tile(np.array([[len(rows)], [len(rows) + 1]], np.int32), 256)]
    )
    classes, table, _ = _by_token(bytewise, pieces, vocab, eos)
    table[table == len(rows) + 1] = NONE
    return _made(classes, table, np.zeros(len(table), np.int32))


def of_words(pieces: Sequence[bytes], vocab: int, eos: Sequence[int]) -> Automaton:
    """The automaton of texts whose words are counted, which white space divides.

    `with_words` says how many there may be. White space is what `str.split` takes for it. A
    character of several bytes that may yet become a space counts as one of a word until it does.
    """
    spaces = [letter.encode() for letter in map(chr, range(0x3001)) if letter.isspace()]
    begun = dict.fromkeys(space[:n] for space in spaces for n in range(1, len(space)))
    # Beginnings of spaces, between words and within one.
    parts = {(part, inside): 2 + i for i, (part, inside) in
             enumerate((part, inside) for part in begun for inside in (False, True))}  # fmt: skip
    bytewise = np.full((2 + len(parts), 256), _WITHIN, np.int32)
    adds = np.zeros(bytewise.shape, np.int32)
    adds[_BETWEEN] = 1
    for (part, inside), state in {(b"", False): 0, (b"", True): 1, **parts}.items():
        for byte in range(256):
            for read in (part + bytes([byte]), bytes([byte])):  # what was no space is a letter
                if read in spaces:
                    bytewise[state, byte] = _BETWEEN
                    adds[state, byte] = -1 if part and read[:-1] == part and not inside else 0
                    break
                if read in begun:
                    within = inside or (bool(part) and read != part + bytes([byte]))
                    bytewise[state, byte] = parts[read, within]
                    break
    classes, table, sums = _by_token(bytewise, pieces, vocab, eos, adds)
    kinds = np.zeros(vocab, np.int32)
    kinds[: len(pieces)] = [_kind(piece) for piece in pieces[:vocab]]
    kinds[list(eos)] = _CLOSES
    kinds, classes = np.unique(3 * classes + kinds, return_inverse=True)
    columns, kinds = kinds // 3, kinds % 3
    limit = np.array(_NEVER, np.int32)
    words = Words(sums[:, columns], kinds == _CLOSES, kinds == _DANGLES, limit)
    return _made(classes, table[:, columns], np.zeros(len(table), np.int32), words)


def _kind(piece: bytes) -> int:
    text = piece.decode(errors="replace").strip()
    if text and _CLOSING.issuperset(text):
        return _CLOSES
    return _DANGLES if text.lower() in DANGLING else 0


def _by_token(
    bytewise: Int[np.ndarray, "states 256"],
    pieces: Sequence[bytes],
    vocab: int,
    eos: Sequence[int],
    adds: Int[np.ndarray, "states 256"] | None = None,
) -> tuple[
    Int[np.ndarray, " vocab"], Int[np.ndarray, "more classes"], Int[np.ndarray, "more classes"]
]:
    """Classes of tokens, what follows each state after those of each class, and what they add.

    A state is added, in which the text has ended; tokens without bytes change nothing.
    """
    end = len(bytewise)
    adds = np.zeros(bytewise.shape, np.int32) if adds is None else adds
    columns: list[np.ndarray] = []
    numbers: dict[bytes, int] = {}
    steps: dict[tuple[int, int], int] = {}  # few, for most tokens do the same to most states

    def number(states: np.ndarray, sums: np.ndarray) -> int:
        column = np.stack([states, sums]).astype(np.int32)
        key = column.tobytes()
        if key not in numbers:
            numbers[key] = len(columns)
            columns.append(column)
        return numbers[key]

    def step(before: int, byte: int) -> int:
        states, sums = columns[before]
        return number(bytewise[states, byte], sums + adds[states, byte])

    nothing, none = np.arange(end), np.zeros(end, np.int32)
    same, over = number(nothing, none), number(none + end, none)
    classes = np.full(vocab, same, np.int32)
    for index, piece in enumerate(pieces[:vocab]):
        found = same
        for byte in piece:
            if (found, byte) not in steps:
                steps[found, byte] = step(found, byte)
            found = steps[found, byte]
        classes[index] = found
    classes[list(eos)] = over
    kept, found_in = np.unique(classes, return_inverse=True)
    both = np.stack([columns[each] for each in kept], -1)
    ended = np.stack([np.full(len(kept), end), np.zeros(len(kept))])[:, None].astype(np.int32)
    table, sums = np.concatenate([both, ended], 1)
    return found_in.astype(np.int32), table, sums


def of_schema(
    schema: str, pieces: Sequence[bytes], vocab: int, eos: Sequence[int], *, apart: bool = False
) -> Automaton:
    """The automaton of the JSON that a schema describes.

    `pieces` are the bytes of each token, and `b""` for those that JSON may not hold. A stranger's
    schema is followed `apart`, in another process.

    Raises:
        GenerationError: the schema cannot be followed.
    """
    try:
        table = (table_apart if apart else table_of)(schema, pieces, vocab, eos)
    except SchemaError as error:
        raise GenerationError(str(error)) from None
    columns = np.ascontiguousarray(table.T)
    alike = columns.view(np.dtype((np.void, columns.itemsize * columns.shape[1]))).reshape(-1)
    _, firsts, classes = np.unique(alike, return_index=True, return_inverse=True)
    left = _to_the_end(table, len(table) - 1)
    return _made(classes, table[:, firsts], left, after_bos=True)


def _to_the_end(table: Int[np.ndarray, "states vocab"], end: int) -> Int[np.ndarray, " states"]:
    """The fewest tokens from each state to the last."""
    left = np.full(len(table), _NEVER, np.int32)
    left[end] = 0
    after = [np.unique(row[row >= 0]) for row in table]
    while True:
        nearer = np.array([1 + left[each].min(initial=_NEVER) for each in after], np.int32)
        nearer = np.minimum(nearer, left)
        if (nearer == left).all():
            return left
        left = nearer


def _made(
    classes: Int[np.ndarray, "*vocab"],
    table: Int[np.ndarray, "states classes"],
    left: Int[np.ndarray, " states"],
    words: Words | None = None,
    *,
    after_bos: bool = False,
) -> Automaton:
    """The automaton of these tables, which are filled up to one of a few sizes."""
    rows, width = map(_rounded, table.shape)

    def filled(array: np.ndarray, value: int) -> np.ndarray:
        added = [(0, size - have) for size, have in zip((rows, width), array.shape, strict=False)]
        return np.pad(array.astype(np.int32), added, constant_values=value)

    if words is not None:
        rest = 0, width - len(words.closing)
        kinds = np.pad(words.closing, rest), np.pad(words.dangling, rest)
        words = Words(filled(words.begun, 0), *kinds, words.most)
    given = classes.reshape(-1).astype(np.int32), filled(table, NONE), filled(left, _NEVER)
    return Automaton(*given, words, after_bos)


def _rounded(count: int) -> int:
    size = _SIZE
    while size < count:
        size *= _SIZE
    return size


def schema_text(schema: object) -> str:
    """A JSON schema, given as text or as what JSON parsed, as text.

    Raises:
        GenerationError: it is none.
    """
    try:
        parsed = json.loads(schema) if isinstance(schema, str) else schema
        text = json.dumps(parsed)
    except (TypeError, ValueError, RecursionError) as error:
        raise GenerationError(f"`json_schema` is not JSON ({error}); give a schema") from None
    if not isinstance(parsed, dict):
        raise GenerationError(f"`json_schema` is {quoted(text)}; give a JSON object, a schema")
    return text
