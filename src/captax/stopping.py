"""Stopping a run where nothing is lost."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from tqdm import tqdm

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stopping(after: str) -> Iterator[Callable[[], bool]]:
    """Within the block Ctrl-C and SIGTERM only set what is given, `asked()`; a second one stops.

    `after` names, to whoever asked, what is still finished. Of a run of several processes, each of
    which must do the same steps, and in threads, where Python allows no handlers, signals do what
    they always do.
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
        tqdm.write(
            f"captax: stopping after this {after}; once more to stop at once", file=sys.stderr
        )

    for number in SIGNALS:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        restore()
