"""The family of all exceptions: every message says what is wrong, where, and what to do."""

import re

# Control characters, line ends, and halves of surrogate pairs, which no stream can write.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LONGEST = 20_000  # characters of a message; the longest honest ones list a model's tensors


class CaptaxError(Exception):
    """The base of all errors that captax raises on bad input; commands print it as one line.

    Messages quote names and texts from files. Characters that would break the line, control a
    terminal or be impossible to print are replaced by Python's escapes, and a message that such a
    text makes endless loses its middle.
    """

    def __init__(self, message: str = "") -> None:
        if len(message) > _LONGEST:
            half = _LONGEST // 2
            message = f"{message[:half]} ... {message[-half:]}"
        super().__init__(_UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], message))


class OptionError(CaptaxError):
    """An option has no meaning, alone or beside another one.

    The message names options in backquotes as Python spells them (`num_beams`, `do_sample=True`);
    the command line spells them its own way.
    """


class CheckpointError(CaptaxError):
    """A checkpoint cannot be read, or does not fit the model it is meant for."""


def quoted(value: object, most: int = 200) -> str:
    """A value from a file as a message quotes it: as Python writes it, at most so many characters.

    Where Python cannot write it, as with numbers of many thousand digits, its type is named.
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"{type(value).__name__} ..."
    return text if len(text) <= most else f"{text[:most]} ..."


def plain(message: str) -> str:
    """A message of pydantic without the words that it puts around a validator's own."""
    return re.sub(r"Value error, |, unable to [\w ]+", "", message)
