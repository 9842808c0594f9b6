"""Makes the batches of a training step from examples.

Shapes: `batch` images, `time` token positions of a packed row.
"""

import dataclasses
import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32, Int32, Int64, Shaped, UInt8

from captax.data.example import DataError, Stored
from captax.images.decode import ImageError
from captax.images.prepared import Group, Prepared

T = TypeVar("T")
# What a processor has prepared for one caption: a picture or frames of a video, as bytes or as
# normalised pixels.
Picture = (
    UInt8[np.ndarray, "height width 3"]
    | UInt8[np.ndarray, "frames height width 3"]
    | Float32[np.ndarray, "height width 3"]
    | Float32[np.ndarray, "frames height width 3"]
    | Prepared
    | Group
)
Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True)
class PackedCaptions:
    """Each picture's captions one after the other in one row, so that it is encoded once.

    The decoder attends causally within equal segments; the loss counts where `segments > 0`
    (`targets` cannot tell: the pad token may be eos).

    Attributes:
        inputs: each caption's tokens without the last.
        targets: the token after each input.
        segments: 1, 2, ... by caption; 0 is padding.
        positions: the place of each token in its caption, from 0.
        truncated: how many captions were cut to the maximum and lost their eos.
        dropped: how many captions did not fit in their row.
    """

    inputs: Int32[np.ndarray, "batch time"]
    targets: Int32[np.ndarray, "batch time"]
    segments: Int32[np.ndarray, "batch time"]
    positions: Int32[np.ndarray, "batch time"]
    truncated: int
    dropped: int


def pack_captions(
    token_lists: Sequence[Sequence[Sequence[int]]],
    *,
    capacity: int,
    pad_id: int,
    max_tokens: int | None = None,
) -> PackedCaptions:
    """Pack the captions of each picture into one row.

    A caption of n tokens takes n - 1 places. It goes in if there is room, in the order given; a
    shorter one may still fit after one that did not.

    Args:
        token_lists: for each picture, for each caption, `[start, w1, ..., eos]`.
        capacity: places in a row, `time`.
        pad_id: fills the remaining places, in `inputs` and `targets`.
        max_tokens: a longer caption is cut to this many tokens, start included. It then has no
            eos, because it does not end there. The default, and the maximum, is what a row holds.

    Raises:
        DataError: `capacity` or `max_tokens` leaves no place, or a caption has fewer than 2 tokens.
    """
    if capacity < 1:
        raise DataError(f"capacity is {capacity}: a row needs at least 1 place")
    if max_tokens is not None and max_tokens < 2:
        raise DataError(
            f"max_tokens is {max_tokens}: a caption needs at least 2, start and one more"
        )
    longest = capacity + 1 if max_tokens is None else min(max_tokens, capacity + 1)
    shape = (len(token_lists), capacity)
    inputs = np.full(shape, pad_id, np.int32)
    targets = np.full(shape, pad_id, np.int32)
    segments = np.zeros(shape, np.int32)
    positions = np.zeros(shape, np.int32)
    truncated = dropped = 0
    for row, captions in enumerate(token_lists):
        begin = segment = 0
        for caption in captions:
            if len(caption) < 2:
                raise DataError(
                    f"picture {row} of the batch: caption {caption} needs start and eos"
                )
            tokens = caption[:longest]
            end = begin + len(tokens) - 1
            if end > capacity:
                dropped += 1
                continue
            truncated += len(caption) > longest
            segment += 1
            inputs[row, begin:end] = tokens[:-1]
            targets[row, begin:end] = tokens[1:]
            segments[row, begin:end] = segment
            positions[row, begin:end] = np.arange(end - begin)
            begin = end
    return PackedCaptions(inputs, targets, segments, positions, truncated, dropped)


def epoch_size(parts: Iterable[tuple[int, float]]) -> int:
    """How many examples an epoch has; see `epoch_order`."""
    return sum(round(n * weight) for n, weight in parts)


def epoch_order(
    parts: Sequence[tuple[int, float]], *, seed: int, epoch: int
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """The examples of an epoch in an order that (seed, epoch) alone determine.

    Args:
        parts: the size of each part of the data, and how often an epoch takes each of its examples.
            If that is not a whole number, some are drawn to be taken once more than the others.
        seed: the recipe's.
        epoch: from 0.

    Returns:
        The places of the examples in the data, and the visit of each, which counts from 0 over all
        epochs how often this example can have been taken before.
    """
    rng = np.random.default_rng([seed, epoch])
    most = max(math.ceil(weight) for _, weight in parts)
    places, copies, first = [], [], 0
    for n, weight in parts:
        whole = int(weight)
        rest = round(n * weight) - n * whole
        drawn = rng.permutation(n)[:rest] if rest else np.arange(0)
        places.append(first + np.concatenate([np.tile(np.arange(n), whole), drawn]))
        copies.append(np.concatenate([np.repeat(np.arange(whole), n), np.full(rest, whole)]))
        first += n
    order = rng.permutation(sum(map(len, places)))
    return np.concatenate(places)[order], epoch * most + np.concatenate(copies)[order]


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items `size` at a time, in order; the last batch may be smaller."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def filled(rows: Sequence[Shaped[np.ndarray, "..."]], size: int) -> Shaped[np.ndarray, "size ..."]:
    """A batch of `size` rows: those given, of one shape, and zeros after them."""
    batch = np.zeros((size, *rows[0].shape), rows[0].dtype)
    batch[: len(rows)] = rows
    return batch


def prefetch(iterable: Iterable[T], size: int) -> Generator[T, None, None]:
    """The same items, made in a background thread up to `size` ahead of their consumption.

    An error of the iterable is raised here, after the items before it. Closing (or leaving) the
    generator ends the thread, after the item it is making, and closes the iterable.

    Raises:
        DataError: `size` is below 1.
    """
    if size < 1:
        raise DataError(f"prefetch size is {size}: give 1 or more")
    return _prefetch(iterable, size)


def _prefetch(iterable: Iterable[T], size: int) -> Generator[T, None, None]:
    made: queue.SimpleQueue[tuple[list[T], BaseException | None]] = queue.SimpleQueue()
    room = threading.Semaphore(size)
    closed = threading.Event()

    def make() -> None:
        failure: BaseException | None = None
        try:
            items = iter(iterable)
            try:
                while True:
                    room.acquire()
                    if closed.is_set():
                        return
                    made.put(([next(items)], None))
            finally:
                if isinstance(items, Generator):
                    items.close()
        except StopIteration:
            pass
        except BaseException as error:
            failure = error
        made.put(([], failure))

    thread = threading.Thread(target=make, name="captax-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, failure = made.get()
            if failure is not None:
                raise failure
            if not item:
                return
            # Before the yield: while the consumer works on this item, the next `size` are made.
            room.release()
            yield item[0]
    finally:
        closed.set()
        room.release()
        thread.join()


def load_images(
    sources: Iterable[T],
    processor: Callable[[list[Any]], Any],
    *,
    threads: int,
    ahead: int,
) -> Generator[Picture | ImageError, None, None]:
    """Pictures decoded in a pool of threads, in order; a picture that fails gives its error.

    Args:
        sources: pictures: files, bytes, what reads them, or whatever else the processor takes.
        processor: a function from a list of one picture to a batch of one, normalised such as
            `captax.images.ImageProcessor` or only prepared.
        threads: how many decode at once.
        ahead: how many may be decoded, or decoding, before they are asked for.

    Raises:
        DataError: `threads` or `ahead` is below 1.
    """
    if threads < 1 or ahead < 1:
        raise DataError(f"threads is {threads} and ahead is {ahead}: give 1 or more of both")
    return _load_images(sources, processor, threads, ahead)


def _load_images(
    sources: Iterable[T],
    processor: Callable[[list[Any]], Any],
    threads: int,
    ahead: int,
) -> Generator[Picture | ImageError, None, None]:
    def load(source: T) -> Picture | ImageError:
        try:
            content: Any = source.read() if isinstance(source, Stored) else source
            return processor([content])[0]
        except ImageError as error:
            return error

    yield from map_ahead(load, sources, threads, ahead)


def map_ahead(
    function: Callable[[T], Made],
    items: Iterable[T],
    threads: int,
    ahead: int,
    *,
    leave: Callable[[], None] = lambda: None,
) -> Generator[Made, None, None]:
    """`function` of each item, in order, computed by threads at most `ahead` items early.

    If the results are not wanted any more, `leave` is called before the threads are waited for.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="captax-images")
    pending: deque[Future[Made]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BaseException:
        leave()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
