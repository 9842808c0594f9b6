"""Stop a run at a point where nothing is lost."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax

from captax.progress import tell

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stopping(after: str) -> Iterator[Callable[[], bool]]:
    """Within the block, the first Ctrl-C or SIGTERM only makes `asked()` true; a second one stops.

    The block is given `asked`. `after` names the work that is still finished, for the message to
    the user. Signals keep their usual effect in a run of several processes, because all of them
    must do the same steps, and in threads, because Python allows no signal handlers there.
    """
    asked = threading.Event()
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: Any) -> None:
        restore()
        asked.set()
        tell(f"captax: stopping after this {after}; press Ctrl-C again to stop at once", sys.stderr)

    for number in SIGNALS:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        restore()
