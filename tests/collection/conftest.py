"""Pictures to caption, and an engine that captions them by their names, without a model."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captax.collection.captioning import Copies, Wanted
from captax.collection.record import Record
from captax.data.batches import batched
from captax.images import ImageError

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154"
    "789c6360000000020001e221bc330000000049454e44ae426082"
)


@pytest.fixture(scope="session")
def exiftool() -> str:
    program = shutil.which("exiftool")
    if program is None:
        pytest.skip("needs exiftool: apt-get install libimage-exiftool-perl")
    return program


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """`pictures(*names)`: a folder of 1x1 pictures of these names."""

    def make(*names: str) -> Path:
        folder = tmp_path / "pictures"
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(PIXEL)
        return folder

    return make


class Engine:
    """Captions pictures by their names; `given` are those that it was given.

    A picture whose name has `bad` in it is broken; one whose name ends in `~N` is a copy of the
    first that does.
    """

    def __init__(self, batch_size: int = 2, captions: int = 1, seen: set[str] | None = None):
        self.batch_size = batch_size
        self.captions = captions
        self.given: list[str] = []

    def __call__(
        self, wanted: Iterator[Wanted], copies: Copies | None = None
    ) -> Iterator[list[Record]]:
        for batch in batched(wanted, self.batch_size):
            yield [self._record(each, copies) for each in batch]

    def _record(self, each: Wanted, copies: Copies | None) -> Record:
        name = each.item.name
        self.given.append(name)
        try:
            each.item.source()
            if "bad" in name:
                raise ImageError("is broken")
        except ImageError as error:
            return each.error(str(error))
        look = None
        if copies is not None and "~" in name:
            # Far from one another, as looks of different pictures are.
            look = int(np.random.default_rng(ord(Path(name).stem[-1])).integers(2**63))
            original = copies.original(look, name)
            if original is not None:
                return copies.told(dataclasses.replace(each.record(look), copy_of=original))
        stem = Path(name).stem
        said = tuple((f"{n} {stem}", -float(len(stem) + n)) for n in range(self.captions))
        record = dataclasses.replace(each.record(look), captions=said)
        if copies is not None:
            copies.said(record)
        return record


@pytest.fixture
def engine() -> type[Engine]:
    return Engine


@pytest.fixture(scope="session")
def scene() -> Callable[[int], Image.Image]:
    """`scene(seed)`: a picture with large shapes and some texture, different for every seed."""

    def make(seed: int) -> Image.Image:
        rng = np.random.default_rng(seed)
        tiles = Image.fromarray(rng.integers(0, 256, (9, 13, 3), np.uint8))
        smooth = np.asarray(tiles.resize((280, 200), Image.Resampling.BICUBIC), np.int16)
        return Image.fromarray((smooth + rng.normal(0, 3, smooth.shape)).clip(0, 255).astype("u1"))

    return make
