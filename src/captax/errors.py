"""The family of all exceptions: every message says what is wrong, where, and what to do."""

import difflib
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

# Control characters, line ends, and halves of surrogate pairs, which no stream can write.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LONGEST = 50_000  # characters of a message: the names of all tensors of a model fit
_QUOTED = 300  # characters of what one quotation tells
_DEEPEST = 20  # lists within lists that it tells


class CaptaxError(Exception):
    """The base of all errors that captax raises on bad input; commands print it as one line.

    Messages quote names and texts from files. Characters that would break the line, control a
    terminal or be impossible to print are replaced by Python's escapes. A message that is too long
    loses its middle.
    """

    def __init__(self, message: str = "") -> None:
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
        super().__init__(_UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], message))


class OptionError(CaptaxError):
    """An option has no meaning, alone or beside another one.

    The message names options in backquotes as Python spells them (`num_beams`, `do_sample=True`);
    the command line spells them its own way.
    """


class CheckpointError(CaptaxError):
    """A checkpoint cannot be read, or does not fit the model it is meant for."""


def quoted(value: Any) -> str:
    """`repr(value)`, for messages about what a file or a user gave; a long one loses its end.

    It never takes long to write: a file of a few hundred bytes can describe lists within lists that
    have 2^100 members.
    """
    told = ""
    for piece in _pieces(value, 0):
        told += piece
        if len(told) > _QUOTED:
            return f"{told[:_QUOTED]}..."
    return told


def _pieces(value: Any, depth: int) -> Iterator[str]:
    kind = type(value)
    if kind in (str, bytes):
        yield repr(value[: _QUOTED + 1])
    elif kind is int and value.bit_length() > 4 * _QUOTED:
        yield f"a number of {value.bit_length()} bits"
    elif kind not in (list, tuple, dict, set):
        yield repr(value)
    elif depth == _DEEPEST:
        yield "..."
    elif not value:
        yield repr(value)
    else:
        brackets = "[]" if kind is list else "()" if kind is tuple else "{}"
        yield brackets[0]
        for number, member in enumerate(islice(value, _QUOTED)):
            yield ", " if number else ""
            yield from _pieces(member, depth + 1)
            if kind is dict:
                yield ": "
                yield from _pieces(value[member], depth + 1)
        yield f",{brackets[1]}" if kind is tuple and len(value) == 1 else brackets[1]


def plural(count: int, one: str, several: str = "") -> str:
    """A number of things in words: "1 picture", "2,000 pictures"; `several` if no s is added."""
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


def nearest(name: str, known: list[str]) -> str:
    """A hint for a message about an unknown `name`."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known options: {', '.join(known)}"


def plain(message: str) -> str:
    """A message of pydantic in the words of ours."""
    message = re.sub(r"Value error, |, unable to [\w ]+", "", message)
    message = re.sub(r"\bInput should (be|have)\b", r"must \1", message)
    message = re.sub(r"\bmust be a valid integer\b", "must be an integer", message)
    return re.sub(r"\bmust be a valid\b", "must be a", message)
