"""Reads tables: CSV, TSV, lines of JSON, and lists in JSON."""

import contextlib
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from captax.data.example import DataError, note, read_text, refuses
from captax.errors import plural, quoted
from captax.files import CSV_HEADER, csv_text, parse_json

TABLE_SUFFIXES = (".jsonl", ".csv", ".tsv", ".json")
CAPTION_COLUMNS = ("text", "caption", "captions", "sentences", "sentence", "txt")
MOST_TOLD = 10  # malformed rows of a file
_MOST_AGAIN = 1_000_000  # lines that are read again after malformed rows
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
    rows, read = _table(path)
    return read_rows(path, rows, read)


def read_each_record(path: Path) -> Iterator[tuple[str, dict[str, Any] | DataError]]:
    """As `read_records`, but a malformed row gives its error, and the rows after it are read."""
    rows, read = _table(path)
    for row in rows:
        try:
            yield read(row)
        except DataError as error:
            yield row[0], error


Raw = tuple[str, Any]  # a row's place, and what stands there or why it cannot be read


def _table(path: Path) -> tuple[Iterator[Raw], Callable[[Raw], tuple[str, dict[str, Any]]]]:
    """The rows of a table, and what makes a record of one."""
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return _json_lines(path), _json_line
    if suffix == ".json":
        return _json_list(path), lambda row: (row[0], _object(*row))
    columns, rows, fields = _delimited(path)

    def record(row: Raw) -> tuple[str, dict[str, Any]]:
        where, values = fields(row)
        return where, dict(zip(columns, values, strict=True))

    return rows, record


def read_delimited(path: Path) -> tuple[list[str], Iterator[tuple[str, list[str]]]]:
    """The header of a CSV or TSV, and its other rows as lists of fields, each with its place.

    Raises:
        DataError: as `read_records` does, when the row is reached.
    """
    header, rows, fields = _delimited(path)
    return header, read_rows(path, rows, fields)


def _delimited(
    path: Path,
) -> tuple[list[str], Iterator[Raw], Callable[[Raw], tuple[str, list[str]]]]:
    """The header of a CSV or TSV, its other rows, and what makes fields of one."""
    text = io.StringIO(read_text(path), newline="")
    tabs = path.suffix.lower() == ".tsv"
    if tabs:
        reader = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(text, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise DataError(f"{path}, line 1: {_csv_fault(error)}") from error
    if twice := [name for name, count in Counter(header).items() if name and count > 1]:
        raise DataError(f"{path}, line 1: two columns are named {quoted(twice[0])}; rename one")
    width = len(header)
    ours = not tabs and header[: len(CSV_HEADER)] == CSV_HEADER

    def fields(row: Raw) -> tuple[str, list[str]]:
        where, values = row
        if isinstance(values, DataError):
            raise values
        if len(values) < width:
            remedy = f"put a {'tab' if tabs else 'comma'} for each field that is empty"
        elif tabs:
            remedy = "replace tabs in fields by spaces"
        else:
            remedy = "put fields that contain commas in double quotes"
        if len(values) != width:
            raise DataError(
                f"{where}: this row has {len(values)} fields and the header has {width}; {remedy}"
            )
        return where, list(map(csv_text, values)) if ours else values

    return header, _placed(path, text, reader), fields


def _placed(path: Path, text: io.StringIO, reader: Any) -> Iterator[Raw]:
    """The rows after the header, each with its place; empty lines are passed over.

    A row that is not CSV ends with its line: the lines after it, which an open quote takes in, are
    read again as rows.
    """
    line, again = reader.line_num + 1, 0
    while True:
        # A row that spans several lines is named by its first line.
        where, start, before = f"{path}, line {line}", text.tell(), reader.line_num
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            again += reader.line_num - before
            if again > _MOST_AGAIN:
                yield where, DataError(f"{where}: {_csv_fault(error)}; no row after it was read")
                return
            yield where, DataError(f"{where}: {_csv_fault(error)}")
            text.seek(start)
            text.readline()
            line += 1
            continue
        line += reader.line_num - before
        if row:
            yield where, row


def _csv_fault(error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return "a double quote begins a field and none ends it; check its quotes"
    return f"{error}; check its quotes"


def _json_lines(path: Path) -> Iterator[Raw]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield f"{path}, line {number}", line


def _json_line(row: Raw) -> tuple[str, dict[str, Any]]:
    where, line = row
    try:
        return where, _object(where, parse_json(line))
    except json.JSONDecodeError as error:
        told = f"{error.msg.removesuffix(' at')} at column {error.colno}"
    except ValueError as error:
        told = str(error)
    raise DataError(f"{where}: not JSON ({told}); write one object a line")


def _json_list(path: Path) -> Iterator[Raw]:
    try:
        records = parse_json(read_text(path))
    except ValueError as error:
        raise DataError(
            f"{path}: not JSON ({error}); if it has one object a line, name it .jsonl"
        ) from error
    if not isinstance(records, list):
        raise DataError(f"{path}: expected a list of objects, got {type(records).__name__}")
    for number, record in enumerate(records):
        yield f"{path}, [{number}]", record


def read_rows(path: Path, rows: Iterable[Row], read: Callable[[Row], Read]) -> Iterator[Read]:
    """What `read` makes of each row of a file, until it refuses one.

    While faults are collected, rows that it refuses are added to them and passed over.

    Raises:
        DataError: `read` refused rows. The message tells of all, the first of them by their faults,
            or of one if there is no good row, because then the fault is in the file as a whole.
    """
    left = iter(rows)
    good = False
    noted: list[DataError] = []
    for row in left:
        try:
            found = read(row)
        except DataError as error:
            if refuses():
                raise _together(path, error, left, read, good) from error
            noted.append(error)
            continue
        good = True
        yield found
    if noted and not good:
        raise noted[0]
    for fault in noted:
        note(str(fault))


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
        raise DataError(
            f"{where}: expected an object, got {type(record).__name__}; write one object a row"
        )
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
    if len(columns) == 1 and ";" in columns[0]:
        raise DataError(
            f"{where}: semicolons stand between the columns ({columns[0]}), and captax reads "
            "commas; save the file with commas, or as .tsv with tabs"
        )
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
