"""A thread for each replica of the model: pictures of requests go through it in batches."""

import contextlib
import dataclasses
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from captax.generation.programs import NotCompiled
from captax.pipelines.replicas import on_replica
from captax.serve.compiling import PART, Busy, Compiler

# The weight of the newest batch in the seconds that a picture takes.
RECENT = 0.2
LONGEST_RETRY = 60
# Seconds between looks whether the last programs have been compiled, at the end.
PAUSE = 0.05


class QueueFull(Busy):
    """The queue has no room for another input."""

    def __init__(self, retry_after: int):
        super().__init__(f"the queue is full; try again in {retry_after} s", retry_after)


class Answer(Future[Any]):
    """The future of a result. It is `unwanted` once it was cancelled, also while it is running."""

    unwanted = False

    def cancel(self) -> bool:
        """Cancel it as far as that is possible."""
        self.unwanted = True
        return super().cancel()


@dataclasses.dataclass
class _Entry:
    """An input that waits in the queue, and the future of its result."""

    work: Hashable
    input: Any
    since: float
    future: Answer = dataclasses.field(default_factory=Answer)


class Batcher:
    """Runs `compute(work, inputs)` in threads of its own; inputs with equal work share a call.

    `compute` gives a result, or an exception, for each input. When it raises, each input of the
    batch is run alone, so that it fails by its own fault only. An entry whose future was cancelled
    before its turn is dropped. When `compute` needs a program that has not been compiled, the
    entries wait for the `Compiler`, and others go on.
    """

    def __init__(
        self,
        compute: Callable[[Any, list[Any]], Sequence[Any]],
        *,
        limit: int,
        sizes: Sequence[int],
        wait: float,
        replicas: int = 1,
        alone: Callable[[Any], bool] = lambda work: False,
        coming: Callable[[], bool] = lambda: False,
        watch: Callable[[int, float], None] = lambda size, seconds: None,
        dropped: Callable[[int], None] = lambda count: None,
    ):
        """Nothing runs before `start`.

        Args:
            compute: runs the model.
            limit: most inputs that may be in the queue at once.
            sizes: batch sizes that the model has programs for; others are padded to the next.
            wait: seconds that the oldest entry waits for more while some are `coming`.
            replicas: how many threads compute, each on its replica of the model.
            alone: whether inputs with this work cannot share a call.
            coming: whether requests are here that may still add inputs.
            watch: receives the size of each batch and its seconds.
            dropped: receives the number of entries that were dropped.
        """
        self._compute, self._limit, self._wait = compute, limit, wait
        self._alone, self._coming, self._watch, self._dropped = alone, coming, watch, dropped
        # Seconds of a batch of each size. Until they are measured, a fuller batch is a better one.
        self.seconds: Mapping[int, float] = dict.fromkeys(sorted(sizes), 1.0)
        self._entries: deque[_Entry] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._pace = 0.1
        self._reserved = 0
        self._compiler = Compiler(self._take_back, limit=max(1, limit // PART))
        self._threads = [
            threading.Thread(target=self._work, args=(i,), name=f"captax-model-{i}", daemon=True)
            for i in range(replicas)
        ]

    @property
    def depth(self) -> int:
        """Inputs in the queue: being read, waiting or in the model."""
        return self._reserved

    @property
    def full(self) -> bool:
        """Whether there is no room for another input."""
        return self._reserved >= self._limit

    def retry_after(self) -> int:
        """Seconds that the inputs in the queue will take, at the recent pace."""
        seconds = self._reserved * self._pace / len(self._threads)
        return min(max(1, math.ceil(seconds)), LONGEST_RETRY)

    @contextlib.contextmanager
    def room(self, count: int) -> Iterator[None]:
        """Reserve room for `count` inputs; only for the event loop's thread. Raises `QueueFull`."""
        if self._reserved + count > self._limit:
            raise QueueFull(self.retry_after())
        self._reserved += count
        try:
            yield
        finally:
            self._reserved -= count

    def submit(self, work: Hashable, inputs: Sequence[Any]) -> list[Future[Any]]:
        """Add inputs to the queue; the futures of their results."""
        now = time.monotonic()
        entries = [_Entry(work, each, now) for each in inputs]
        with self._changed:
            if self._stopping:
                raise RuntimeError("the model's thread has stopped")
            self._entries.extend(entries)
            self._changed.notify_all()
        return [entry.future for entry in entries]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        self._compiler.start()

    def stop(self) -> None:
        """Finish all inputs in the queue, then end the threads."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._compiler.stop()

    def _work(self, replica: int) -> None:
        with on_replica(replica):
            self._batches()

    def _batches(self) -> None:
        while (batch := self._next()) is not None:
            # From here on an entry can no longer be cancelled.
            running = [entry for entry in batch if _begin(entry.future)]
            if len(running) < len(batch):
                self._dropped(len(batch) - len(running))
            if running:
                started = time.perf_counter()
                if self._run(running):
                    seconds = time.perf_counter() - started
                    self._pace += RECENT * (seconds / len(running) - self._pace)
                    self._watch(len(running), seconds)

    def _next(self) -> list[_Entry] | None:
        with self._changed:
            while True:
                self._drop_cancelled()
                if self._entries:
                    work = self._entries[0].work
                    same = [entry for entry in self._entries if entry.work == work]
                    most = 1 if self._alone(work) else max(self.seconds)
                    left = self._entries[0].since + self._wait - time.monotonic()
                    patient = len(same) < most and left > 0 and not self._stopping
                    if not (patient and self._coming()):
                        break
                    self._changed.wait(left)
                elif self._stopping and self._compiler.idle:
                    return None
                else:
                    self._changed.wait(PAUSE if self._stopping else None)
            taken = same[: min(self._best(len(same)), most)]
            chosen = set(map(id, taken))
            self._entries = deque(entry for entry in self._entries if id(entry) not in chosen)
            return taken

    def _best(self, waiting: int) -> int:
        """The number of inputs to take: the size that answers most pictures per second."""
        taken = {size: min(waiting, size) for size in self.seconds}
        return taken[max(taken, key=lambda size: (taken[size] / self.seconds[size], -size))]

    def _drop_cancelled(self) -> None:
        kept = deque(entry for entry in self._entries if not entry.future.unwanted)
        if len(kept) < len(self._entries):
            self._dropped(len(self._entries) - len(kept))
            self._entries = kept

    def _run(self, entries: list[_Entry]) -> bool:
        """Run a batch; whether that was done, or else its program must be compiled first."""
        missing = self._attempt(entries)
        if missing is None:
            return True
        # With a program for one input, none has to wait for the one for many.
        if len(entries) > 1 and self._attempt(entries[:1]) is None:
            self._compiler.wish(missing)
            for entry in entries[1:]:
                self._run([entry])
            return True
        try:
            self._compiler.ask(missing, entries)
        except Busy as busy:
            for entry in entries:
                entry.future.set_exception(busy)
        return False

    def _attempt(self, entries: list[_Entry]) -> NotCompiled | None:
        """Run a batch; the program that it needs if it has not been compiled."""
        try:
            results = self._compute(entries[0].work, [entry.input for entry in entries])
        except NotCompiled as missing:
            return missing
        except Exception as error:
            if len(entries) == 1:
                entries[0].future.set_exception(error)
                return None
            for entry in entries:
                self._run([entry])
            return None
        for entry, result in zip(entries, results, strict=True):
            if isinstance(result, Exception):
                entry.future.set_exception(result)
            else:
                entry.future.set_result(result)
        return None

    def _take_back(self, entries: list[_Entry]) -> None:
        """Run entries whose program has been compiled, before those that came later."""
        with self._changed:
            self._entries.extendleft(reversed(entries))
            self._changed.notify_all()


def _begin(future: Answer) -> bool:
    """Whether the result is still wanted; from here on the future can no longer be cancelled."""
    return not future.unwanted and (future.running() or future.set_running_or_notify_cancel())
