"""Captions beside their pictures: each has a file of its own, or is in the picture's."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from captax.collection.choices import OnExists
from captax.collection.items import CollectionError, Item
from captax.collection.record import Record
from captax.collection.wording import merged
from captax.files import OutputError, write_text

# Whose partial files a job that goes on may write over.
OWNER = "captax"
# What no picture after this one would be spared.
_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}


@runtime_checkable
class Kind(Protocol):
    """Where a caption is written beside its picture."""

    def target(self, item: Item) -> Path:
        """The file that it is written into. Raises `CollectionError` where there can be none."""

    def read(self, target: Path) -> str | None:
        """What that file says, `None` where there is none. Raises `CollectionError`."""

    def write(self, target: Path, texts: Sequence[str]) -> None:
        """Have it say these captions. Raises `OutputError`, or `CollectionError`."""


class Sidecars:
    """A text file beside each picture, of its name, one caption a line.

    In `folder`, where one is given, the pictures' folders are mirrored.
    """

    def __init__(self, suffix: str = ".txt", folder: Path | None = None):
        if not suffix.startswith(".") or "/" in suffix or not suffix.strip("."):
            raise CollectionError(f"ext is {suffix!r}: give one such as .txt or .caption")
        self.suffix = suffix
        self.folder = folder

    def target(self, item: Item) -> Path:
        return beside(item, self.folder).with_suffix(self.suffix)

    def read(self, target: Path) -> str | None:
        try:
            return target.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            raise CollectionError(f"{target}: is not UTF-8 text; move it away") from None
        except OSError as error:
            reason = error.strerror or error
            raise CollectionError(f"{target}: cannot be read ({reason})") from None

    def write(self, target: Path, texts: Sequence[str]) -> None:
        write_text(target, "\n".join(texts) + "\n", owner=OWNER)


def beside(item: Item, folder: Path | None) -> Path:
    """The picture's path, or its place in a folder that mirrors those of pictures.

    Raises:
        CollectionError: the picture lies in an archive or elsewhere, and no folder is given.
    """
    if folder is not None:
        return folder / item.place
    if item.path is None:
        raise CollectionError("is no file on this disk, to write beside; give a folder as --out")
    return item.path


class Beside:
    """Writes captions beside pictures, each once, by a policy for those that have one."""

    holds_errors = False

    def __init__(self, kind: Kind, policy: OnExists = OnExists.skip, separator: str = "\n"):
        self.kind = kind
        self.policy = policy
        self.separator = separator
        self._taken: dict[str, str] = {}

    def plan(self, item: Item) -> tuple[str, str | None] | None:
        """The file that an item's caption will be in, and what that says now; `None` to skip it.

        Raises:
            CollectionError: it cannot be written, or is that of another picture.
        """
        target = self.kind.target(item)
        if (owner := self._taken.get(str(target))) is not None:
            raise CollectionError(f"{target} is that of {owner} already; rename one of them")
        before = self.kind.read(target)
        if self.policy is OnExists.skip and (before or "").strip():
            return None
        there = next((each for each in target.parents if each.exists()), None)
        if there is None or not os.access(there, os.W_OK):
            raise CollectionError(f"{there or target.parent}: nothing may be written there")
        self._taken[str(target)] = item.name
        return str(target), before

    def done(self, record: Record) -> None:
        """Take note of what an earlier process of the job wrote, or was about to."""
        if record.target is not None:
            self._taken[record.target] = record.name

    def write(self, record: Record) -> str:
        """Write a record's captions into its file; why that failed, where it did for it alone.

        A file that does not say what it said when the caption was made is left alone: it has been
        written, by this job before it was killed, or by somebody else.

        Raises:
            OutputError: nothing more can be written, such as on a full disk.
        """
        if record.error or record.target is None:
            return ""
        target = Path(record.target)
        try:
            if self.kind.read(target) != record.before:
                return ""
            texts = [text for text, _ in record.captions]
            whole = "\n".join(texts)
            text = merged(self.policy, record.before, whole, self.separator)
            self.kind.write(target, text.split("\n"))
        except OutputError as error:
            if error.errno in _FATAL:
                raise
            return str(error)
        except CollectionError as error:
            return str(error)
        return ""

    def finish(self, records: Callable[[], Iterator[Record]]) -> list[Path]:
        """Nothing is left to write."""
        return []
