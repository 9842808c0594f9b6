"""Captions beside their pictures: in a file of each one's own, or in the picture's."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from captax.collection import description
from captax.collection.caption_template import merged
from captax.collection.choices import OnExists
from captax.collection.description import sidecar_path
from captax.collection.exiftool import ExifTool
from captax.collection.item import CollectionError, Item
from captax.collection.record import OWNER, Record
from captax.errors import CaptaxError
from captax.files import OutputError, write_text

# Errors that every picture after this one would meet, too.
_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}


@runtime_checkable
class Kind(Protocol):
    """Where a caption is written beside its picture, which pictures' paths stand for."""

    def file(self, picture: Path) -> Path:
        """The file that it is written into."""

    def read(self, picture: Path) -> str:
        """What that says, "" where there is none. Raises `CaptaxError` if it cannot be read."""

    def write(self, picture: Path, texts: list[str]) -> None:
        """Have it say these captions. Raises `CaptaxError`, an `OutputError` of the disk's."""


class TextSidecars:
    """A text file of the picture's name, one caption a line."""

    def __init__(self, suffix: str = ".txt"):
        self.suffix = suffix

    def file(self, picture: Path) -> Path:
        return picture.with_suffix(self.suffix)

    def read(self, picture: Path) -> str:
        file = self.file(picture)
        try:
            return file.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return ""
        except UnicodeDecodeError:
            raise CollectionError(f"{file}: is not UTF-8 text; move it away") from None
        except OSError as error:
            raise CollectionError(f"{file}: cannot be read ({error.strerror or error})") from None

    def write(self, picture: Path, texts: list[str]) -> None:
        write_text(self.file(picture), "\n".join(texts) + "\n", owner=OWNER)


class XmpSidecars:
    """An `.xmp` beside the picture, whose description is the best caption."""

    def __init__(self, *, adobe: bool = False):
        self.adobe = adobe
        self._sidecars = description.Sidecars(adobe=adobe)

    def file(self, picture: Path) -> Path:
        return sidecar_path(picture, adobe=self.adobe)

    def read(self, picture: Path) -> str:
        return self._sidecars.read(picture)

    def write(self, picture: Path, texts: list[str]) -> None:
        self._sidecars.write(picture, texts[0])


class Embedded:
    """The description in the picture's own file: the best caption."""

    def __init__(self, exiftool: ExifTool):
        self._exiftool = exiftool

    def file(self, picture: Path) -> Path:
        return picture

    def read(self, picture: Path) -> str:
        return self._exiftool.read(picture)

    def write(self, picture: Path, texts: list[str]) -> None:
        self._exiftool.write(picture, texts[0])


class Beside:
    """Writes captions beside pictures, each once, by a policy for those that have one.

    In `folder`, where one is given, the pictures' folders are mirrored.
    """

    holds_errors = False

    def __init__(
        self,
        kind: Kind,
        folder: Path | None = None,
        policy: OnExists = OnExists.skip,
        separator: str = "\n",
    ):
        self.kind = kind
        self.folder = folder
        self.policy = policy
        self.separator = separator
        self._taken: dict[str, str] = {}

    def plan(self, item: Item) -> tuple[str, str] | None:
        """The picture that an item's caption is written beside, and what is there now.

        `None` for one to be left as it is. Raises `CaptaxError` for one whose caption cannot be
        written, or not without replacing that of another picture.
        """
        picture = item.path if self.folder is None else self.folder / item.place
        if picture is None:
            raise CollectionError(
                "is not a file on this disk, so nothing can be written beside it; add --out FOLDER"
            )
        file = self.kind.file(picture)
        if (owner := self._taken.get(str(file))) is not None:
            raise CollectionError(
                f"another picture's caption goes to the same file: {file} is that of {owner}; "
                "rename one of them"
            )
        before = self.kind.read(picture)
        if self.policy is OnExists.skip and before.strip():
            return None
        there = next((each for each in file.parents if each.exists()), file)
        if not os.access(there, os.W_OK):
            raise CollectionError(f"{there}: you have no permission to write there")
        self._taken[str(file)] = item.name
        return str(picture), before

    def done(self, record: Record) -> None:
        """Take note of what an earlier process of the job wrote, or was about to."""
        if record.target is not None:
            self._taken[str(self.kind.file(Path(record.target)))] = record.name

    def write(self, record: Record) -> str:
        """Write a record's captions beside its picture; why that failed, where it did for it alone.

        What does not say what it said when the caption was made is left alone: it was written by
        this job before it was killed, or by somebody else.

        Raises:
            OutputError: nothing more can be written, such as on a full disk.
        """
        if record.error or record.target is None:
            return ""
        picture = Path(record.target)
        try:
            if self.kind.read(picture) == record.before:
                texts = [text for text, _ in record.captions]
                self.kind.write(picture, merged(self.policy, record.before, texts, self.separator))
        except CaptaxError as error:
            if isinstance(error, OutputError) and error.errno in _FATAL:
                raise
            return str(error).removeprefix(f"{picture}: ")
        return ""

    def finish(self, records: Callable[[], Iterator[Record]]) -> list[Path]:
        """Nothing is left to write."""
        return []
