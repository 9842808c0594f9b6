"""The output of a frozen encoder for every training picture, computed once and kept on disk.

Whatever an encoder does before its first trainable part is the same in every epoch, so it is
computed for a fixed number of augmented views of each picture and memory-mapped. A cache lies in a
folder named after everything its content depends on: weights, cut, preprocessing, augmentation and
pictures. A change in any of them leads to another folder, so a stale cache is never used.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from captax.checkpoints.state import weights_digest
from captax.data import batched, filled, load_images
from captax.errors import CaptaxError
from captax.files import (
    make_folder,
    own_file,
    parse_json,
    unwritable,
    write_text,
)
from captax.images import (
    AnyProcessor,
    Augment,
    ImageError,
    Prepared,
    mentions_sides,
    rng_for,
)
from captax.models.arithmetic import map_pictures
from captax.models.encoders import VisionEncoder
from captax.progress import Progress

BATCH = 25
VERSION = 1


class FeatureCacheError(CaptaxError):
    """The feature cache cannot be made."""


@dataclasses.dataclass(frozen=True)
class FeatureCache:
    """Half-precision outputs of `encoder.first_parts`: [views, examples, ...].

    View 0 is unaugmented.
    """

    array: np.memmap

    @property
    def views(self) -> int:
        """How many views of each example there are."""
        return self.array.shape[0]

    def read(self, examples: np.ndarray, views: np.ndarray) -> Float[np.ndarray, "batch ..."]:
        """The outputs for these examples, each in its view, in half precision."""
        return np.stack([self.array[v, e] for v, e in zip(views, examples, strict=True)])


def cache_features(
    directory: Path,
    encoder: VisionEncoder,
    depth: int,
    examples: Sequence[Any],
    processor: AnyProcessor,
    *,
    augment: Augment | None = None,
    views: int = 1,
    seed: int = 0,
    label: str = "features",
) -> FeatureCache:
    """Open the cache of `encoder.first_parts(pixels, depth)` over `examples`.

    Outputs that are missing are computed, and all are kept: after an interruption, or for more
    views, the next call goes on from there. Raises `ImageError` for the first picture that cannot
    be read, `FeatureCacheError` when the disk has no room.
    """
    graph, state = nnx.split(encoder)

    @jax.jit
    def first_parts(state: Any, pixels: jax.Array) -> jax.Array:
        parts = nnx.merge(graph, state)
        return map_pictures(lambda batch: parts.first_parts(batch, depth), pixels)

    pixels = jax.ShapeDtypeStruct((BATCH, *processor.size, 3), np.float32)
    output = jax.eval_shape(first_parts, state, pixels)
    shape = (views, len(examples), *output.shape[1:])

    weights = weights_digest(*encoder.parts()[:depth])
    key = _digest(VERSION, weights, processor, augment, seed, *map(_identity, examples))
    folder = directory / key
    make_folder(folder, inside=directory)
    data, progress = folder / "features.f16", folder / "progress.json"
    total = views * len(examples)
    done = _rows_done(data, progress, directory, math.prod(shape[2:]) * 2)
    if done < total:
        _make_room(data, directory, total * math.prod(shape[2:]) * 2)
        with own_file(data, "r+b", inside=directory) as file:
            rows = np.memmap(file, np.float16, "r+", shape=(total, *shape[2:]))
        shown = Progress(total, initial=done, label=label, unit="picture", leave=True)
        pictures = _views(examples, processor, augment, seed, range(done, total))
        for batch in batched(pictures, BATCH):
            size = len(batch)
            rows[done : done + size] = np.asarray(first_parts(state, filled(batch, BATCH)))[:size]
            done += size
            shown.update(size)
            if done == total or done // BATCH % 40 == 0:
                rows.flush()
                write_text(progress, json.dumps({"rows": done}), inside=directory, own=True)
        shown.close()
    with own_file(data, "rb", inside=directory) as file:
        return FeatureCache(np.memmap(file, np.float16, "r", shape=shape))


def _rows_done(data: Path, progress: Path, directory: Path, row: int) -> int:
    """How many rows of `row` bytes are in the cache; none if it was damaged, for it can be made."""
    try:
        with own_file(progress, "rb", inside=directory) as file:
            done = parse_json(file.read().decode())["rows"]
        held = data.stat().st_size // row
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return done if isinstance(done, int) and 0 <= done <= held else 0


def augmented_pixels(
    example: Any,
    processor: AnyProcessor,
    augment: Augment | None,
    seed: int,
    view: int,
) -> Float[np.ndarray, "1 height width 3"]:
    """Pixels of an example's whole picture for an encoder, from `augmented`."""
    return processor.normalize(augmented(example, processor, augment, seed, view).pixels[None])


def augmented(
    example: Any,
    processor: AnyProcessor,
    augment: Augment | None,
    seed: int,
    view: int,
) -> Prepared:
    """An example's picture, prepared by `processor`, augmented as (seed, view, example) say.

    View 0 is unchanged. Raises `ImageError` for a picture that cannot be read.
    """
    image = processor.decode(example.image)
    if augment is not None and view > 0:
        sides = mentions_sides(getattr(example, "captions", ()))
        image = augment(image, rng_for(seed, view, example.id), allow_flip=not sides)
    return processor.prepare(image)


def _make_room(data: Path, directory: Path, size: int) -> None:
    """Make the file at least this long, or say that the disk has no room for it.

    A memory map that finds the disk full kills the process. The file is never emptied: another
    process may be filling it, with the same values.
    """
    with own_file(data, "ab", inside=directory) as file:
        status = os.fstat(file.fileno())
        held, free = status.st_blocks * 512, shutil.disk_usage(data.parent).free
        if size - held > free:
            raise FeatureCacheError(
                f"{data.parent}: the feature cache needs {(size - held) / 1e9:.1f} GB and only "
                f"{free / 1e9:.1f} GB are free; ask for fewer views, or give --out on another disk"
            )
        if status.st_size < size:
            try:
                file.truncate(size)
            except OSError as error:
                raise unwritable(data, error) from None


def _views(
    examples: Sequence[Any],
    processor: AnyProcessor,
    augment: Augment | None,
    seed: int,
    rows: range,
) -> Iterator[np.ndarray]:
    """Pixels of each row of the cache: every example's view 0, then every example's view 1, ..."""

    def view(sources: Sequence[object]) -> np.ndarray:
        row = sources[0]
        assert isinstance(row, int)
        number, example = divmod(row, len(examples))
        return augmented_pixels(examples[example], processor, augment, seed, number)

    for pixels in load_images(rows, view, threads=2, ahead=4 * BATCH):
        if isinstance(pixels, ImageError):
            raise pixels
        assert isinstance(pixels, np.ndarray)  # `view` gives no other
        yield pixels


def _identity(example: Any) -> tuple[object, ...]:
    """What the cached pixels of an example depend on."""
    sides = mentions_sides(getattr(example, "captions", ()))
    image = example.image
    if isinstance(image, bytes):
        return example.id, hashlib.blake2b(image, digest_size=8).hexdigest(), sides
    stat = image.stat()
    return example.id, stat.st_size, stat.st_mtime_ns, sides


def _digest(*parts: object) -> str:
    return hashlib.blake2b("\n".join(map(repr, parts)).encode(), digest_size=8).hexdigest()
