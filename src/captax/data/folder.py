"""A folder of one's own pictures, captioned by a table or by a text file beside each."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from captax.data.example import DataError, Example, Row, gather, make_examples, read_text, refuse
from captax.data.splits import choose_split
from captax.images.files import find_images, is_image_path

TABLES = ("metadata.jsonl", "captions.jsonl", "captions.csv", "metadata.csv")
PICTURE_COLUMNS = ("file_name", "image")
CAPTION_COLUMNS = ("text", "caption")


def find_table(root: Path) -> Path | None:
    """The folder's caption table, or None where it has none."""
    return next((root / name for name in TABLES if (root / name).is_file()), None)


def has_sidecars(root: Path) -> bool:
    """Whether any picture of the folder has a `.txt` of its name beside it."""
    return any(
        is_image_path(path) and path.with_suffix(".txt").is_file() for path in root.rglob("*")
    )


def read_table(
    path: Path, *, split: str | None = None, images: Path | None = None
) -> list[Example]:
    """Pictures captioned by a `.jsonl` or `.csv` file; ids are their names in it.

    A picture on several rows has several captions. Splits are made by hashing.

    Args:
        path: the table.
        split: `train` or `dev`; all for `None`.
        images: the directory that the names are paths in; the table's own when not given.

    Raises:
        DataError: a malformed row, or a picture that does not exist.
    """
    captions = gather(read_jsonl(path) if path.suffix == ".jsonl" else read_csv(path))
    pictures = {name: (images or path.parent) / name for name in captions}
    source = path.parent.resolve().name
    found = make_examples(captions, pictures, listed_in=path, source=source)
    return choose_split(found, split, where=path)


def read_sidecars(root: Path, *, split: str | None = None) -> list[Example]:
    """Pictures with a `.txt` beside each, one caption a line; ids are their paths in the folder.

    Subfolders count. Splits are made by hashing.

    Raises:
        DataError: pictures without a `.txt`, or a `.txt` without a caption.
    """
    pictures = find_images([root])
    refuse(
        [
            path.relative_to(root).as_posix()
            for path in pictures
            if not path.with_suffix(".txt").is_file()
        ],
        root,
        "has no .txt of its name beside it; write one caption a line there, or move it away",
    )
    found = []
    for path in pictures:
        sidecar = path.with_suffix(".txt")
        lines = tuple(line.strip() for line in read_text(sidecar).split("\n") if line.strip())
        if not lines:
            raise DataError(f"{sidecar}: has no caption; write one a line")
        id = path.relative_to(root).as_posix()
        found.append(Example(id, path, lines, root.resolve().name))
    return choose_split(found, split, where=root)


def read_csv(path: Path) -> Iterator[Row]:
    """Rows of a CSV with a header: `image` or `file_name`, and `caption` or `text`.

    Raises:
        DataError: no such columns, or a row without them; the message names the line.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        picture = _column(path, header, PICTURE_COLUMNS)
        caption = _column(path, header, CAPTION_COLUMNS)
        line = reader.line_num + 1
        for row in reader:
            # A row that is quoted over several lines is named by its first.
            where, line = f"{path}, line {line}", reader.line_num + 1
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{where}: {len(row)} fields where the header has {len(header)}; put captions "
                    f"that contain commas in double quotes"
                )
            yield Row(row[picture].strip(), row[caption], where)
    except csv.Error as error:
        raise DataError(f"{path}, line {line}: {error}; check its quotes") from error


def read_jsonl(path: Path) -> Iterator[Row]:
    """Rows of JSON objects, one a line: `file_name` or `image`, and `text` or `caption`.

    The caption is a string, or a list of them.

    Raises:
        DataError: a line that is not such an object; the message names it.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: not JSON ({error}); write one object a line") from error
        if not isinstance(record, dict):
            raise DataError(f"{where}: expected an object, got {type(record).__name__}")
        picture = record[_key(where, record, PICTURE_COLUMNS)]
        captions = record[_key(where, record, CAPTION_COLUMNS)]
        captions = captions if isinstance(captions, list) else [captions]
        if not captions or not all(isinstance(text, str) for text in [picture, *captions]):
            raise DataError(f"{where}: the picture and its captions must be strings")
        for text in captions:
            yield Row(picture, text, where)


def _column(path: Path, header: list[str], names: tuple[str, ...]) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    found = ", ".join(header) or "nothing"
    raise DataError(
        f"{path}, line 1: no column {' or '.join(names)} in the header, which has {found}"
    )


def _key(where: str, record: dict[str, object], names: tuple[str, ...]) -> str:
    for name in names:
        if name in record:
            return name
    raise DataError(f"{where}: no {' or '.join(names)}; it has {', '.join(record) or 'nothing'}")
