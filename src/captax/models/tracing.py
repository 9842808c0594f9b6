"""How models are traced: modes that hold inside a `with` block, for its own thread only."""

import contextlib
import dataclasses
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any


@dataclasses.dataclass(frozen=True)
class Modes:
    """`portable`: models take their plain forms. `rematerialised`: layers are computed twice."""

    portable: bool = False
    rematerialised: bool = False


PLAIN = Modes()
_modes: ContextVar[Modes] = ContextVar("modes", default=PLAIN)


def modes() -> Modes:
    """The modes that hold here."""
    return _modes.get()


def portable() -> contextlib.AbstractContextManager[None]:
    """Inside the block, models are traced in plain forms that suit any compiler and any batch size.

    Sizes may be symbolic. The forms for the current device and the gradients that captax defines
    itself are not used.
    """
    return _changed(portable=True)


def rematerialised(whether: bool = True) -> contextlib.AbstractContextManager[None]:
    """Inside the block, gradients keep each layer's input and compute the rest of it twice."""
    return _changed(rematerialised=whether)


@contextlib.contextmanager
def _changed(**changes: Any) -> Iterator[None]:
    token = _modes.set(dataclasses.replace(_modes.get(), **changes))
    try:
        yield
    finally:
        _modes.reset(token)
