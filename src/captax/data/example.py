"""The examples that every dataset source yields, and the checks that all sources share."""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from captax import files
from captax.data.faults import LONGEST_CAPTION, Fault, Kind
from captax.errors import CaptaxError, plural
from captax.files import is_file

_faults: ContextVar[list[Fault] | None] = ContextVar("faults", default=None)
_keeps_empty: ContextVar[bool] = ContextVar("keeps_empty", default=False)


class DataError(CaptaxError):
    """A dataset that cannot be recognised, read or trusted."""


class SplitError(DataError):
    """A dataset without the split asked for."""


@dataclasses.dataclass(frozen=True)
class Example:
    """One picture and its captions.

    Attributes:
        id: names the picture within its source.
        image: the picture file, or the bytes of one.
        captions: its captions, as written.
        source: the name of the dataset it was read from (its folder's); `mix` prefixes ids with it.
    """

    id: str
    image: Path | bytes
    captions: tuple[str, ...]
    source: str = ""

    @property
    def unread(self) -> "Path | bytes | Stored":
        """The picture; if it lies within a larger file, what reads it."""
        return self.image

    def renamed(self, id: str, source: str) -> "Example":
        """The same picture and captions under another id and source."""
        return dataclasses.replace(self, id=id, source=source)


@runtime_checkable
class Stored(Protocol):
    """A picture within a larger file."""

    def read(self) -> bytes:
        """The bytes of the picture's file. Raises `ImageError` when it cannot be read."""


class OnDemand:
    """An example whose picture lies within a larger file: `image` reads its bytes on demand.

    A million of them take memory for their ids and texts, and none for their pictures.
    """

    def __init__(self, **values: Any):
        """`stored` is the picture; the other values are the example's."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def image(self) -> Path | bytes:
        """The bytes of the picture's file, read now."""
        stored = self.unread
        return stored if isinstance(stored, Path | bytes) else stored.read()

    @property
    def unread(self) -> Stored | Path | bytes:
        """What reads the picture."""
        stored: Stored | Path | bytes = vars(self)["stored"]
        return stored

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(value for name, value in vars(self).items() if name != "stored"))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"


class StoredExample(OnDemand, Example):
    """An example with captions that is read on demand."""

    def __init__(
        self, id: str, image: Stored | Path | bytes, captions: tuple[str, ...], source: str = ""
    ):
        super().__init__(id=id, stored=image, captions=captions, source=source)

    def renamed(self, id: str, source: str) -> Example:
        return StoredExample(id, self.unread, self.captions, source)


@dataclasses.dataclass(frozen=True)
class ListedCaption:
    """One caption as it stands in a dataset's file: `where` says which file and line."""

    picture: str
    caption: str
    where: str


@contextlib.contextmanager
def collecting_faults(*, keep_empty: bool = False) -> Iterator[list[Fault]]:
    """Within the block, faults of single examples are added to the list it yields, not raised.

    Examples may then have no captions, empty captions, texts that are too long, or pictures that do
    not exist. These faults are not added, because the examples show them. A file that cannot be
    read at all still raises.
    Karpathy's files have empty sentences, and files beside pictures may be empty; with `keep_empty`
    these are empty captions, else there is none.
    """
    faults: list[Fault] = []
    token, kept = _faults.set(faults), _keeps_empty.set(keep_empty)
    try:
        yield faults
    finally:
        _faults.reset(token)
        _keeps_empty.reset(kept)


def keeps_empty() -> bool:
    """Whether empty captions of Karpathy's files and beside pictures are kept, to be told of."""
    return _keeps_empty.get()


def refuses() -> bool:
    """Whether faults are raised: always, except within `collecting_faults`."""
    return _faults.get() is None


def gather(rows: Iterable[ListedCaption]) -> dict[str, list[str]]:
    """The captions of each picture, both in the order of the file.

    Raises:
        DataError: a row has no picture or no caption; the message names its file and line.
    """
    captions: dict[str, list[str]] = {}
    for row in rows:
        if not row.picture:
            note(
                f"{row.where}: a caption without a picture's name; add it or drop the row",
                Kind.unpictured,
            )
            continue
        caption = row.caption.strip()
        refuse_long(caption, row.where)
        if not caption and refuses():
            raise DataError(f"{row.where}: {row.picture} has an empty caption; write it or drop it")
        captions.setdefault(row.picture, []).append(caption)
    return captions


def refuse_long(text: str, where: object, most: int = LONGEST_CAPTION) -> None:
    """Refuse a text that is too long to be a caption.

    Raises:
        DataError: it is longer than `most` characters, and faults are not collected.
    """
    if len(text) > most and refuses():
        raise DataError(f"{where}: a text of {len(text):,} characters; give at most {most:,}")


def make_examples(
    captions: Mapping[str, Iterable[str]],
    pictures: Mapping[str, Path],
    *,
    listed_in: Path,
    source: str,
) -> list[Example]:
    """One example for each id, in the order of `captions`.

    Args:
        captions: id -> its captions.
        pictures: id -> its picture's path.
        listed_in: the file that lists them, for the message.
        source: the name of the dataset.

    Raises:
        DataError: pictures are missing on disk; the message names the first and counts the rest.
    """
    if refuses():
        refuse(
            [str(pictures[id]) for id in captions if not is_file(pictures[id])],
            listed_in,
            "does not exist; restore the picture or remove it from the list",
        )
    return [Example(id, pictures[id], tuple(texts), source) for id, texts in captions.items()]


def refuse(names: Iterable[str], where: object, fault: str, kind: Kind = Kind.dataset) -> None:
    """Raise `where: name fault` for the first name and count the others; no names raise nothing.

    Raises:
        DataError: there is a name, and faults are not collected.
    """
    faulty = list(names)
    if faulty:
        rest = len(faulty) - 1
        others = f" (and {plural(rest, 'other')})" if rest else ""
        note(f"{where}: {faulty[0]}{others} {fault}", kind)


def note(fault: str, kind: Kind = Kind.dataset) -> None:
    """Raise a fault of single examples, or collect it where faults are collected.

    Raises:
        DataError: faults are not collected.
    """
    noted = _faults.get()
    if noted is None:
        raise DataError(fault)
    noted.append(Fault(kind, fault))


def refuse_repeats(ids: Iterable[str], where: object, fault: str) -> None:
    """Refuse the ids that come more than once, as `refuse` does.

    Raises:
        DataError: an id comes more than once, and faults are not collected.
    """
    refuse([id for id, count in Counter(ids).items() if count > 1], where, fault)


def read_text(path: Path) -> str:
    """The file's text, UTF-8 with or without a byte order mark.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    try:
        return files.read_text(path, limit=files.TABLE_LIMIT, pipes=True)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8 text; save the file as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
