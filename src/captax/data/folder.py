"""A folder of one's own pictures, captioned by a table or by a text file beside each."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captax.data.example import (
    DataError,
    Example,
    ListedCaption,
    gather,
    keeps_empty,
    make_examples,
    note,
    read_text,
    refuse,
    refuse_long,
    refuses,
)
from captax.data.faults import Kind
from captax.data.splits import SPLIT_NAMES, choose_split
from captax.data.tables import (
    caption_columns,
    captions_in,
    find_column,
    read_delimited,
    read_records,
    read_rows,
)
from captax.errors import quoted
from captax.files import is_file
from captax.images.find import find_images
from captax.images.kinds import is_image_path

TABLES = ("metadata.jsonl", "captions.jsonl", "captions.csv", "metadata.csv", "captions.tsv")
SIDECAR_SUFFIXES = (".txt", ".caption")
_LISTED = 64  # folders whose lists of files are kept
PICTURE_COLUMNS = ("file_name", "image", "filename", "file", "image_path", "image_name", "path")


def find_table(root: Path) -> Path | None:
    """The folder's caption table, or None if it has no table."""
    return next((root / name for name in TABLES if (root / name).is_file()), None)


def find_split_tables(root: Path) -> list[Path]:
    """The tables of folders named for splits (`train/metadata.jsonl`), as in an imagefolder."""
    folders = (path for path in sorted(root.iterdir()) if path.name in SPLIT_NAMES)
    return [table for folder in folders if (table := find_table(folder))]


class Sidecars:
    """Text files beside pictures, in folders that are each listed once.

    A sidecar has a picture's name and ends in `.txt` or `.caption`, in any letter case; if there
    are several, `.txt` comes first.
    """

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, Path]] = {}

    def of(self, picture: Path) -> Path | None:
        """The sidecar of a picture, or None."""
        folder = picture.parent
        if folder not in self._folders:
            if len(self._folders) >= _LISTED:
                self._folders.clear()
            self._folders[folder] = _sidecars(folder)
        return self._folders[folder].get(picture.stem)


def _sidecars(folder: Path) -> dict[str, Path]:
    """The sidecars in a folder by their pictures' names, without suffixes."""
    found: dict[str, tuple[tuple[int, bool, str], Path]] = {}
    try:
        names = os.listdir(folder)  # noqa: PTH208 (fast)
    except OSError:
        return {}
    for name in names:
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 (fast)
        if suffix.lower() in SIDECAR_SUFFIXES:
            rank = (SIDECAR_SUFFIXES.index(suffix.lower()), suffix != suffix.lower(), suffix)
            if (stem not in found or rank < found[stem][0]) and is_file(folder / name):
                found[stem] = rank, folder / name
    return {stem: path for stem, (_, path) in found.items()}


def has_sidecars(root: Path) -> bool:
    """Whether any picture of the folder has a text file of its name beside it."""
    sidecars = Sidecars()
    return any(is_image_path(path) and sidecars.of(path) for path in root.rglob("*"))


def texts_alone(root: Path) -> list[str]:
    """The text files that are beside no picture of their name, by path in the folder.

    Texts about a dataset, such as `README.txt`, are none of them.
    """
    pictures = {path.with_suffix("") for path in find_images([root], readable=True)}
    return [
        path.relative_to(root).as_posix()
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in SIDECAR_SUFFIXES
        and path.with_suffix("") not in pictures
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.stem.lower() not in _ABOUT
        and is_file(path)
    ]


_ABOUT = ("readme", "license", "licence", "notes", "classes", "labels", "requirements")


def read_table(
    path: Path, *, split: str | None = None, images: Path | None = None
) -> list[Example]:
    """Pictures captioned by a `.jsonl`, `.csv` or `.tsv` file; ids are their names in it.

    A picture on several rows has several captions. If the folders of the pictures are named for
    splits, these are the splits; otherwise splits are made by hashing.

    Args:
        path: the table.
        split: `train`, `dev` or `test`; all for `None`.
        images: the directory that the names are relative to; by default the table's own.

    Raises:
        DataError: a row is malformed, or a picture does not exist.
    """
    source = path.parent.resolve().name
    return choose_split(_examples(path, images, "", source), split, where=path)


def read_split_tables(tables: list[Path], *, split: str | None = None) -> list[Example]:
    """Pictures captioned by a table in each split's folder; ids begin with the folder's name.

    Raises:
        DataError: as `read_table` does, or the split has no folder.
    """
    root = tables[0].parents[1]
    found = [
        example
        for table in tables
        for example in _examples(table, None, f"{table.parent.name}/", root.resolve().name)
    ]
    return choose_split(found, split, where=root)


def _examples(path: Path, images: Path | None, prefix: str, source: str) -> list[Example]:
    rows = read_csv(path) if path.suffix in (".csv", ".tsv") else read_jsonl(path)
    captions = {f"{prefix}{name}": texts for name, texts in gather(rows).items()}
    folder = images or path.parent
    pictures = {id: folder / id.removeprefix(prefix) for id in captions}
    return make_examples(captions, pictures, listed_in=path, source=source)


def read_sidecars(root: Path, *, split: str | None = None) -> list[Example]:
    """Pictures with a text file beside each, one caption a line; ids are their paths in the folder.

    Text files are found as `Sidecars` finds them.
    Subfolders are included. If all folders of the root are named for splits, these are the splits;
    otherwise splits are made by hashing.

    Raises:
        DataError: a picture has no text file, or one has no caption.
    """
    pictures = find_images([root], readable=True)
    beside = Sidecars()
    if refuses():
        refuse(
            [path.relative_to(root).as_posix() for path in pictures if beside.of(path) is None],
            root,
            "has no .txt of its name beside it; write one caption a line there, or move it away",
        )
    found = []
    for path in pictures:
        sidecar = beside.of(path) or path.with_suffix(SIDECAR_SUFFIXES[0])
        text = _sidecar(sidecar)
        lines = tuple(line.strip() for line in (text or "").split("\n") if line.strip())
        if not lines and keeps_empty() and text is not None:
            lines = ("",)  # a file without a caption is told apart from no file
        if not lines and refuses():
            raise DataError(f"{sidecar}: has no caption; write one a line")
        for line in lines:
            refuse_long(line, sidecar)
        id = path.relative_to(root).as_posix()
        found.append(Example(id, path, lines, root.resolve().name))
    return choose_split(found, split, where=root)


def _sidecar(path: Path) -> str | None:
    """The text beside a picture; while faults are collected, None if it cannot be read."""
    try:
        return read_text(path)
    except DataError as error:
        if refuses():
            raise
        if path.is_file():
            note(str(error), Kind.text)
        return None


def read_csv(path: Path) -> Iterator[ListedCaption]:
    """Rows of a CSV or TSV with a header: a picture (`image`, `file_name`, ...) and a caption.

    Captions are in a column `caption` or `text`, or in several (`caption_0`, `caption_1`, ...).

    Raises:
        DataError: the columns are missing, or a row lacks a field; the message names the line.
    """
    header, rows = read_delimited(path)
    picture = header.index(find_column(f"{path}, line 1", header, PICTURE_COLUMNS))
    columns = [header.index(name) for name in caption_columns(f"{path}, line 1", header)]

    def listed(row: tuple[str, list[str]]) -> list[ListedCaption]:
        where, fields = row
        texts = (text for column in columns for text in captions_in(where, fields[column]))
        return [ListedCaption(fields[picture].strip(), text, where) for text in texts]

    return itertools.chain.from_iterable(read_rows(path, rows, listed))


def read_jsonl(path: Path) -> Iterator[ListedCaption]:
    """Rows of JSON objects, one a line: a picture (`file_name`, ...) and its `text` or `caption`.

    The caption is a string, or a list of them.

    Raises:
        DataError: a line is not such an object; the message names the line.
    """

    def listed(row: tuple[str, dict[str, Any]]) -> list[ListedCaption]:
        where, record = row
        picture = record[find_column(where, list(record), PICTURE_COLUMNS)]
        if not isinstance(picture, str):
            raise DataError(f"{where}: the picture must be a file's name; got {quoted(picture)}")
        columns = caption_columns(where, list(record))
        texts = (text for column in columns for text in captions_in(where, record[column]))
        return [ListedCaption(picture, text, where) for text in texts]

    return itertools.chain.from_iterable(read_rows(path, read_records(path), listed))
