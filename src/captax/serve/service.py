"""The life of a server: it warms up, accepts work up to its limits, and finishes that work."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from captax.errors import CaptaxError
from captax.images import Prepared
from captax.images.budget import NotWanted, trim
from captax.images.decode import NotQuick
from captax.serve.arrival import Body, Crowded, Room
from captax.serve.batching import Batcher, QueueFull
from captax.serve.compiling import Busy
from captax.serve.metrics import Metrics
from captax.serve.pictures import Sent, Unreadable
from captax.serve.refusals import Refused
from captax.serve.settings import Settings
from captax.serve.work import Input, Model, Work, Worker

logger = logging.getLogger("captax.serve")

READERS = 4
# Pictures that take long or much memory to decode have threads of their own, and few may wait.
SLOW_READERS, SLOW_WAITING = 2, 8
# Bodies of the largest size that may be here at once; they stay in memory until the answer.
BODIES = 16
# Threads that parse bodies, each of which holds what it makes of one beside the body itself.
PARSERS = 2
WARM_UP_RETRY = 5


class Service:
    """A model, the thread that runs it, and the threads that read pictures for it."""

    def __init__(
        self, model: Model, settings: Settings, when_warm: Callable[[], None] = lambda: None
    ):
        self.settings = settings
        self._when_warm = when_warm
        self.worker = Worker(model, settings.max_batch)
        self.state: Literal["warming up", "ready", "shutting down"] = "warming up"
        self.working = 0  # requests for work that are here
        self.room = Room(BODIES * settings.max_bytes)
        self.handed = 0  # those of them whose pictures are with the batcher
        self.batcher = Batcher(
            self.worker,
            limit=settings.queue,
            sizes=self.worker.sizes,
            wait=settings.wait,
            replicas=model.at_once,
            alone=self.worker.alone,
            coming=lambda: self.working > self.handed,
            watch=lambda size, seconds: self.metrics.batched(size, seconds),
            dropped=lambda count: self.metrics.dropped.inc(count),
        )
        self.metrics = Metrics(lambda: self.batcher.depth)
        self.parsers = ThreadPoolExecutor(PARSERS, thread_name_prefix="captax-bodies")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="captax-pictures")
        self._slow = ThreadPoolExecutor(SLOW_READERS, thread_name_prefix="captax-slow-pictures")
        self._slow_ones = 0
        self._closing = threading.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The time between start and stop; ready once the model has compiled the usual requests."""
        warming = asyncio.create_task(asyncio.to_thread(self._warm_up))
        try:
            yield
        finally:
            self.state = "shutting down"
            self._closing.set()  # ends what is decoded in other processes
            await warming
            await asyncio.to_thread(self.batcher.stop)
            for threads in (self.parsers, self._readers, self._slow):
                threads.shutdown(cancel_futures=True)

    def _warm_up(self) -> None:
        logger.info(
            "warming up: tracing the usual programs; what is compiled is kept for the next start"
        )
        # Work is refused until this is done, so the model has no other thread.
        try:
            self.batcher.seconds = self.worker.warm_up()
        except Exception:
            logger.exception("warming up failed")
        trim()
        self._when_warm()
        self.batcher.start()
        if self.state == "warming up":
            self.state = "ready"
            logger.info("ready")

    async def drain(self, hurried: Callable[[], bool] = lambda: False) -> None:
        """Refuse new work and wait until the rest is done, `grace` is over or `hurried` is true."""
        self.state = "shutting down"
        loop = asyncio.get_running_loop()
        loop.call_later(1, self._closing.set)  # a picture that takes longer is given up
        end = loop.time() + self.settings.grace
        while self.working and loop.time() < end and not hurried():
            await asyncio.sleep(0.05)

    @contextlib.contextmanager
    def admitted(self, body: Body) -> Iterator[None]:
        """Admit a request for work, whose body takes room as it arrives.

        Raises `Refused` when there is no room for it.
        """
        self.check_open()
        # Those that still send are not counted: they may never end, and others give way to nobody.
        crowded = self.working - self.room.arriving >= self.settings.queue
        if self.batcher.full or crowded:
            raise self._full(self.batcher.retry_after())
        self.working += 1
        body.room = self.room
        self.room.enter(body)
        try:
            yield
        except Crowded:
            raise self._full(self.batcher.retry_after()) from None
        finally:
            self.working -= 1
            self.room.leave(body)

    def check_open(self) -> None:
        """Raise `Refused` unless the server accepts work."""
        if self.state == "shutting down":
            raise Refused(
                503,
                "shutting_down",
                "the server is shutting down; try another server, or try again later",
                {"Connection": "close", "Retry-After": str(WARM_UP_RETRY)},
            )
        if self.state == "warming up":
            raise Refused(
                503,
                "warming_up",
                f"the server is starting; try again in {WARM_UP_RETRY} s",
                {"Retry-After": str(WARM_UP_RETRY)},
            )

    def _full(self, seconds: int) -> Refused:
        return Refused(
            429,
            "queue_full",
            f"too many pictures are waiting; try again in {seconds} s",
            {"Retry-After": str(seconds)},
        )

    async def answer(
        self, work: Work, sent: Sequence[Sent], asks: Sequence[tuple[int, Mapping[str, Any]]]
    ) -> list[tuple[Prepared, Any] | Unreadable]:
        """For each of `asks`, the picture and its result; or why the picture cannot be used.

        `asks` are places among the pictures, and the other fields of an `Input`. Raises `Refused`
        when there is no room, when no picture can be read, or when the options mean nothing.
        """
        try:
            with self.batcher.room(len(asks)):
                return await self._answer(work, sent, asks)
        except QueueFull as error:
            raise self._full(error.retry_after) from None

    async def _answer(
        self, work: Work, sent: Sequence[Sent], asks: Sequence[tuple[int, Mapping[str, Any]]]
    ) -> list[tuple[Prepared, Any] | Unreadable]:
        gone = threading.Event()
        try:
            reading = [self._read(each, gone) for each in sent]
            pictures = await asyncio.gather(*reading)
        except asyncio.CancelledError:
            self.metrics.dropped.inc(len(asks))
            raise
        finally:
            gone.set()  # what is still being read, because the client hung up, is not needed
        read = [pictures[place] for place, _ in asks]
        inputs = [
            Input(picture, **said)
            for picture, (_, said) in zip(read, asks, strict=True)
            if isinstance(picture, Prepared)
        ]
        if not inputs:
            raise _none_read(read)
        self.handed += 1
        try:
            futures = self.batcher.submit(work, inputs)
            found = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        finally:
            self.handed -= 1
        results = iter(found)
        return [
            (each, _result(next(results))) if isinstance(each, Prepared) else each for each in read
        ]

    async def _read(self, sent: Sent, gone: threading.Event) -> Prepared | Unreadable:
        def read(quick: bool) -> Prepared | Unreadable:
            try:
                return sent.read(
                    self.worker.processor,
                    self.settings,
                    quick=quick,
                    gone=lambda: gone.is_set() or self._closing.is_set(),
                )
            except Unreadable as error:
                return error

        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._readers, read, True)
        except NotQuick:
            pass
        except NotWanted:
            return Unreadable("unreadable_image", "the server stopped before it was decoded")
        if self._slow_ones >= SLOW_WAITING:
            raise self._full(max(1, round(self.settings.decode_seconds)))
        self._slow_ones += 1
        try:
            return await loop.run_in_executor(self._slow, read, False)
        except NotWanted:
            return Unreadable("unreadable_image", "the server stopped before it was decoded")
        finally:
            self._slow_ones -= 1


def _result(found: Any) -> Any:
    if isinstance(found, Busy):
        headers = {"Retry-After": str(found.retry_after)}
        raise Refused(429, "compiling", str(found), headers)
    if isinstance(found, CaptaxError):
        # The picture was read, so the error is about the options.
        raise Refused(422, "invalid_request", str(found))
    if isinstance(found, BaseException):
        raise found
    return found


def _none_read(pictures: Sequence[Any]) -> Refused:
    first: Unreadable = pictures[0]
    if len(pictures) == 1:
        return Refused(422, first.kind, first.message)
    return Refused(
        422,
        first.kind,
        f"none of the {len(pictures)} pictures can be read; the first error: {first.message}",
    )
