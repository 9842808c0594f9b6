"""Run a compiled program on pictures as they arrive; threads decode them while it works."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image

from captax.data import batched, filled, load_images
from captax.data.example import Stored
from captax.generation.programs import padded
from captax.images import ImageProcessor, ImageSource, Prepared

# Decoders spend their time outside Python's lock; one for each core keeps up with any model.
DECODERS = min(32, max(2, os.cpu_count() or 2))


def pace(batch_size: int) -> dict[str, int]:
    """How pictures are read for a model: in how many threads, and how far ahead of it."""
    return {"threads": DECODERS, "ahead": 3 * batch_size}


class Placed(NamedTuple):
    """A picture that is one of many, by its place among all of them."""

    place: int
    pixels: Float[np.ndarray, "height width 3"]


def stream_pictures(
    images: Iterable[ImageSource | Stored],
    processor: ImageProcessor,
    compute: Callable[..., Any],
    *,
    batch_size: int,
    numbered: bool = False,
) -> Iterator[Any]:
    """Yield the result of `compute` for each picture, in order, or the error of a broken one.

    This is `stream_pixels` for pictures that have yet to be read. If `numbered`, `compute` is also
    given the places, among `images`, of those in the batch.
    """
    pictures = load_images(images, processor, **pace(batch_size))

    def batch(pixels: Float[np.ndarray, "batch height width 3"], places: list[int]) -> Any:
        return compute(pixels, places) if numbered else compute(pixels)

    for _, row in stream_pixels(enumerate(pictures), batch, batch_size=batch_size):
        yield row


def stream_pixels(
    pictures: Iterable[tuple[int, Any]],
    compute: Callable[[Float[np.ndarray, "batch height width 3"], list[int]], Any],
    *,
    batch_size: int,
) -> Iterator[tuple[int, Any]]:
    """Yield the result of `compute` for each prepared picture, in order, with its place.

    `pictures` are arrays of pixels with their places; what is no array, such as an error, is passed
    on in its turn. `compute` takes a batch, padded to one of a few sizes, and the places in it. It
    returns a tree of arrays with one row for each picture, without waiting for the device: it works
    while the next batch is read. The rows are yielded as NumPy arrays.
    """
    waiting: list[tuple[list[tuple[int, Any]], Any]] = []
    for batch in batched(pictures, batch_size):
        good = [(place, pixels) for place, pixels in batch if isinstance(pixels, np.ndarray)]
        found = None
        if good:
            pixels = filled([pixels for _, pixels in good], padded(len(good), batch_size))
            found = compute(pixels, [place for place, _ in good])
        waiting.append((batch, found))
        if len(waiting) > 1:
            yield from _rows(*waiting.pop(0))
    for batch, found in waiting:
        yield from _rows(batch, found)


def several(images: ImageSource | Sequence[ImageSource]) -> Sequence[ImageSource]:
    """One picture or a sequence of pictures, as a sequence."""
    one = isinstance(images, str | bytes | PathLike | Image.Image | Prepared)
    one = one or (isinstance(images, np.ndarray) and images.ndim < 4)
    return cast("Sequence[ImageSource]", [images] if one else images)


def _rows(batch: list[tuple[int, Any]], found: Any) -> Iterator[tuple[int, Any]]:
    arrays = jax.device_get(found)
    row = 0
    for place, each in batch:
        if isinstance(each, np.ndarray):
            yield place, jax.tree.map(lambda array, row=row: array[row], arrays)
            row += 1
        else:
            yield place, each
