"""One thread that owns the model: pictures of concurrent requests go through it in batches."""

import contextlib
import dataclasses
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

# Of the seconds a picture took: how much the newest batch counts.
RECENT = 0.2
LONGEST_RETRY = 60


class QueueFull(Exception):
    """There is no room; `retry_after` seconds from now there may be."""

    def __init__(self, retry_after: int):
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after


@dataclasses.dataclass
class _Job:
    task: Hashable
    item: Any
    since: float
    future: Future[Any] = dataclasses.field(default_factory=Future)


class Batcher:
    """Runs `compute(task, items)` in a thread of its own; items of equal tasks share a call.

    `compute` gives a result, or an exception, for each item. When it raises, each item of the batch
    is run alone, so that it fails by its own fault only. A job whose future was cancelled before
    its turn is dropped.
    """

    def __init__(
        self,
        compute: Callable[[Any, list[Any]], Sequence[Any]],
        *,
        limit: int,
        sizes: Sequence[int],
        wait: float,
        alone: Callable[[Any], bool] = lambda task: False,
        coming: Callable[[], bool] = lambda: False,
        watch: Callable[[int, float], None] = lambda size, seconds: None,
        dropped: Callable[[int], None] = lambda count: None,
    ):
        """Nothing runs before `start`.

        Args:
            compute: what the model does.
            limit: items that may have room at once.
            sizes: of batches that the model has programs for; others are filled up to the next.
            wait: seconds that the oldest job waits for more while some are `coming`.
            alone: whether a task's items cannot share a call.
            coming: whether requests are on their way that may bring more.
            watch: told the size of each batch and its seconds.
            dropped: told how many jobs were dropped.
        """
        self._compute, self._limit, self._wait = compute, limit, wait
        self._alone, self._coming, self._watch, self._dropped = alone, coming, watch, dropped
        # Seconds of a batch of each size. Until they are measured, a fuller batch is a better one.
        self.seconds: Mapping[int, float] = dict.fromkeys(sorted(sizes), 1.0)
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._pace = 0.1
        self._reserved = 0
        self._thread = threading.Thread(target=self._work, name="captax-model", daemon=True)

    @property
    def depth(self) -> int:
        """Items that have room: being read, waiting or in the model."""
        return self._reserved

    @property
    def full(self) -> bool:
        """Whether there is room for not even one."""
        return self._reserved >= self._limit

    def retry_after(self) -> int:
        """Seconds that what is here will take, by the pace of late."""
        return min(max(1, math.ceil(self._reserved * self._pace)), LONGEST_RETRY)

    @contextlib.contextmanager
    def room(self, count: int) -> Iterator[None]:
        """Room for so many items; for one thread, the event loop's. Raises `QueueFull`."""
        if self._reserved + count > self._limit:
            raise QueueFull(self.retry_after())
        self._reserved += count
        try:
            yield
        finally:
            self._reserved -= count

    def submit(self, task: Hashable, items: Sequence[Any]) -> list[Future[Any]]:
        """Futures of what the model says of each."""
        now = time.monotonic()
        jobs = [_Job(task, item, now) for item in items]
        with self._changed:
            if self._stopping:
                raise RuntimeError("the model's thread has stopped")
            self._jobs.extend(jobs)
            self._changed.notify()
        return [job.future for job in jobs]

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what was submitted, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            # From here on a job can no longer be cancelled.
            running = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if len(running) < len(batch):
                self._dropped(len(batch) - len(running))
            if running:
                started = time.perf_counter()
                self._run(running)
                seconds = time.perf_counter() - started
                self._pace += RECENT * (seconds / len(running) - self._pace)
                self._watch(len(running), seconds)

    def _next(self) -> list[_Job] | None:
        with self._changed:
            while True:
                self._drop_cancelled()
                if self._jobs:
                    task = self._jobs[0].task
                    same = [job for job in self._jobs if job.task == task]
                    most = 1 if self._alone(task) else max(self.seconds)
                    left = self._jobs[0].since + self._wait - time.monotonic()
                    patient = len(same) < most and left > 0 and not self._stopping
                    if not (patient and self._coming()):
                        break
                    self._changed.wait(left)
                elif self._stopping:
                    return None
                else:
                    self._changed.wait()
            taken = same[: min(self._best(len(same)), most)]
            chosen = set(map(id, taken))
            self._jobs = deque(job for job in self._jobs if id(job) not in chosen)
            return taken

    def _best(self, waiting: int) -> int:
        """How many to take: of the sizes, the one that answers most pictures a second."""
        taken = {size: min(waiting, size) for size in self.seconds}
        return taken[max(taken, key=lambda size: (taken[size] / self.seconds[size], -size))]

    def _drop_cancelled(self) -> None:
        kept = deque(job for job in self._jobs if not job.future.cancelled())
        if len(kept) < len(self._jobs):
            self._dropped(len(self._jobs) - len(kept))
            self._jobs = kept

    def _run(self, jobs: list[_Job]) -> None:
        try:
            results = self._compute(jobs[0].task, [job.item for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:
                self._run([job])
            return
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
