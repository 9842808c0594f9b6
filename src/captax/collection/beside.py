"""Captions beside their pictures: in a file for each picture, or in the picture's own file."""

import codecs
import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from captax.collection import description
from captax.collection.caption_template import merged
from captax.collection.choices import OnExists
from captax.collection.description import sidecar_path
from captax.collection.embedded import embedded
from captax.collection.exiftool import ExifTool
from captax.collection.item import CollectionError, Item
from captax.collection.record import Record
from captax.data.folder import Sidecars
from captax.errors import CaptaxError
from captax.files import OutputError, check_inside, is_special, read_bytes, read_text, write_text
from captax.images import IMAGE_SUFFIXES, names_video

SIDECAR_LIMIT = 4 * 2**20  # bytes of a text file beside a picture
# Errors that would also stop every later picture.
_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}


@runtime_checkable
class Kind(Protocol):
    """Where a caption is written beside its picture. `picture` is the path of the picture."""

    def file(self, picture: Path) -> Path:
        """The file that the caption is written to."""

    def read(self, picture: Path) -> str:
        """The text of that file, or "". Raises `CaptaxError` if it cannot be read."""

    def text(self, texts: list[str]) -> str:
        """What `read` gives once these captions are written, but for white space at its ends."""

    def write(self, picture: Path, texts: list[str], *, inside: Path | None = None) -> None:
        """Write these captions, `inside` a folder as `captax.files.replacing` does.

        Raises `CaptaxError`; `OutputError` if the disk refuses.
        """


class TextSidecars:
    """A text file with the picture's name, one caption a line.

    Without one of this suffix, another one counts that `captax.data` would take for a caption. A
    file that is there keeps its line ends and its byte order mark.
    """

    def __init__(self, suffix: str = ".txt"):
        self.suffix = suffix
        self._others = Sidecars()

    def file(self, picture: Path) -> Path:
        return picture.with_suffix(self.suffix)

    def read(self, picture: Path) -> str:
        own = self.file(picture)
        if not (text := self._text(own)).strip():
            other = self._others.of(picture)
            if other is not None and other != own and not other.is_symlink():
                return self._text(other)
        return text

    def _text(self, file: Path) -> str:
        try:
            return read_text(file, limit=SIDECAR_LIMIT)
        except FileNotFoundError:
            return ""
        except UnicodeDecodeError:
            raise CollectionError(f"{file}: is not UTF-8 text; move it away") from None
        except OSError as error:
            raise CollectionError(
                f"{file}: cannot be read ({error.strerror or error}); fix its permissions or move "
                "it away"
            ) from None

    def text(self, texts: list[str]) -> str:
        return "\n".join(texts)

    def write(self, picture: Path, texts: list[str], *, inside: Path | None = None) -> None:
        file = self.file(picture)
        text = self.text(texts) + "\n"
        with contextlib.suppress(OSError):  # there is none
            old = read_bytes(file, limit=SIDECAR_LIMIT)
            if b"\r\n" in old and old.count(b"\n") == old.count(b"\r\n"):
                text = text.replace("\n", "\r\n")
            if old.startswith(codecs.BOM_UTF8):
                text = f"\ufeff{text}"
        write_text(file, text, inside=inside)


class XmpSidecars:
    """An `.xmp` file beside the picture; its description is the best caption.

    Without a description there, one in a sidecar of the other name counts, or in the picture.
    """

    def __init__(self, *, adobe: bool = False):
        self.adobe = adobe
        self._sidecars = description.Sidecars(adobe=adobe)

    def file(self, picture: Path) -> Path:
        return sidecar_path(picture, adobe=self.adobe)

    def read(self, picture: Path) -> str:
        return self._sidecars.read(picture) or _elsewhere(picture) or embedded(picture)

    def text(self, texts: list[str]) -> str:
        return texts[0]

    def write(self, picture: Path, texts: list[str], *, inside: Path | None = None) -> None:
        self._sidecars.write(picture, texts[0], inside=inside)


class Embedded:
    """The description in the picture's own file: the best caption.

    Without one there, a description in a sidecar counts.
    """

    def __init__(self, exiftool: ExifTool):
        self._exiftool = exiftool

    def file(self, picture: Path) -> Path:
        return picture

    def read(self, picture: Path) -> str:
        if names_video(picture):
            raise CollectionError(
                "descriptions are embedded in pictures, not in videos; use --format sidecar or xmp"
            )
        return self._exiftool.read(picture) or _elsewhere(picture)

    def text(self, texts: list[str]) -> str:
        return texts[0]

    def write(self, picture: Path, texts: list[str], *, inside: Path | None = None) -> None:
        if inside is not None:
            check_inside(picture, inside)
        self._exiftool.write(picture, texts[0])


class Beside:
    """Writes captions beside pictures; `policy` says what to do if a picture already has one.

    If `folder` is given, captions are written there, in the same subfolders as the pictures. A link
    that leads out of that folder is refused for its picture. Without `folder` this counts for the
    deepest of `roots` that holds the file, or else for the file's own folder. With `follow_links`,
    all links are followed.
    """

    holds_errors = False
    rewrites = False

    def __init__(
        self,
        kind: Kind,
        folder: Path | None = None,
        policy: OnExists = OnExists.skip,
        separator: str = "\n",
        *,
        roots: Sequence[Path] = (),
        follow_links: bool = False,
    ):
        self._roots = sorted(map(_absolute, roots), key=lambda root: -len(root.parts))
        self._follow_links = follow_links
        self.kind = kind
        self.folder = folder
        self.policy = policy
        self.separator = separator
        self._taken: dict[str, str] = {}

    @property
    def changes_pictures(self) -> bool:
        """Whether captions are written into the pictures themselves."""
        return isinstance(self.kind, Embedded)

    def _still(self, video: Path, file: Path) -> Path | None:
        """A picture whose caption goes to the same file, as phones take with short videos."""
        if not names_video(video):
            return None
        return next(
            (
                still
                for suffix in sorted(IMAGE_SUFFIXES)
                for still in (video.with_suffix(suffix), video.with_suffix(suffix.upper()))
                if self.kind.file(still) == file and still.is_file()
            ),
            None,
        )

    def plan(self, item: Item, earlier: Record | None = None) -> tuple[str, str, str] | None:
        """The picture that an item's caption is written beside, and the text that is there now.

        If that is what this job wrote for an `earlier` record of the item, it counts as not there:
        the text from before it is given, and then the text to replace.

        None if the item is to be skipped. Raises `CaptaxError` if its caption cannot be written, or
        if it would replace the caption of another picture.
        """
        picture = self._picture(item)
        if picture is None:
            raise CollectionError(
                "is not a file on this disk, so nothing can be written beside it; add --out FOLDER"
            )
        file = self.kind.file(picture)
        if (still := self._still(picture, file)) is not None:
            raise CollectionError(
                f"{still.name}, of the same name, gets {file.name}; rename one of them, or leave "
                "videos out (--frames 0)"
            )
        if (owner := self._taken.get(str(file))) not in (None, earlier and earlier.name):
            raise CollectionError(
                f"another picture's caption goes to the same file: {file} is that of {owner}; "
                "rename one of them"
            )
        self._check(file)
        before, replaced = self.kind.read(picture), ""
        if earlier is not None and before.strip() == self._written(earlier).strip():
            before, replaced = earlier.before, before
        if self.policy is OnExists.skip and before.strip():
            return None
        there = next((each for each in file.parents if each.exists()), file)
        if not os.access(there, os.W_OK):
            raise CollectionError(
                f"{there}: you have no permission to write there; fix that, or give --out FOLDER"
            )
        self._taken[str(file)] = item.name
        return str(picture), before, replaced

    def _written(self, record: Record) -> str:
        """The text that a record's captions become."""
        if record.error:
            return ""
        texts = [text for text, _ in record.captions]
        return self.kind.text(merged(self.policy, record.before, texts, self.separator))

    def lacks(self, item: Item, record: Record) -> bool:
        """Whether the caption that was written for a record is not there any more."""
        picture = self._picture(item)
        if picture is None or record.target is None or record.error or not record.text.strip():
            return False  # nothing was written, or nothing that could be missed
        try:
            self._check(self.kind.file(picture))
            return not self.kind.read(picture).strip()
        except CaptaxError:
            return False

    def target(self, item: Item) -> str | None:
        """The picture that an item's caption is written beside, whatever is there."""
        picture = self._picture(item)
        return None if picture is None else str(picture)

    def _picture(self, item: Item) -> Path | None:
        return item.path if self.folder is None else self.folder / item.place

    def done(self, record: Record) -> None:
        """Remember what an earlier process of the job wrote, or was going to write."""
        if record.target is not None:
            self._taken[str(self.kind.file(Path(record.target)))] = record.name

    def write(self, record: Record) -> str:
        """Write a record's captions beside its picture. Return why that failed, or "".

        If the text there has changed since the caption was made, it is not written again: this job
        wrote it before it was killed, or somebody else did.

        Raises:
            OutputError: nothing more can be written, such as on a full disk.
        """
        if record.error or record.target is None:
            return ""
        picture = Path(record.target)
        try:
            inside = self._check(self.kind.file(picture))
            if self.kind.read(picture) == (record.replaced or record.before):
                texts = [text for text, _ in record.captions]
                texts = merged(self.policy, record.before, texts, self.separator)
                self.kind.write(picture, texts, inside=inside)
        except CaptaxError as error:
            if isinstance(error, OutputError) and error.errno in _FATAL:
                raise
            return str(error).removeprefix(f"{picture}: ")
        return ""

    def _check(self, file: Path) -> Path | None:
        """The folder that `file` must stay in, if there is one.

        Raises `CaptaxError` if it does not, or if it is a pipe or a device, which must not be read.
        """
        inside = None
        if not self._follow_links:
            place = _absolute(file)
            within = (root for root in self._roots if place.is_relative_to(root))
            inside = self.folder or next(within, place.parent)
            check_inside(file, inside)
        if is_special(file):
            raise CollectionError(f"{file}: is not a regular file; move it away")
        return inside

    def finish(self, records: Callable[[], Iterator[Record]]) -> list[Path]:
        """Nothing is left to write."""
        return []


def _elsewhere(picture: Path) -> str:
    """The description in a sidecar of either name; a damaged one has none."""
    for adobe in (False, True):
        with contextlib.suppress(CaptaxError):
            if text := description.Sidecars(adobe=adobe).read(picture):
                return text
    return ""


def _absolute(path: Path) -> Path:
    """`path` from the root of the file system; links stay as they are."""
    return Path(os.path.abspath(path))  # noqa: PTH100 (`resolve` follows links)
