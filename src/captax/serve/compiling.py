"""One thread that compiles what requests with new options need, beside the model's thread."""

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from captax.generation.programs import NotCompiled
from captax.images.budget import trim

logger = logging.getLogger("captax.serve")

# Most programs that requests wait for, with the one that is being compiled.
WAITING = 4
# Most inputs that wait for programs, as a part of the queue: the rest is for known options.
PART = 4
# The compiler gets what the model and the requests leave over of the processor.
NICE = 10
# XLA compiles in one thread, so that the model keeps the other cores.
OPTIONS = {"xla_cpu_parallel_codegen_split_count": 1}
LONGEST_RETRY = 60


class Busy(Exception):
    """There is no room for what was asked; there may be some in `retry_after` seconds."""

    def __init__(self, message: str, retry_after: int):
        super().__init__(message)
        self.retry_after = retry_after


class Compiler:
    """Compiles one program at a time, and gives back the entries that waited for it.

    An entry that is `unwanted` leaves its place, and so does a program that nobody wants any more.
    """

    def __init__(self, give_back: Callable[[list[Any]], None], *, limit: int):
        """`limit` is the most entries that may wait."""
        self._give_back, self._limit = give_back, limit
        self._waiting: dict[Hashable, tuple[NotCompiled, list[Any]]] = {}
        self._wished: NotCompiled | None = None
        self._changed = threading.Condition()
        self._stopping = False
        self._seconds = 10.0
        self._thread = threading.Thread(target=self._work, name="captax-compiler", daemon=True)

    def ask(self, missing: NotCompiled, entries: Sequence[Any]) -> None:
        """Compile a program for `entries`. Raises `Busy` when too much is waiting already."""
        with self._changed:
            self._forget_unwanted()
            known = missing.key in self._waiting
            programs = len(self._waiting) + (not known)
            inputs = sum(len(each) for _, each in self._waiting.values()) + len(entries)
            if programs > WAITING or inputs > self._limit:
                seconds = min(math.ceil(self._seconds * programs), LONGEST_RETRY)
                raise Busy(
                    "too many new sets of options are being compiled; use the options of other "
                    f"requests, or try again in {seconds} s",
                    max(1, seconds),
                )
            self._waiting.setdefault(missing.key, (missing, []))[1].extend(entries)
            self._changed.notify_all()

    def wish(self, missing: NotCompiled) -> None:
        """Compile a program that would be of use, once nobody waits for another."""
        with self._changed:
            self._wished = missing
            self._changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the program that it compiles. Entries are given back first."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _forget_unwanted(self) -> None:
        for key, (_, entries) in list(self._waiting.items()):
            entries[:] = [entry for entry in entries if not entry.future.unwanted]
            if not entries:
                del self._waiting[key]

    def _next(self) -> NotCompiled | None:
        with self._changed:
            while True:
                self._forget_unwanted()
                if self._waiting:
                    return next(iter(self._waiting.values()))[0]
                if self._stopping:
                    return None
                if self._wished is not None:
                    wished, self._wished = self._wished, None
                    return wished
                self._changed.wait()

    def _work(self) -> None:
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while (missing := self._next()) is not None:
            logger.info("compiling for new options, once")
            started = time.perf_counter()
            error = None
            try:
                missing.compile(OPTIONS)
            except Exception as failure:
                error = failure
            seconds = time.perf_counter() - started
            self._seconds += 0.5 * (seconds - self._seconds)
            logger.info("compiled a program for new options in %.1f s", seconds)
            trim()
            with self._changed:
                _, entries = self._waiting.get(missing.key, (missing, []))
                if error is None:
                    self._give_back(entries)
                else:
                    for entry in entries:
                        entry.future.set_exception(error)
                self._waiting.pop(missing.key, None)
