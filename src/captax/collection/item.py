"""A picture to caption, and what is known of kinds of files."""

import dataclasses
from pathlib import Path, PurePath, PurePosixPath

from captax.data.example import Stored
from captax.errors import CaptaxError
from captax.images import ImageError

# By-products that programs for training keep beside pictures.
MASKS = ("-masklabel.png", "-condlabel.png")
LISTS = (".parquet", ".jsonl", ".csv", ".tsv", ".txt")
ARCHIVES = (".zip", ".tar")


class CollectionError(CaptaxError):
    """A collection cannot be captioned as asked."""


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """A picture to caption.

    Attributes:
        name: what outputs call it: its path as given or from where a list is, its archive's path
            and that within, or its URL.
        image: its file, the bytes of it, what reads them when asked, or why there is none.
        place: where it stands among the others, for outputs that mirror their folders.
    """

    name: str
    image: Path | bytes | Stored | ImageError
    place: PurePosixPath

    @property
    def path(self) -> Path | None:
        """The picture's own file, if it has one on a disk here."""
        return self.image if isinstance(self.image, Path) else None

    def source(self) -> Path | bytes:
        """What can be decoded. Raises `ImageError` where there is nothing."""
        if isinstance(self.image, ImageError):
            raise self.image
        return self.image if isinstance(self.image, Path | bytes) else self.image.read()


def place_of(path: PurePath) -> PurePosixPath:
    """Where a picture of that path stands among others: within any folder that it is put in.

    What leads out of one is left out: the root (which may be of two slashes) and "..".
    """
    return PurePosixPath(*(part for part in path.parts if part not in (path.anchor, "..")))
