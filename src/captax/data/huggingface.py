"""Datasets in Hugging Face's formats, on disk or on the hub, through their `datasets` library.

The library keeps rows in memory-mapped Arrow files; a picture's bytes are read on demand.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from captax.data.example import (
    DataError,
    Example,
    ListedCaption,
    StoredExample,
    gather,
    refuse_repeats,
)
from captax.data.splits import SPLIT_NAMES, choose_split, refuse_absent
from captax.data.tables import caption_columns, captions_in, find_column
from captax.files import PICTURE_LIMIT, read_bytes
from captax.images.decode import ImageError
from captax.progress import no_bars_in_logs

PICTURE_COLUMNS = ("image", "img", "picture", "jpg", "png", "webp")
ID_COLUMNS = ("image_id", "cocoid", "id", "filename", "file_name", "imgid", "__key__")


@dataclasses.dataclass(frozen=True, slots=True)
class RowPicture:
    """An undecoded picture: one row of a `datasets.Dataset` that has only the picture column."""

    rows: Any = dataclasses.field(repr=False)
    column: str
    index: int
    where: str

    def read(self) -> bytes:
        """The bytes of the picture's file.

        Raises:
            ImageError: the row holds neither bytes nor the path of a file that can be read.
        """
        value = self.rows[self.index][self.column]
        content = value.get("bytes") if isinstance(value, Mapping) else value
        if isinstance(content, bytes):
            return content
        path = value.get("path") if isinstance(value, Mapping) else value
        if not isinstance(path, str):
            raise ImageError(f"{self.where}: no picture in its column {self.column}")
        try:
            return read_bytes(path, limit=PICTURE_LIMIT)
        except OSError as error:
            raise ImageError(f"{self.where}: {path}: {error.strerror or error}") from None


def hub_name(path: str | Path) -> str | None:
    """`owner/name` (or `owner/name/configuration`) of `hf://owner/name`; None for other paths.

    A `Path`, which joins the two slashes into one, and a name behind a folder are understood too.
    """
    _, scheme, name = str(path).rpartition("hf:/")
    return name.strip("/") if scheme and name.strip("/") else None


def is_saved(root: Path) -> bool:
    """Whether `save_to_disk` wrote this directory."""
    return any((root / name).is_file() for name in ("dataset_dict.json", "state.json"))


def has_parquet(root: Path) -> bool:
    """Whether Parquet files are in the directory, or in its folders."""
    return any(True for pattern in ("*.parquet", "*/*.parquet") for _ in root.glob(pattern))


def read_hub(name: str, *, split: str | None = None) -> list[Example]:
    """A dataset of the hub: `owner/name`, or `owner/name/configuration` if it has several.

    It is downloaded to the library's cache, once. Columns and splits are found as by `read_rows`.

    Raises:
        DataError: the dataset does not exist or cannot be reached, or as `read_rows`.
    """
    owner_and_name, configuration = name.split("/")[:2], "/".join(name.split("/")[2:])
    library = _library(f"hf://{name}")
    return _read(
        library,
        f"hf://{name}",
        owner_and_name[-1],
        lambda: library.load_dataset("/".join(owner_and_name), configuration or None),
        split,
    )


def read_rows(root: Path, *, split: str | None = None) -> list[Example]:
    """A directory that `save_to_disk` wrote, or one of Parquet files.

    Pictures are in a column `image` (or the only one of pictures), captions in `text`, `caption`,
    `captions`, `sentences` or `caption_0`, `caption_1`, ...: strings or lists of them. Rows with
    the same `image_id` (or `id`, `filename`, ...) are one picture; without such a column ids are
    the numbers of rows. Splits are the dataset's; one that has a single split is split by hashing.

    Raises:
        DataError: the `datasets` library is missing or cannot read the directory, the columns are
            missing, a row has no caption, or the split does not exist.
    """
    library = _library(root)

    def load() -> Any:
        for path in root.rglob("*"):  # the library would wait for a pipe
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise DataError(f"{path}: is not a regular file; remove it")
        if is_saved(root):
            return library.load_from_disk(str(root))
        return library.load_dataset(str(root))

    return _read(library, str(root), root.resolve().name, load, split)


def _library(where: object) -> ModuleType:
    try:
        import datasets  # an extra
    except ImportError:
        raise DataError(
            f"{where}: reading this needs the datasets library; pip install 'captax[hub-data]'"
        ) from None
    return datasets


def _read(library: Any, where: str, source: str, load: Any, split: str | None) -> list[Example]:
    try:
        with no_bars_in_logs(library):
            loaded = load()
    except DataError:
        raise
    except Exception as error:  # the library raises its own, the hub's, Arrow's and Python's
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{where}: the datasets library cannot read it: {reason}") from error
    parts: Mapping[str, Any] = loaded if isinstance(loaded, Mapping) else {"": loaded}
    if len(parts) == 1:
        [rows] = parts.values()
        found = list(_examples(where, source, "", rows))
        _refuse_repeats(where, found)
        return choose_split(found, split, where=where)
    unknown = [name for name in parts if name not in SPLIT_NAMES]
    if unknown and split is not None:
        raise DataError(
            f"{where}: its splits are {', '.join(parts)}, and {unknown[0]} is neither train, dev "
            f"nor test; save the part you want as a dataset of its own"
        )
    refuse_absent(split, {SPLIT_NAMES.get(name, name) for name in parts}, where)
    found = [
        example
        for name, rows in parts.items()
        if split is None or SPLIT_NAMES[name] == split
        for example in _examples(where, source, f"{name}/", rows)
    ]
    _refuse_repeats(where, found)
    return found


def _refuse_repeats(where: str, found: list[Example]) -> None:
    refuse_repeats(
        (example.id for example in found), where, "is the id of pictures in two splits; rename one"
    )


def _examples(where: str, source: str, prefix: str, rows: Any) -> Iterator[Example]:
    columns = rows.column_names
    picture = _picture_column(where, rows)
    identity = next((name for name in ID_COLUMNS if name in columns and name != picture), None)
    if identity is None:
        ids = [f"{prefix}{index}" for index in range(len(rows))]
    else:
        ids = [str(value) for value in rows[identity]]
    first = {id: index for index, id in reversed(list(enumerate(ids)))}
    captions = gather(_rows(f"{where}, {prefix}", rows, ids, caption_columns(where, columns)))
    pictures = rows.select_columns([picture]).with_format(None)
    if type(rows.features[picture]).__name__ == "Image":
        pictures = pictures.cast_column(picture, type(rows.features[picture])(decode=False))
    for id, texts in captions.items():
        stored = RowPicture(pictures, picture, first[id], f"{where}, {id}")
        yield StoredExample(id, stored, tuple(texts), source)


def _rows(where: str, rows: Any, ids: list[str], columns: list[str]) -> Iterator[ListedCaption]:
    for column in columns:
        for index, (id, value) in enumerate(zip(ids, rows[column], strict=True)):
            place = f"{where} row {index}"
            for text in captions_in(place, value):
                yield ListedCaption(id, text, place)


def _picture_column(where: str, rows: Any) -> str:
    kinds = rows.features
    typed = [name for name in rows.column_names if type(kinds[name]).__name__ == "Image"]
    return typed[0] if len(typed) == 1 else find_column(where, typed or rows.column_names,
                                                         PICTURE_COLUMNS)  # fmt: skip
