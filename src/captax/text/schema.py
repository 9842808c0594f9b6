"""Which tokens may follow in JSON that a schema describes (https://json-schema.org), as a table.

The library outlines-core turns the schema into a regular expression, and that into states. This can
take very long and all memory, so a stranger's schema is followed in a process of its own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from captax.errors import OptionError, quoted

# More than any schema that people write needs; a table of them takes a gigabyte.
_MOST_STATES = 4096
# Of a stranger's schema: seconds, bytes of memory, and bytes of its table.
SECONDS, MEMORY, MOST_TABLE = 20.0, 4 * 2**30, 2**28
# The state that follows where a token is forbidden.
NONE = -1

Table = Int[np.ndarray, "states vocab"]
_PROGRAM = """
import sys
sys.path[:] = {path!r}
from captax.text.schema import work
work({memory})
"""


class SchemaError(OptionError):
    """A schema cannot be followed."""


def table_of(
    schema: str, pieces: Sequence[bytes], vocab: int, eos: Sequence[int], most: int | None = None
) -> Table:
    """The state that follows each state when a token is said, or -1. The first is the beginning.

    `pieces` are the bytes of each token, and `b""` for those that JSON may not hold. In the last
    state, which follows itself, the text has ended. The table has at most `most` bytes.

    Raises:
        SchemaError: the library is missing, or the schema is not one that it can follow.
    """
    try:
        # An extra.
        from outlines_core import Index, Vocabulary
        from outlines_core.json_schema import build_regex_from_schema
    except ModuleNotFoundError:
        raise SchemaError(
            "`json_schema` needs the library outlines-core; pip install 'captax[schema]'"
        ) from None
    tokens: dict[bytes, list[int]] = {}
    for index, piece in enumerate(pieces[:vocab]):
        if piece and index not in eos:
            tokens.setdefault(piece, []).append(index)
    try:
        # Some tokenizers begin every text with a space.
        pattern = "[ ]?" + build_regex_from_schema(schema)
        index = Index(pattern, Vocabulary(vocab, tokens))
    except Exception as error:  # whatever the library raises for what it cannot follow
        raise SchemaError(
            f"`json_schema` cannot be followed ({quoted(str(error))}); write a simpler one"
        ) from None
    moves = index.get_transitions()
    fit = _MOST_STATES if most is None else min(_MOST_STATES, most // (4 * vocab))
    if len(moves) >= fit:
        raise SchemaError(
            f"`json_schema` needs {len(moves):,} states, and there may be {fit - 1:,}; "
            "write a simpler one"
        )
    numbers = {index.get_initial_state(): 0}
    for state in moves:
        numbers.setdefault(state, len(numbers))
    end = len(numbers)
    table = np.full((end + 1, vocab), NONE, np.int32)
    for state, following in moves.items():
        said = {token: numbers.get(after, end) for token, after in following.items()}
        if said.pop(vocab, None) is not None:  # the text may end here
            said |= dict.fromkeys(eos, end)
        table[numbers[state], list(said)] = list(said.values())
    table[end] = end
    return table


def table_apart(schema: str, pieces: Sequence[bytes], vocab: int, eos: Sequence[int]) -> Table:
    """The same for a stranger's schema: made by another process, within limits.

    Raises:
        SchemaError: it cannot be followed, or not within the limits.
    """
    asked = {"schema": schema, "vocab": vocab, "eos": [*eos], "sizes": [*map(len, pieces)]}
    # Isolated: the folder that we are in may have modules in it too.
    code = _PROGRAM.format(path=sys.path, memory=MEMORY)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", code],
            input=json.dumps(asked).encode() + b"\n" + b"".join(pieces),
            timeout=SECONDS,
            capture_output=True,
            check=False,
            start_new_session=True,  # Ctrl-C is for the main process, which waits for this one
            # Arenas and threads reserve addresses, which are limited.
            env={**os.environ, "MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired:
        raise SchemaError(
            f"`json_schema` takes more than {SECONDS:g} s to follow; write a simpler one"
        ) from None
    head, _, body = done.stdout.partition(b"\n")
    if done.returncode or not head:
        raise SchemaError("`json_schema` takes too much memory to follow; write a simpler one")
    answer = json.loads(head)
    if "error" in answer:
        raise SchemaError(answer["error"])
    return np.frombuffer(body, np.int32).reshape(answer["shape"])


def work(memory: int) -> None:
    """What the other process does: it reads standard input and answers on standard output."""
    if sys.platform == "linux":
        # Start-up time: other systems have none.
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    asked = json.loads(sys.stdin.buffer.readline())
    pieces = [sys.stdin.buffer.read(size) for size in asked["sizes"]]
    out = sys.stdout.buffer
    try:
        table = table_of(asked["schema"], pieces, asked["vocab"], asked["eos"], MOST_TABLE)
    except SchemaError as error:
        out.write(json.dumps({"error": str(error)}).encode() + b"\n")
        return
    out.write(json.dumps({"shape": table.shape}).encode() + b"\n")
    out.write(table.tobytes())
