"""Texts that end at a given text, or that a JSON schema describes, as automata over tokens.

An automaton is a table: which state follows a state when a token is said. Most tokens behave alike
in all states, so the columns are classes of tokens.
"""

import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from captax.errors import quoted
from captax.generation.decoding import GenerationError
from captax.text.schema import NONE, SchemaError, table_apart, table_of

# Tables have a power of this as their number of rows and columns, so that few programs serve all.
_SIZE = 4
# More tokens than any text has.
_NEVER = 2**30


@struct.dataclass
class Automaton:
    """What may follow a text, token by token. State 0 is its beginning, before any token.

    `classes` gives the column of each token, `following` the next state, or -1 where a token is
    forbidden, and `left` the fewest tokens, eos included, in which a text can end from each state.
    """

    classes: Int[Any, " vocab"]
    following: Int[Any, "states classes"]
    left: Int[Any, " states"]

    @property
    def shortest(self) -> int:
        """The fewest tokens of a whole text."""
        return int(self.left[0])

    def __call__(
        self,
        scores: Float[Array, "rows vocab"],
        tokens: Int[Array, "rows time"],
        position: Int[Array, ""] | int,
        *,
        prompt: Any,
        limit: Any,
    ) -> Float[Array, "rows vocab"]:
        """Scores of the next token, without those that may not follow or leave too little room.

        Texts begin at `prompt` and end at `limit` at the latest: numbers, or columns of them.
        """
        classes, following = jnp.asarray(self.classes), jnp.asarray(self.following)
        rows = len(tokens)
        begins = jnp.broadcast_to(jnp.asarray(prompt).reshape(-1), rows)

        def read(place: Array, states: Array) -> Array:
            said = following[states, classes[jnp.maximum(tokens[:, place], 0)]]
            return jnp.where((place >= begins) & (states >= 0), said, states)

        states = jax.lax.fori_loop(begins.min(), position, read, jnp.zeros(rows, jnp.int32))
        # A text that has not begun is left alone, and one that other constraints have led astray.
        states = jnp.where(position >= begins, states, NONE)
        nexts = jnp.where(states[:, None] >= 0, following[states], 0)[:, classes]
        room = jnp.asarray(limit).reshape(-1, 1) - position - 1
        fits = (nexts >= 0) & (jnp.asarray(self.left)[nexts] <= room)
        return jnp.where(fits | (states[:, None] < 0), scores, -jnp.inf)


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
    done, end = len(states), len(states) + 1
    bytewise = np.full((done + 1, 256), done, np.int32)
    for tail, state in states.items():
        for byte in range(256):
            read = tail + bytes([byte])
            if not any(read.endswith(word) for word in wanted):
                kept = next(read[i:] for i in range(len(read) + 1) if read[i:] in states)
                bytewise[state, byte] = states[kept]
    table = np.tile(np.arange(end + 1, dtype=np.int32)[:, None], vocab)
    sizes = np.zeros(vocab, np.int32)
    sizes[: len(pieces)] = [len(piece) for piece in pieces[:vocab]]
    letters = np.zeros((vocab, max(1, sizes.max())), np.uint8)
    for index, piece in enumerate(pieces[:vocab]):
        letters[index, : len(piece)] = np.frombuffer(piece, np.uint8)
    for place in range(letters.shape[1]):
        longer = np.flatnonzero(sizes > place)
        table[:end, longer] = bytewise[table[:end, longer], letters[longer, place]]
    table[done] = NONE
    table[:, list(eos)] = end
    table[end] = end
    return _made(table, np.zeros(end + 1, np.int32))


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
    return _made(table, _to_the_end(table, len(table) - 1))


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


def _made(table: Int[np.ndarray, "states vocab"], left: Int[np.ndarray, " states"]) -> Automaton:
    """The automaton of a table with a column for each token."""
    columns = np.ascontiguousarray(table.T)
    alike = columns.view(np.dtype((np.void, columns.itemsize * columns.shape[1]))).reshape(-1)
    _, firsts, classes = np.unique(alike, return_index=True, return_inverse=True)
    rows, width = _rounded(len(table)), _rounded(len(firsts))
    following = np.full((rows, width), NONE, np.int32)
    following[: len(table), : len(firsts)] = table[:, firsts]
    padded = np.full(rows, _NEVER, np.int32)
    padded[: len(left)] = left
    return Automaton(classes.reshape(-1).astype(np.int32), following, padded)


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
