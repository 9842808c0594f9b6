"""Run a compiled program on pictures as they arrive; threads decode them while it works."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image

from captax.data import batched, filled, load_images
from captax.generation.programs import padded
from captax.images import ImageError, ImageProcessor, ImageSource, Prepared

# Decoders spend their time outside Python's lock; one for each core keeps up with any model.
DECODERS = min(32, max(2, os.cpu_count() or 2))


def stream_pictures(
    images: Iterable[ImageSource],
    processor: ImageProcessor,
    compute: Callable[..., Any],
    *,
    batch_size: int,
    numbered: bool = False,
) -> Iterator[Any]:
    """Yield the result of `compute` for each picture, in order, or the error of a broken one.

    This is `stream_pixels` for pictures that have yet to be read.
    """
    pictures = load_images(images, processor, threads=DECODERS, ahead=3 * batch_size)
    return stream_pixels(pictures, compute, batch_size=batch_size, numbered=numbered)


def stream_pixels(
    pictures: Iterable[Float[np.ndarray, "height width 3"] | ImageError],
    compute: Callable[..., Any],
    *,
    batch_size: int,
    numbered: bool = False,
) -> Iterator[Any]:
    """Yield the result of `compute` for each prepared picture, in order; errors are passed on.

    `compute` takes a batch, padded to one of a few sizes, and returns a tree of arrays with one row
    for each picture, without waiting for the device: it works while the next batch is read. The
    rows are yielded as NumPy arrays. If `numbered`, `compute` is also given the places, among
    `pictures`, of those in the batch.
    """
    waiting: list[tuple[list[np.ndarray | ImageError], Any]] = []
    seen = 0
    for batch in batched(pictures, batch_size):
        places = [i for i, pixels in enumerate(batch, seen) if not isinstance(pixels, ImageError)]
        good = [pixels for pixels in batch if not isinstance(pixels, ImageError)]
        seen += len(batch)
        extra = (places,) if numbered else ()
        size = padded(len(good), batch_size)
        waiting.append((batch, compute(filled(good, size), *extra) if good else None))
        if len(waiting) > 1:
            yield from _rows(*waiting.pop(0))
    for batch, found in waiting:
        yield from _rows(batch, found)


def several(images: ImageSource | Sequence[ImageSource]) -> Sequence[ImageSource]:
    """One picture or a sequence of pictures, as a sequence."""
    one = isinstance(images, str | bytes | PathLike | Image.Image | Prepared)
    one = one or (isinstance(images, np.ndarray) and images.ndim < 4)
    return cast("Sequence[ImageSource]", [images] if one else images)


def _rows(batch: list[np.ndarray | ImageError], found: Any) -> Iterator[Any]:
    arrays = jax.device_get(found)
    row = 0
    for pixels in batch:
        if isinstance(pixels, ImageError):
            yield pixels
        else:
            yield jax.tree.map(lambda array, row=row: array[row], arrays)
            row += 1
