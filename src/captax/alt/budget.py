"""The time that the reading of one document may take.

Some documents take a parser very long for their size, and are made so to delay it. Whatever reads
one calls `check` again and again, and each step in between takes time that grows with the size of
what it reads.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from captax.errors import CaptaxError

SECONDS = 8.0  # of this thread's work, however busy the machine is

_END = ContextVar("_END", default=(math.inf, math.inf))


class BudgetError(CaptaxError):
    """A document takes too long to read."""


@contextlib.contextmanager
def budget() -> Iterator[None]:
    """Give what is read in the block `SECONDS`, after which `check` raises `BudgetError`."""
    token = _END.set((time.perf_counter() + SECONDS, time.thread_time() + SECONDS))
    try:
        yield
    finally:
        _END.reset(token)


def check(*_: object) -> Any:
    """Raise `BudgetError` if the time is over.

    It can be one of a parser's rules: whatever it is given, it returns False, so it never fits.
    """
    by_the_wall, by_work = _END.get()
    # A thread never works longer than the wall's clock runs, which is much faster to look at.
    if time.perf_counter() > by_the_wall and time.thread_time() > by_work:
        raise BudgetError(
            f"takes more than {SECONDS:g} seconds to read, so it is left as it is; split it, or "
            "take out what repeats itself"
        )
    return False
