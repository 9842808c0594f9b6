"""Pairs of a source text and a target text: translations, summaries, answers."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from captax.data.example import (
    DataError,
    SplitError,
    read_text,
    refuse_long,
    refuse_repeats,
    refuses,
)
from captax.data.faults import LONGEST_CAPTION, LONGEST_SOURCE
from captax.data.huggingface import Rows, find_rows, is_saved, local_rows
from captax.data.splits import (
    SPLIT_NAMES,
    choose_split,
    refuse_absent,
    split_in,
    split_name,
)
from captax.data.tables import TABLE_SUFFIXES, read_records, read_rows
from captax.errors import quoted

COLUMNS = (
    ("source", "target"),
    ("article", "highlights"),
    ("article", "summary"),
    ("article", "abstract"),
    ("document", "summary"),
    ("dialogue", "summary"),
    ("text", "summary"),
    ("input", "output"),
    ("input", "target"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("src", "tgt"),
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A source text and its target text.

    Attributes:
        id: names the pair within its dataset.
        source: the text that is read.
        target: the text to be written.
    """

    id: str
    source: str
    target: str


def open_pairs(
    path: str | Path,
    *,
    split: str | None = None,
    source: str | None = None,
    target: str | None = None,
) -> list[Pair]:
    """Pairs of texts from tables, or from two text files whose lines correspond.

    A directory has `train.source` and `train.target` (and `val.`, `test.`), or tables: `.jsonl`,
    `.csv`, `.tsv`, or `.json` with a list of objects. `path` may also be a table. A file named for
    a split is that split; others are split by hashing. Columns are found by their usual names, as
    source and target, article and highlights, document and summary, or two language codes, the
    first of which is the source. `hf://owner/name` is a dataset of the Hugging Face hub, which may
    also be on disk; its splits are its own.

    Args:
        path: the directory or file, or a dataset of the hub.
        split: `train`, `dev` (or `val`) or `test`; everything for `None`.
        source: the column of the texts to read, if it has an unusual name.
        target: the column of the texts to write.

    Raises:
        DataError: the path does not exist or has no pairs, the columns cannot be told, a row is
            empty or malformed (the message names its line), two files differ in length, or the
            split does not exist.
    """
    split = None if split is None else split_name(split)
    if (source is None) != (target is None):
        raise DataError("give both source and target, or neither")
    where = find_rows(path)
    rows = where if isinstance(where, Rows) else _rows_in(where)
    if rows is not None:
        found = _read_rows(rows, split, source, target)
    else:
        assert isinstance(where, Path)
        found = _read_files(where, split, source, target)
    refuse_repeats((pair.id for pair in found), path, "is the id of two pairs; remove one")
    if not found:
        raise SplitError(f"{path}: no pairs{f' in its {split} split' if split else ''}")
    return found


def _rows_in(path: Path) -> Rows | None:
    """The rows in a directory that has no tables beside them."""
    if not path.exists():
        raise DataError(f"{path}: no such directory or file; give the path of text pairs")
    if path.is_file() or (_listed(path) and not is_saved(path)):
        return None
    return local_rows(path)


def _read_rows(rows: Rows, split: str | None, source: str | None, target: str | None) -> list[Pair]:
    found: list[Pair] = []
    for name in rows.named(split):
        prefix = "" if rows.alone else f"{name}/"
        for index, row in enumerate(rows.read(name)):
            id = f"{prefix}{row.get('id', index + 1)}"
            found.append(_row(row, id, f"{rows.where}, {prefix} row {index}", source, target))
    return choose_split(found, split, where=rows.where) if rows.alone else found


def _read_files(
    path: Path, split: str | None, source: str | None, target: str | None
) -> list[Pair]:
    files = _files(path)
    named = {file: split_in(file.stem) for file in files}
    there = {part for part in named.values() if part}
    there |= {"train", "dev"} if None in named.values() else set()
    refuse_absent(split, there, path)
    found: list[Pair] = []
    for file in files:
        if split is not None and named[file] not in (None, split):
            continue
        prefix = f"{file.stem}/" if len(files) > 1 else ""
        pairs = list(
            _lines(file, prefix)
            if file.suffix == ".source"
            else _table(file, prefix, source, target)
        )
        found += pairs if named[file] else choose_split(pairs, split, where=file)
    return found


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in (*TABLE_SUFFIXES, ".source"):
            raise DataError(f"{path}: text pairs are in .jsonl, .csv, .tsv, .json or .source")
        return [path]
    files = _listed(path)
    if not files:
        raise DataError(
            f"{path}: no text pairs; looked for train.source and train.target, .jsonl, .csv, .tsv, "
            f".json and .parquet"
        )
    return files


def _listed(path: Path) -> list[Path]:
    """The files of lines in a directory, or else its tables."""
    lines = [path / f"{name}.source" for name in SPLIT_NAMES]
    files = [file for file in lines if file.is_file()]
    return files or sorted(file for file in path.iterdir() if file.suffix in TABLE_SUFFIXES)


def _lines(path: Path, prefix: str) -> Iterator[Pair]:
    other = path.with_suffix(".target")
    # Only a line feed ends a line: texts may contain other line ends of Unicode.
    sources, targets = (read_text(file).rstrip("\n").split("\n") for file in (path, other))
    if len(sources) != len(targets):
        raise DataError(
            f"{path} has {len(sources)} lines and {other.name} has {len(targets)}; both need one "
            f"line for each pair"
        )
    for number, (source, target) in enumerate(zip(sources, targets, strict=True), 1):
        yield _pair(f"{prefix}{number}", source, target, f"{path}, line {number}")


def _table(path: Path, prefix: str, source: str | None, target: str | None) -> Iterator[Pair]:
    def pair(numbered: tuple[int, tuple[str, dict[str, Any]]]) -> Pair:
        number, (where, row) = numbered
        id = row.get("id")
        return _row(row, f"{prefix}{number if id is None else id}", where, source, target)

    return read_rows(path, enumerate(read_records(path), 1), pair)


def _row(
    row: Mapping[str, Any], id: str, where: str, source: str | None, target: str | None
) -> Pair:
    record = row["translation"] if isinstance(row.get("translation"), dict) else row
    if source is None or target is None:
        columns = _columns(where, list(record))
    else:
        columns = (source, target)
        for name in columns:
            if name not in record:
                raise DataError(
                    f"{where}: no column is named {name}; choose from {', '.join(record)}"
                )
    return _pair(id, record[columns[0]], record[columns[1]], where)


def _columns(where: str, names: Sequence[str]) -> tuple[str, str]:
    for source, target in COLUMNS:
        if source in names and target in names:
            return source, target
    languages = [name for name in names if len(name) == 2 and name.islower() and name != "id"]
    if len(languages) == 2:
        return languages[0], languages[1]
    raise DataError(
        f"{where}: cannot tell source from target among {', '.join(names) or 'nothing'}; name both"
    )


def _pair(id: str, source: object, target: object, where: str) -> Pair:
    for name, text, most in (
        ("source", source, LONGEST_SOURCE),
        ("target", target, LONGEST_CAPTION),
    ):
        if not isinstance(text, str):
            raise DataError(f"{where}: its {name} must be a string; got {quoted(text)}")
        if not text.strip() and refuses():
            raise DataError(f"{where}: its {name} is empty; write it or drop the row")
        refuse_long(text, f"{where}: its {name}", most)
    return Pair(id, str(source).strip(), str(target).strip())
