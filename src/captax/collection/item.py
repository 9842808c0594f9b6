"""A picture to caption, and the suffixes of lists and archives."""

import dataclasses
from collections import Counter
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from captax.data.example import Stored
from captax.errors import CaptaxError, plural
from captax.images import ImageError

# Masks that training programs write beside pictures; they are not captioned.
MASKS = ("-masklabel.png", "-condlabel.png")
LISTS = (".parquet", ".jsonl", ".csv", ".tsv", ".txt")
ARCHIVES = (".zip", ".tar")


class CollectionError(CaptaxError):
    """A collection cannot be captioned as asked."""


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """A picture to caption.

    Attributes:
        name: its name in outputs: its path (for a list, as seen from the list's folder), the path
            of its archive and its path within, or its URL.
        image: its file, its bytes, an object that reads them when needed, or the reason why there
            is no picture.
        place: its relative path, for outputs that mirror the folders of the pictures.
        columns: the other columns of the list that names it.
    """

    name: str
    image: Path | bytes | Stored | ImageError
    place: PurePosixPath
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def path(self) -> Path | None:
        """The picture's own file, if it is a file on this machine."""
        return self.image if isinstance(self.image, Path) else None

    def source(self) -> Path | bytes:
        """The file or bytes to decode. Raises `ImageError` if there are none."""
        if isinstance(self.image, ImageError):
            raise self.image
        return self.image if isinstance(self.image, Path | bytes) else self.image.read()


def place_of(path: PurePath) -> PurePosixPath:
    """The relative path of a picture, for outputs that mirror the folders of the pictures.

    The root (which may have two slashes) and ".." are left out, so that the path stays within the
    output's folder.
    """
    return PurePosixPath(*(part for part in path.parts if part not in (path.anchor, "..")))


_SUFFIXES_TOLD = 8
# Rows of lists whose picture an earlier row has, among what is left out.
REPEATED = "repeated"


def files_left_out(left_out: Counter[str]) -> str:
    """The files that are no pictures, in a summary: "7 files skipped: 3 .mp4, 4 .txt".

    Rows that are `REPEATED` follow.
    """
    files = Counter({kind: count for kind, count in left_out.items() if kind != REPEATED})
    most, parts = files.most_common(_SUFFIXES_TOLD), []
    told = [f"{count:,} {suffix}" for suffix, count in sorted(most)]
    total = files.total()
    if rest := total - sum(count for _, count in most):
        told.append(f"{rest:,} of other kinds")
    if total:
        parts.append(f"{plural(total, 'file')} skipped: {', '.join(told)}")
    if repeated := left_out[REPEATED]:
        parts.append(f"{plural(repeated, 'row')} skipped: an earlier row has the same picture")
    return "; ".join(parts)
