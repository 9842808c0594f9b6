"""Lists of pictures: tables whose rows name files or URLs, or hold the pictures themselves."""

import dataclasses
import itertools
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from captax.collection.item import CollectionError, Item, place_of
from captax.collection.record import columns_of
from captax.collection.remote import RemotePicture, data_picture
from captax.data.example import DataError, read_text
from captax.data.folder import PICTURE_COLUMNS
from captax.data.inline import is_data_url
from captax.data.tables import find_column, parquet_library, read_each_record
from captax.errors import CaptaxError
from captax.files import open_regular
from captax.images import ImageError

_LONGEST_PATH = 4096  # characters; what is longer is no path

COLUMNS = (*PICTURE_COLUMNS, "url", "URL", "jpg", "png")


def list_items(table: Path) -> Iterator[Item]:
    """The pictures that a `.parquet`, `.jsonl`, `.csv`, `.tsv` or `.txt` lists, in its order.

    The first column that has one of the names in `COLUMNS` is used; a `.txt` has one picture a
    line. A value is a path, relative to the list's folder or the working directory, or a URL, which
    may be a `data:` URL. In parquet it may also be bytes, or `{bytes, path}`. The other columns go
    with the picture. A row that is malformed or names no picture is an item that says why, named by
    its line. If parquet is damaged, the pictures before the damage come first, then an item that
    reports the damage.

    Raises:
        CaptaxError: the table cannot be read, or has no row that can be read.
    """
    row = -1
    rows = _parquet(table) if table.suffix.lower() == ".parquet" else _rows(table)
    names: set[str] = set()
    try:
        for row, (where, value, columns) in enumerate(_with_one_good(rows)):
            item = _item(table, row, where, value)
            if columns:
                item = dataclasses.replace(item, columns=columns)
            if isinstance(item.image, bytes) and item.name in names:  # two pictures of one name
                item = dataclasses.replace(item, name=f"{item.name}#{row}")
            names.add(item.name)
            yield item
    except CaptaxError as error:
        if row < 0:
            raise
        reason = str(error).removeprefix(f"{table}: ")
        damage = ImageError(f"this list is damaged and was read no further: {reason}")
        yield Item(str(table), damage, PurePosixPath(table.stem))


def _with_one_good(rows: "Rows") -> "Rows":
    """The rows; if all of them are malformed, the fault is in the list as a whole and is raised."""
    waiting = []
    for row in rows:
        waiting.append(row)
        if not isinstance(row[1], DataError):
            return itertools.chain(waiting, rows)
    if waiting:
        raise waiting[0][1]
    return iter(())


def _item(table: Path, row: int, where: str, value: Any) -> Item:
    name, image = _picture(table, row, value)
    if image is None:
        image = ImageError(
            f"names no picture: {value!r:.80}; fill in the path in this row or delete the row"
        )
    if isinstance(value, DataError):
        image = ImageError(str(value).removeprefix(str(DataError(f"{where}: "))))
    if isinstance(image, ImageError):
        return Item(where, image, PurePosixPath(table.stem, where.removeprefix(f"{table}, ")))
    path = PurePosixPath(name.split("://")[-1].split("?")[0] if "://" in name else name)
    return Item(name, image, place_of(path))


def _picture(
    table: Path, row: int, value: Any
) -> tuple[str, Path | bytes | RemotePicture | ImageError | None]:
    """The name of a row's picture, and the picture."""
    if isinstance(value, dict):
        name, content = value.get("path"), value.get("bytes")
        if isinstance(content, bytes):
            return f"{table}/{name or row}", content
        value = name
    if isinstance(value, bytes):
        return f"{table}/{row}", value
    if not isinstance(value, str) or not value.strip():
        return "", None
    value = value.strip()
    if is_data_url(value):
        return f"{table}/{row}", data_picture(value)
    if len(value) > _LONGEST_PATH and "://" not in value:
        return "", None
    if "://" in value:
        return value, RemotePicture(value)
    beside = table.parent / value
    # Unlike Path.exists, this accepts text that cannot be a path, such as a picture in base64.
    here = os.path.exists(value) and not os.path.exists(beside)  # noqa: PTH110
    path = Path(value) if here else beside
    return str(path), path


Rows = Iterator[tuple[str, Any, dict[str, Any]]]


def _rows(table: Path) -> Rows:
    """The place of each row, the value of its picture or the row's fault, and its other columns."""
    if table.suffix.lower() == ".txt":
        for number, line in enumerate(read_text(table).split("\n"), 1):
            if line.strip():
                yield f"{table}, line {number}", line, {}
        return
    column = ""
    for where, record in read_each_record(table):
        try:
            if isinstance(record, DataError):
                raise record
            if column not in record:
                column = find_column(where, list(record), COLUMNS)
        except DataError as fault:
            yield where, fault, {}
        else:
            yield where, record[column], columns_of(record, column)


def _parquet(table: Path) -> Rows:
    pyarrow = parquet_library(table)
    try:
        open_regular(table).close()  # the library would wait for a pipe
        file = pyarrow.parquet.ParquetFile(table)
        column = find_column(str(table), file.schema_arrow.names, COLUMNS)
        names = file.schema_arrow.names
        others = [
            field.name
            for field in file.schema_arrow
            if _plain(pyarrow.types, field.type) and names.count(field.name) == 1
        ]
        wanted = list(dict.fromkeys([column, *others]))
        row = 0
        for batch in file.iter_batches(batch_size=64, columns=wanted):
            listed = {name: _values(batch.column(name)) for name in others}
            for place, value in enumerate(batch.column(batch.schema.names.index(column))):
                columns = {name: values[place] for name, values in listed.items()}
                yield f"{table}, row {row}", value.as_py(), columns_of(columns, column)
                row += 1
    except (OSError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise CollectionError(
            f"{table}: cannot be read as parquet: {reason}; write it again"
        ) from None


def _plain(types: Any, kind: Any) -> bool:
    """Whether a column of parquet holds texts, numbers or truth, and no pictures or tables."""
    tests = (types.is_string, types.is_large_string, types.is_integer)
    return any(test(kind) for test in (*tests, types.is_floating, types.is_boolean))


def _values(column: Any) -> list[Any]:
    """The values of a column; none of them if a text is no UTF-8."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [None] * len(column)
