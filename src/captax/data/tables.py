"""Reads tables: CSV, TSV, lines of JSON, and lists in JSON."""

import contextlib
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from captax.data.example import DataError, read_text
from captax.errors import plural, quoted
from captax.files import CSV_HEADER, csv_text, parse_json

TABLE_SUFFIXES = (".jsonl", ".csv", ".tsv", ".json")
CAPTION_COLUMNS = ("text", "caption", "captions", "sentences", "sentence", "txt")
MOST_TOLD = 10  # malformed rows of a file
Row = TypeVar("Row")
Read = TypeVar("Read")
NUMBERED_CAPTION = re.compile(r"caption_?\d+")  # Flickr8k on the hub: caption_0 to caption_4


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table, each with its place (file and line) and its fields by column.

    CSV and TSV have a header. Fields of a CSV may be quoted and then span several lines; fields of
    a TSV are never quoted. A `.jsonl` has one object a line, and a `.json` a list of objects.

    Raises:
        DataError: a malformed row; the message names its line, and those of others.
    """
    if path.suffix.lower() == ".jsonl":
        yield from _json_lines(path)
    elif path.suffix.lower() == ".json":
        yield from _json_list(path)
    else:
        columns, rows = read_delimited(path)
        for where, fields in rows:
            yield where, dict(zip(columns, fields, strict=True))


def read_delimited(path: Path) -> tuple[list[str], Iterator[tuple[str, list[str]]]]:
    """The header of a CSV or TSV, and its other rows as lists of fields, each with its place.

    Raises:
        DataError: as `read_records` does, when the row is reached.
    """
    text = io.StringIO(read_text(path), newline="")
    if path.suffix.lower() == ".tsv":
        reader = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(text, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise DataError(f"{path}, line 1: {error}; check its quotes") from error
    return header, _rows(path, reader, header)


def _rows(path: Path, reader: Any, header: list[str]) -> Iterator[tuple[str, list[str]]]:
    width = len(header)
    ours = path.suffix.lower() == ".csv" and header[: len(CSV_HEADER)] == CSV_HEADER
    remedy = (
        "replace tabs in fields by spaces"
        if path.suffix.lower() == ".tsv"
        else "put fields that contain commas in double quotes"
    )

    def fields(row: tuple[str, list[str]]) -> tuple[str, list[str]]:
        where, values = row
        if len(values) != width:
            raise DataError(
                f"{where}: this row has {len(values)} fields and the header has {width}; {remedy}"
            )
        return where, list(map(csv_text, values)) if ours else values

    return read_rows(path, _placed(path, reader), fields)


def _placed(path: Path, reader: Any) -> Iterator[tuple[str, list[str]]]:
    """The rows after the header, each with its place; empty lines are passed over."""
    line = reader.line_num + 1
    try:
        for row in reader:
            # A row that spans several lines is named by its first line.
            where, line = f"{path}, line {line}", reader.line_num + 1
            if row:
                yield where, row
    except csv.Error as error:
        raise DataError(f"{path}, line {line}: {error}; check its quotes") from error


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    def record(row: tuple[int, str]) -> tuple[str, dict[str, Any]]:
        number, line = row
        where = f"{path}, line {number}"
        try:
            return where, _object(where, parse_json(line))
        except ValueError as error:
            raise DataError(f"{where}: not JSON ({error}); write one object a line") from error

    lines = enumerate(read_text(path).split("\n"), 1)
    return read_rows(path, (row for row in lines if row[1].strip()), record)


def _json_list(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        records = parse_json(read_text(path))
    except ValueError as error:
        raise DataError(
            f"{path}: not JSON ({error}); if it has one object a line, name it .jsonl"
        ) from error
    if not isinstance(records, list):
        raise DataError(f"{path}: expected a list of objects, got {type(records).__name__}")

    def record(row: tuple[int, object]) -> tuple[str, dict[str, Any]]:
        where = f"{path}, [{row[0]}]"
        return where, _object(where, row[1])

    return read_rows(path, enumerate(records), record)


def read_rows(path: Path, rows: Iterable[Row], read: Callable[[Row], Read]) -> Iterator[Read]:
    """What `read` makes of each row of a file, until it refuses one.

    Raises:
        DataError: `read` refused rows. The message tells of all, the first of them by their faults,
            or of one if there is no good row, because then the fault is in the file as a whole.
    """
    left = iter(rows)
    good = False
    for row in left:
        try:
            found = read(row)
        except DataError as error:
            raise _together(path, error, left, read, good) from error
        good = True
        yield found


def _together(
    path: Path, first: DataError, rows: Iterator[Row], read: Callable[[Row], Any], good: bool
) -> DataError:
    """One error for the first fault and those of the rows that are left."""
    told, count = [str(first)], 1
    while True:
        try:
            for row in rows:
                read(row)
                good = True
            break
        except DataError as error:
            count += 1
            if len(told) < MOST_TOLD:
                told.append(str(error).removeprefix(f"{path}, "))
    told = told if good else told[:1]
    rest = count - len(told)
    more = f"; and {plural(rest, 'more row')}" if rest else ""
    return DataError("; ".join(told) + more)


def _object(where: str, record: object) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected an object, got {type(record).__name__}")
    return record


def parquet_library(path: Path) -> Any:
    """pyarrow, which reads and writes parquet.

    Raises:
        DataError: it is not installed; the message names `path`, the file to read or write.
    """
    try:
        import pyarrow.parquet  # an extra
    except ModuleNotFoundError:
        raise DataError(f"{path}: parquet needs pyarrow; pip install 'captax[parquet]'") from None
    return pyarrow


def find_column(where: str, columns: Sequence[str], names: Sequence[str]) -> str:
    """The first of `names` that is among `columns`.

    Raises:
        DataError: none of them is.
    """
    for name in names:
        if name in columns:
            return name
    raise DataError(
        f"{where}: no column is named {alternatives(names)}; rename one of the columns "
        f"({', '.join(columns) or 'it has none'})"
    )


def caption_columns(where: str, columns: Sequence[str]) -> list[str]:
    """The columns that hold captions: one by its usual name, or several that are numbered.

    Raises:
        DataError: no column holds captions.
    """
    numbered = [name for name in columns if NUMBERED_CAPTION.fullmatch(name)]
    if numbered and not set(columns) & set(CAPTION_COLUMNS):
        return numbered
    return [find_column(where, columns, CAPTION_COLUMNS)]


def captions_in(where: str, value: object) -> list[str]:
    """The captions in a field: a string, a list of strings, or a list of COCO's `{"raw": ...}`.

    A string that holds a JSON list of strings counts as a list; some tables have no other lists.

    Raises:
        DataError: the field has another type, or is an empty list.
    """
    if isinstance(value, str) and value.lstrip().startswith('["'):
        with contextlib.suppress(ValueError):  # a caption may begin like a list
            value = parse_json(value)
    values = value if isinstance(value, list) else [value]
    texts = [each.get("raw") if isinstance(each, Mapping) else each for each in values]
    captions = [text for text in texts if isinstance(text, str)]
    if not captions or len(captions) < len(texts):
        raise DataError(f"{where}: it needs one or more captions, as strings; got {quoted(value)}")
    return captions


def alternatives(names: Sequence[str]) -> str:
    """Names in a sentence: `a, b or c`."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
