"""How models are traced: modes that hold inside a block, in the thread that entered it alone."""

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
    """Inside the block models are traced in their plain forms, for any compiler and any batch.

    Sizes may be symbolic then. The forms that suit the compiler and the device at hand are left
    out, and so are gradients of our own.
    """
    return _changed(portable=True)


def rematerialised(whether: bool = True) -> contextlib.AbstractContextManager[None]:
    """Inside the block gradients keep what goes from layer to layer, and compute the rest twice."""
    return _changed(rematerialised=whether)


@contextlib.contextmanager
def _changed(**changes: Any) -> Iterator[None]:
    token = _modes.set(dataclasses.replace(_modes.get(), **changes))
    try:
        yield
    finally:
        _modes.reset(token)
