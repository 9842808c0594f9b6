"""How far long work is: a bar in a terminal, and in a log a line now and then."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from captax.errors import CaptaxError, plural

LOG_SECONDS = 30  # from one line of progress in a log to the next

T = TypeVar("T")


def in_terminal() -> bool:
    """Whether a bar would be seen: standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def tell(line: str, file: Any = None) -> None:
    """Print one line, by default on standard output, at once and without breaking a bar.

    What would break the line or steer the terminal is escaped.
    """
    file = sys.stdout if file is None else file
    tqdm.write(str(CaptaxError(line)), file=file)
    if file is not None:
        file.flush()  # a log is read while it grows


@contextlib.contextmanager
def no_bars_in_logs(library: Any) -> Iterator[None]:
    """Within the block, a library of Hugging Face draws its own bars only in a terminal.

    `library` is `huggingface_hub.utils` or `datasets`.
    """
    if in_terminal() or library.are_progress_bars_disabled():
        yield
        return
    library.disable_progress_bars()
    try:
        yield
    finally:
        library.enable_progress_bars()


class Progress:
    """Counts what is done of `total`: a bar in a terminal, else a line each 30 seconds in the log.

    With `shown` false it only counts. `leave` keeps the bar when the work is done. `done` is how
    much is done, and `detail` is shown behind the count.
    """

    def __init__(
        self,
        total: int,
        *,
        unit: str,
        label: str = "",
        initial: int = 0,
        shown: bool = True,
        leave: bool = False,
    ):
        self.total, self.unit, self.label, self.done = total, unit, label, initial
        self.detail = ""
        self._logged = shown and not in_terminal()
        self._bar = tqdm(
            total=total,
            initial=initial,
            desc=label or None,
            unit=unit,
            leave=leave,
            smoothing=0.05,
            disable=not shown or self._logged,
        )
        # The rate is that after the first part, which often waits for a program to be compiled.
        self._first: tuple[float, int] | None = None
        self._told = time.monotonic()

    def update(self, count: int = 1) -> None:
        """Count so many more as done."""
        self.done += count
        if self.detail:
            self._bar.set_postfix_str(self.detail, refresh=False)
        self._bar.update(count)
        now = time.monotonic()
        self._first = self._first or (now, self.done)
        if self._logged and now - self._told >= LOG_SECONDS:
            self._told = now
            tell(f"captax: {self._line(now)}", sys.stderr)

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """The items; each counts as done when the next one is asked for."""
        try:
            for item in items:
                yield item
                self.update()
        finally:
            self.close()

    def close(self) -> None:
        """End the bar."""
        self._bar.close()

    def _line(self, now: float) -> str:
        began, before = self._first or (now, self.done)
        rate = (self.done - before) / (now - began) if now > began else 0
        label = f"{self.label}: " if self.label else ""
        line = f"{label}{self.done:,} of {plural(self.total, self.unit)}"
        left = (self.total - self.done) / rate if rate else 0
        if left >= 1:
            line += f", about {tqdm.format_interval(left)} left"
        return f"{line}, {self.detail}" if self.detail else line
