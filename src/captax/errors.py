"""The one exception family: every message says what was wrong, where, and what to do."""


class CaptaxError(Exception):
    """Base of all errors captax raises on bad input; the command line prints it as one line."""


class CheckpointError(CaptaxError):
    """A checkpoint cannot be read, or does not fit the model it is meant for."""
