"""Run a compiled program on pictures as they arrive; threads decode them while it works."""

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from os import PathLike
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image

from captax.data import batched, filled, load_images
from captax.data.batches import Picture
from captax.data.example import Stored
from captax.generation.programs import padded
from captax.images import Group, ImageProcessor, ImageSource, Prepared, Video
from captax.pipelines.replicas import EACH, started

# Decoders spend their time outside Python's lock; one for each core keeps up with any model.
DECODERS = min(32, max(2, os.cpu_count() or 2))


def pace(batch_size: int, at_once: int = 1) -> dict[str, int]:
    """How pictures are read for a model: in how many threads, and how far ahead of it.

    It works on `at_once` batches at a time.
    """
    return {"threads": DECODERS, "ahead": (2 + at_once) * batch_size}


class Placed(NamedTuple):
    """A picture that is one of many, by its place among all; it may have a prompt of its own."""

    place: int
    picture: Picture | bytes
    prompt: str | None = None


def stream_pictures(
    images: Iterable[ImageSource | Stored],
    processor: ImageProcessor,
    compute: Callable[[Float[np.ndarray, "batch height width 3"]], Any],
    *,
    batch_size: int,
    at_once: int = 1,
) -> Iterator[Any]:
    """Yield the result of `compute` for each picture, in order, or the error of a broken one.

    This is `stream_prepared` for pictures that have yet to be read. `compute` takes a batch that is
    padded to one of a few sizes.
    """
    pictures = load_images(images, processor, **pace(batch_size, at_once))

    def batch(pictures: list[Any], places: list[int]) -> Any:
        return compute(filled(pictures, padded(len(pictures), batch_size)))

    numbered = enumerate(pictures)
    for _, row in stream_prepared(numbered, batch, batch_size=batch_size, at_once=at_once):
        yield row


def stream_prepared(
    pictures: Iterable[tuple[int, Any]],
    compute: Callable[[list[Any], list[int]], Any],
    *,
    batch_size: int,
    at_once: int = 1,
    shape: Callable[[Any], Hashable] = lambda picture: None,
) -> Iterator[tuple[int, Any]]:
    """Yield the result of `compute` for each prepared picture, in order, with its place.

    `pictures` come with their places; what is no picture, such as an error, is passed on in its
    turn. `compute` takes pictures of a batch that have the same `shape`, and their places. It
    returns a tree of arrays with one row for each picture or more, without waiting for the device:
    it works while the next batch is read, on `at_once` batches at a time. The rows are yielded as
    NumPy arrays.
    """
    waiting: list[tuple[list[tuple[int, Any]], list[tuple[list[int], Callable[[], Any]]]]] = []
    with started(at_once) as start:
        for batch in batched(pictures, batch_size):
            alike: dict[Hashable, list[int]] = {}
            for index, (_, picture) in enumerate(batch):
                if _is_picture(picture):
                    alike.setdefault(shape(picture), []).append(index)
            found = []
            for group in alike.values():
                places, shown = zip(*(batch[index] for index in group), strict=True)
                found.append((group, start(compute, list(shown), list(places))))
            waiting.append((batch, found))
            if len(waiting) == EACH * at_once:
                yield from _rows(*waiting.pop(0))
        for batch, found in waiting:
            yield from _rows(batch, found)


def _is_picture(each: Any) -> bool:
    return isinstance(each, np.ndarray | Prepared | Group)


def several(images: Any) -> Sequence[Any]:
    """What one caption is of, or a sequence of such, as a sequence."""
    one = isinstance(images, str | bytes | PathLike | Image.Image | Prepared | Group | Video)
    one = one or (isinstance(images, np.ndarray) and images.ndim < 4)
    # What is neither is told of where it is read.
    one = one or not isinstance(images, Iterable)
    return [images] if one else images


def _rows(
    batch: list[tuple[int, Any]], found: list[tuple[list[int], Callable[[], Any]]]
) -> Iterator[tuple[int, Any]]:
    rows: dict[int, Any] = {}
    for group, result in found:
        arrays = result()
        for row, index in enumerate(group):
            rows[index] = jax.tree.map(lambda array, row=row: array[row], arrays)
    for index, (place, each) in enumerate(batch):
        yield place, rows.get(index, each)
