"""Pictures through a compiled program as they come, decoded in threads while it works."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image

from captax.data import batched, load_images
from captax.generation.programs import padded
from captax.images import ImageProcessor, ImageSource

# A decoder spends its time outside Python's lock; one a core keeps up with any model.
DECODERS = min(32, max(2, os.cpu_count() or 2))


def pace(batch_size: int) -> dict[str, int]:
    """How pictures are read for a model: in how many threads, and how far ahead of it."""
    return {"threads": DECODERS, "ahead": 3 * batch_size}


class Placed(NamedTuple):
    """A picture that is one of many, by its place among all of them."""

    place: int
    pixels: Float[np.ndarray, "height width 3"]


def stream_pictures(
    images: Iterable[ImageSource],
    processor: ImageProcessor,
    compute: Callable[..., Any],
    *,
    batch_size: int,
    numbered: bool = False,
) -> Iterator[Any]:
    """What `compute` says of each picture, in order; the error in place of one that is broken.

    As `stream_pixels`, of pictures yet to be read. Places are given to `compute` if `numbered`.
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
    """What `compute` says of each picture that is ready for it, in order; all else is passed on.

    Pictures are arrays of pixels, each with its place, which stays with what is said of it.
    `compute` takes batches, filled up to one of a few sizes, and the places in them. It gives a
    tree of arrays with a row a picture, without waiting for the device: it works while the next
    batch is read. The rows of that tree are yielded, as NumPy's, and in the order of `pictures`
    whatever among them is no array, such as an error.
    """
    waiting: list[tuple[list[tuple[int, Any]], Any]] = []
    for batch in batched(pictures, batch_size):
        good = [(place, pixels) for place, pixels in batch if isinstance(pixels, np.ndarray)]
        found = None
        if good:
            pixels = _filled([pixels for _, pixels in good], batch_size)
            found = compute(pixels, [place for place, _ in good])
        waiting.append((batch, found))
        if len(waiting) > 1:
            yield from _rows(*waiting.pop(0))
    for batch, found in waiting:
        yield from _rows(batch, found)


def several(images: ImageSource | Sequence[ImageSource]) -> Sequence[ImageSource]:
    """Pictures given one alone or in a sequence, as a sequence."""
    one = isinstance(images, str | bytes | PathLike | Image.Image)
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


def _filled(good: list[np.ndarray], batch_size: int) -> Float[np.ndarray, "batch height width 3"]:
    filled = np.zeros((padded(len(good), batch_size), *good[0].shape), np.float32)
    filled[: len(good)] = good
    return filled
