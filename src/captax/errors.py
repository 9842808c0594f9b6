"""The family of all exceptions: every message says what is wrong, where, and what to do."""

import re

# Control characters, line ends, and halves of surrogate pairs, which no stream can write.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class CaptaxError(Exception):
    """The base of all errors that captax raises on bad input; commands print it as one line.

    Messages quote names and texts from files. Characters that would break the line, control a
    terminal or be impossible to print are replaced by Python's escapes.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], message))


class OptionError(CaptaxError):
    """An option has no meaning, alone or beside another one.

    The message names options in backquotes as Python spells them (`num_beams`, `do_sample=True`);
    the command line spells them its own way.
    """


class CheckpointError(CaptaxError):
    """A checkpoint cannot be read, or does not fit the model it is meant for."""


def plain(message: str) -> str:
    """A message of pydantic without the words that it puts around a validator's own."""
    return re.sub(r"Value error, |, unable to [\w ]+", "", message)
