"""The one exception family: every message says what was wrong, where, and what to do."""

import re

# Controls, what ends a line, and halves of surrogate pairs, which no stream takes.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class CaptaxError(Exception):
    """Base of all errors captax raises on bad input; the command line prints it as one line.

    Messages quote names and texts as files have them: what would break the line, steer a terminal
    or be refused by it stands there as Python escapes it.
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
