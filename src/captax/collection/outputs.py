"""Captions of many pictures in one file, in every common format."""

import contextlib
import csv
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from captax.collection.choices import CaptionFormat
from captax.collection.item import CollectionError, Item
from captax.collection.record import Record, as_line, cell, utf8
from captax.data import batched
from captax.data.tables import parquet_library
from captax.files import (
    CSV_HEADER,
    OutputError,
    csv_cell,
    open_regular,
    own_file,
    replacing,
    text_file,
    write_text,
)

Records = Callable[[], Iterable[Record]]

# The names of COCO's pictures; the number is the id.
_COCO_NAME = re.compile(r"(?:COCO_\w+?_)?(\d+)")
_ROWS = 4096  # written to parquet at a time


def as_json(record: Record) -> dict[str, Any]:
    """A record as a JSON object."""
    if record.error:
        return {"path": record.name, "error": record.error, **record.columns}
    values: dict[str, Any] = {"path": record.name, "caption": record.text, "score": record.score}
    if record.confidence is not None:
        values["confidence"] = record.confidence
    if (kind := record.graphic) is not None:
        values["graphic"] = kind
    if record.looped:
        values["looped"] = True
    if record.captions[1:]:
        values["alternatives"] = [
            {"caption": text, "score": score} for text, score in record.captions[1:]
        ]
    if record.copy_of:
        values["copy_of"] = record.copy_of
    own: dict[str, Any] = {}
    if record.regions is not None:
        own["regions"] = [region.write() for region in record.regions]
    if record.tags is not None:
        own["tags"] = [tag.write() for tag in record.tags]
    for name in ("removed", "language", "facts"):
        if value := getattr(record, name):
            own[name] = value
    columns = {f"list_{k}" if k in own else k: value for k, value in record.columns.items()}
    return {**values, **columns, **own}


def as_text(record: Record) -> str:
    """A record as text: a line with the name for each caption."""
    return "".join(f"{record.name}: {text}\n" for text, _ in record.captions)


def write_text_lines(path: Path, records: Records) -> None:
    """Lines `path: caption`."""
    with _lines(path) as file:
        file.writelines(map(as_text, records()))


def write_json_lines(path: Path, records: Records, *, own: bool = False) -> None:
    """A JSON object a line: `path`, and `caption`, `score` and perhaps others, or `error`.

    A file of captax's `own` takes the place of a link.
    """
    with _lines(path, own=own) as file:
        file.writelines(as_line(as_json(record)) for record in records())


def write_csv(path: Path, records: Records, *, safe: bool = True) -> None:
    """Columns `path`, `caption`, `score`, `error`; then `caption_2` and so on; then the list's.

    Texts are as `csv_cell` writes them.
    """

    def told(value: object) -> object:
        return csv_cell(value, safe=safe) if isinstance(value, str) else value

    most = max((len(record.captions) for record in records()), default=1)
    others = [f"{name}_{n}" for n in range(2, most + 1) for name in ("caption", "score")]
    listed = list({name: None for record in records() for name in record.columns})
    with _lines(path, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        # Python 3.11 does not quote a carriage return, and readers take it for the end of a line.
        quoting = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow([*CSV_HEADER, *others, *map(told, listed)])
        for record in records():
            best = list(record.captions[0]) if record.captions else ["", ""]
            rest = [value for caption in record.captions[1:] for value in caption]
            rest += [""] * (len(others) - len(rest)) if listed else []
            rest += [cell(record.columns.get(name)) for name in listed]
            row = list(map(told, [record.name, *best, record.error, *rest]))
            (quoting if any("\r" in str(value) for value in row) else writer).writerow(row)


def write_coco(path: Path, records: Records) -> None:
    """COCO's results: a list of `image_id` and `caption`.

    If the names of all pictures have COCO's numbers, these are the ids; otherwise the names of the
    files, or, if these are not all different, their paths.
    """

    def number(name: str) -> int | str:
        found = _COCO_NAME.fullmatch(Path(name).stem)
        return int(found[1]) if found else ""

    def file_name(name: str) -> int | str:
        return Path(name).name

    def distinct(id: Callable[[str], int | str]) -> bool:
        ids = [id(record.name) for record in records() if record.captions]
        return "" not in ids and len(set(ids)) == len(ids)

    id = next(filter(distinct, (number, file_name)), str)

    with _lines(path) as file:
        separator = "[\n"
        for record in records():
            if record.captions:
                value = {"image_id": id(record.name), "caption": record.text}
                file.write(separator + as_line(value).rstrip("\n"))
                separator = ",\n"
        file.write("[]\n" if separator == "[\n" else "\n]\n")


def write_metadata(path: Path, records: Records) -> None:
    """The `metadata.jsonl` of an image folder: `file_name`, relative to the folder, and `text`."""
    with _lines(path) as file:
        for record in records():
            if record.captions:
                name = below(path.parent, Path(record.name))
                file.write(as_line({"file_name": name, "text": record.text}))


def below(folder: Path, path: Path) -> str:
    """The path of a picture relative to a folder that contains it.

    Raises:
        CollectionError: the folder does not contain it.
    """
    # Links are not resolved: a picture is in the folder that its link is in.
    inside = os.path.relpath(os.path.abspath(path), os.path.abspath(folder))  # noqa: PTH100
    if inside.startswith(".."):
        raise CollectionError(
            f"{path}: is not in {folder}, and metadata.jsonl names only pictures in its folder; "
            "give --out another name, such as captions.jsonl"
        )
    return Path(inside).as_posix()


def write_parquet(path: Path, records: Records) -> None:
    """Columns `path`, `caption`, `score`, `alternatives` and `error`; then the list's, as texts."""
    pyarrow = parquet_library(path)
    listed = list({name: None for record in records() for name in record.columns})
    caption = [("caption", pyarrow.string()), ("score", pyarrow.float64())]
    schema = pyarrow.schema([
        ("path", pyarrow.string()),
        *caption,
        ("alternatives", pyarrow.list_(pyarrow.struct(caption))),
        ("error", pyarrow.string()),
        *((utf8(name), pyarrow.string()) for name in listed),
    ])  # fmt: skip
    with (
        replacing(path) as file,
        pyarrow.parquet.ParquetWriter(file, schema) as writer,
    ):
        for rows in batched(map(_row, records()), _ROWS):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def _row(record: Record) -> dict[str, Any]:
    values = {"alternatives": [], **as_json(record)}
    values |= {name: cell(value) for name, value in record.columns.items()}
    return {
        utf8(key): utf8(value) if isinstance(value, str) else value for key, value in values.items()
    }


WRITERS: dict[CaptionFormat, Callable[[Path, Records], None]] = {
    CaptionFormat.text: write_text_lines,
    CaptionFormat.jsonl: write_json_lines,
    CaptionFormat.csv: write_csv,
    CaptionFormat.parquet: write_parquet,
    CaptionFormat.coco: write_coco,
    CaptionFormat.metadata: write_metadata,
}
# Formats that also list pictures without a caption.
HOLD_ERRORS = (CaptionFormat.jsonl, CaptionFormat.csv, CaptionFormat.parquet)


# Formats that hold only the best of a picture's captions.
HOLD_ONE = (CaptionFormat.coco, CaptionFormat.metadata, CaptionFormat.xmp, CaptionFormat.embed)
_SUFFIXES = {
    ".txt": (CaptionFormat.text,),
    ".jsonl": (CaptionFormat.jsonl, CaptionFormat.metadata),
    ".csv": (CaptionFormat.csv,),
    ".parquet": (CaptionFormat.parquet,),
    ".json": (CaptionFormat.coco,),
}


def format_of(path: Path, asked: CaptionFormat | None = None) -> CaptionFormat:
    """The format of a file: the one that is asked for, or else what its name says.

    Raises:
        CollectionError: its name says that it is of another format.
    """
    suffix = path.suffix.lower()
    if suffix == ".tsv":
        raise CollectionError(f"{path}: tables are written as .csv or .parquet; give such a name")
    told = _SUFFIXES.get(suffix, ())
    if asked is None:
        if path.name == "metadata.jsonl":
            return CaptionFormat.metadata
        return told[0] if told else CaptionFormat.text
    if told and asked not in told:
        ends = next(each for each, formats in _SUFFIXES.items() if asked in formats)
        raise CollectionError(
            f"{path}: its name says {told[0]}, and --format says {asked}; give a name that ends in "
            f"{ends}, or leave out --format"
        )
    return asked


class Elsewhere:
    """What outputs share that write nothing beside a picture."""

    changes_pictures = False
    rewrites = True

    def plan(self, item: Item, earlier: Record | None = None) -> tuple[None, str, str]:
        return None, "", ""

    def target(self, item: Item) -> None:
        """Nothing is written beside a picture."""

    def lacks(self, item: Item, record: Record) -> bool:
        """Never: the journal has every record."""
        return False

    def done(self, record: Record) -> None:
        """Nothing to do: the journal has the record, and printed captions are not kept."""


class OneFile(Elsewhere):
    """All captions in one file, which is written when the job is done.

    The file `mark` holds a digest of it, so that a change by somebody else is noticed.
    """

    def __init__(
        self, path: Path, format: CaptionFormat, mark: Path | None = None, *, csv_safe: bool = True
    ):
        self.csv_safe = csv_safe
        self.path = path
        self.format = format
        self.mark = mark
        self.holds_errors = format in HOLD_ERRORS

    def plan(self, item: Item, earlier: Record | None = None) -> tuple[None, str, str]:
        if self.format is CaptionFormat.metadata:
            if item.path is None:
                raise CollectionError(
                    "is not a file on this disk, so metadata.jsonl cannot name it; give --out "
                    "another name, such as captions.jsonl"
                )
            below(self.path.parent, item.path)
        return super().plan(item, earlier)

    def write(self, record: Record) -> str:
        """Nothing to do: the file is written at the end."""
        return ""

    def finish(self, records: Records) -> list[Path]:
        """Write the file."""
        if self.mark is not None:
            write_text(self.mark, "", own=True)  # until the digest is known
        if self.format is CaptionFormat.csv:
            write_csv(self.path, records, safe=self.csv_safe)
        else:
            WRITERS[self.format](self.path, records)
        if self.mark is not None:
            write_text(self.mark, _digest(self.path), own=True)
        return [self.path]

    def check(self) -> None:
        """Raise `CollectionError` if somebody else wrote or changed the file."""
        if not self.path.exists():
            return
        try:
            known = None
            if self.mark is not None:
                with own_file(self.mark, "rb") as file:
                    known = file.read(1000).decode(errors="replace")
        except OSError:
            known = None
        if known is None or (known and known != _digest(self.path)):
            what = "is there already" if known is None else "was changed since it was written"
            raise CollectionError(f"{self.path}: {what}; add --overwrite to replace it")


class Screen(Elsewhere):
    """Prints captions as lines of text or JSON as soon as they are made."""

    holds_errors = False

    def __init__(self, format: CaptionFormat):
        self.format = format

    def write(self, record: Record) -> str:
        line = as_text(record) if self.format is CaptionFormat.text else as_line(as_json(record))
        try:
            print(utf8(line), end="", flush=True)
        except BrokenPipeError:  # the reader, such as `head`, has ended
            raise
        except OSError as error:
            raise OutputError(f"standard output: {error.strerror or error}", error.errno) from None
        return ""

    def finish(self, records: Records) -> list[Path]:
        """Nothing is left to write."""
        return []


def _digest(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CollectionError(
            f"{path}: cannot be read ({error.strerror or error}); fix its permissions"
        ) from None


@contextlib.contextmanager
def _lines(path: Path, newline: str = "\n", *, own: bool = False) -> Iterator[TextIO]:
    """A text file that appears when complete; bytes of names that are not UTF-8 are escaped."""
    with (
        replacing(path, own=own) as new,
        text_file(new, errors="backslashreplace", newline=newline) as file,
    ):
        yield file
