"""Datasets in Hugging Face's formats, on disk or on the hub, through their `datasets` library.

What is on the hub is downloaded by `repository.py`, so the library is given files and runs no code
of a dataset. It keeps rows in memory-mapped Arrow files; a picture's bytes are read on demand.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from captax.data.example import (
    DataError,
    Example,
    ListedCaption,
    Stored,
    StoredExample,
    gather,
    refuse_repeats,
)
from captax.data.repository import HubName, find, hub_name
from captax.data.splits import SPLIT_NAMES, choose_split, refuse_absent
from captax.data.tables import (
    CAPTION_COLUMNS,
    NUMBERED_CAPTION,
    caption_columns,
    captions_in,
    find_column,
)
from captax.files import PICTURE_LIMIT, read_bytes
from captax.images.decode import ImageError
from captax.progress import no_bars_in_logs

PICTURE_COLUMNS = ("image", "img", "picture", "jpg", "png", "webp")
ID_COLUMNS = ("image_id", "cocoid", "id", "filename", "file_name", "imgid", "__key__")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "category")


@dataclasses.dataclass(frozen=True, slots=True)
class RowPicture:
    """An undecoded picture: one row of a `datasets.Dataset` that has only the picture column.

    With `within`, its bytes must be in the row: a dataset of the hub names no file of this machine.
    """

    rows: Any = dataclasses.field(repr=False)
    column: str
    index: int
    where: str
    within: bool = False

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
        if not isinstance(path, str) or self.within:
            raise ImageError(f"{self.where}: no picture in its column {self.column}")
        try:
            return read_bytes(path, limit=PICTURE_LIMIT)
        except OSError as error:
            raise ImageError(f"{self.where}: {path}: {error.strerror or error}") from None


def is_saved(root: Path) -> bool:
    """Whether `save_to_disk` wrote this directory."""
    return any((root / name).is_file() for name in ("dataset_dict.json", "state.json"))


def has_parquet(root: Path) -> bool:
    """Whether Parquet files are in the directory, or in its folders."""
    return any(True for pattern in ("*.parquet", "*/*.parquet") for _ in root.glob(pattern))


class Rows:
    """A dataset in Hugging Face's form: its splits by their own names, each read when asked for.

    Attributes:
        where: the dataset, for messages.
        source: its name.
        layout: what it was recognised as.
        splits: the names of its splits; a single one may be empty.
        remote: whether it is on the hub.
    """

    def __init__(
        self,
        where: str,
        source: str,
        layout: str,
        splits: Sequence[str],
        load: Callable[..., Any],
        size: Callable[[str], int] = lambda name: 0,
        *,
        remote: bool = False,
    ):
        """`load` takes the name of a split and gives its `datasets.Dataset`; `size` its bytes."""
        self.remote = remote
        self.where, self.source, self.layout, self.splits = where, source, layout, tuple(splits)
        self._load, self._size, self._loaded = load, size, dict[str, Any]()

    def read(self, split: str) -> Any:
        """The `datasets.Dataset` of a split.

        Raises:
            DataError: it cannot be read or, if it is on the hub, be downloaded.
        """
        if split not in self._loaded:
            self._loaded[split] = _read(self.where, lambda library: self._load(library, split))
        return self._loaded[split]

    def named(self, split: str | None) -> list[str]:
        """The own names of a split, `train`, `dev` or `test`, or of all for None.

        Raises:
            SplitError: there is no such split.
        """
        if split is None or len(self.splits) == 1:
            return list(self.splits)
        names = [name for name in self.splits if SPLIT_NAMES.get(name) == split]
        if not names:
            refuse_absent(
                split, {SPLIT_NAMES.get(each, each) for each in self.splits if each}, self.where
            )
        return names

    def smallest(self, split: str | None = None) -> Any:
        """The rows of the smallest part of a split, of which the columns are looked at."""
        return self.read(
            min(self.named(split), key=lambda n: (n not in self._loaded, self._size(n)))
        )

    @property
    def alone(self) -> bool:
        """Whether there is one split, from which dev is made by hashing."""
        return len(self.splits) == 1


def find_rows(path: str | Path) -> Rows | Path:
    """The rows of a dataset of the hub, or the local path of any other dataset.

    A dataset of the hub that is not in Parquet is downloaded, into the folder whose path is given.

    Raises:
        DataError: the hub has no such dataset, or does not let it be read.
    """
    name = hub_name(path)
    if name is None:
        return Path(path)
    found = find(name)
    if found.folder is not None:
        return found.fetch_folder()
    _library(str(name))

    def load(library: Any, split: str) -> Any:
        files = [str(file) for file in found.fetch(split)]
        # The library reads files by a name for them, and no script.
        return library.load_dataset("parquet", data_files={"rows": files}, split="rows")

    splits = list(found.splits)
    return Rows(str(name), name.source, "Hugging Face hub", splits, load, found.size, remote=True)


def refuse_outside(folder: Path, images: Iterable[Path | bytes | Stored], name: HubName) -> None:
    """Refuse pictures that are elsewhere than in `folder`, the copy of a dataset of the hub.

    Lists in it are a stranger's, and may name any file of this machine.

    Raises:
        DataError: a picture is a file that is not in the copy.
    """
    there = os.path.normpath(folder)
    for image in images:
        if isinstance(image, Path) and not Path(os.path.normpath(image)).is_relative_to(there):
            raise DataError(
                f"{name}: names {image}, which is no file of it; give a dataset that "
                "names only its own files"
            )


def local_rows(root: Path) -> Rows | None:
    """The rows of a directory that `save_to_disk` wrote, or of one of Parquet; None for others.

    Raises:
        DataError: the `datasets` library is missing or cannot read the directory.
    """
    saved = is_saved(root)
    if not saved and not has_parquet(root):
        return None

    def load(library: Any) -> Any:
        for path in root.rglob("*"):  # the library would wait for a pipe
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise DataError(f"{path}: is not a regular file; remove it")
        return library.load_from_disk(str(root)) if saved else library.load_dataset(str(root))

    loaded = _read(str(root), load)
    parts: Mapping[str, Any] = loaded if isinstance(loaded, Mapping) else {"": loaded}
    layout = "Hugging Face, saved to disk" if saved else "Hugging Face, Parquet"
    return Rows(str(root), root.resolve().name, layout, list(parts), lambda _, name: parts[name])


def read_captions(rows: Rows, *, split: str | None = None) -> list[Example]:
    """The pictures of a dataset with their captions.

    Pictures are in a column `image` (or the only one of pictures), captions in `text`, `caption`,
    `captions`, `sentences` or `caption_0`, `caption_1`, ...: strings or lists of them. Rows with
    the same `image_id` (or `id`, `filename`, ...) are one picture; without such a column ids are
    the numbers of rows. Splits are the dataset's; one that has a single split is split by hashing.

    Raises:
        DataError: the dataset cannot be read, the columns are missing, a row has no caption, or the
            split does not exist.
    """
    found = [
        example
        for name in rows.named(split)
        for example in _examples(rows, "" if rows.alone else f"{name}/", rows.read(name))
    ]
    refuse_repeats(
        (example.id for example in found),
        rows.where,
        "is the id of pictures in two splits; rename one",
    )
    return choose_split(found, split, where=rows.where) if rows.alone else found


def only_labels(rows: Rows, split: str | None = None) -> bool:
    """Whether a dataset has labels and no captions."""
    part = rows.smallest(split)
    told = any(n in CAPTION_COLUMNS or NUMBERED_CAPTION.fullmatch(n) for n in part.column_names)
    return not told and label_column(part) is not None


def label_column(rows: Any) -> str | None:
    """The column of labels: that of a usual name, or the only one of classes; None if none is."""
    named = next((name for name in LABEL_COLUMNS if name in rows.column_names), None)
    typed = [n for n in rows.column_names if type(rows.features[n]).__name__ == "ClassLabel"]
    return typed[0] if named not in typed and len(typed) == 1 else named


def pictures(rows: Rows, part: Any) -> Callable[[int, str], RowPicture]:
    """What gives the picture of a row of a part, by its number and its name for messages.

    Raises:
        DataError: no column holds pictures.
    """
    column = _picture_column(rows.where, part)
    alone = part.select_columns([column]).with_format(None)
    if type(part.features[column]).__name__ == "Image":
        alone = alone.cast_column(column, type(part.features[column])(decode=False))
    return lambda index, name: RowPicture(
        alone, column, index, f"{rows.where}, {name}", rows.remote
    )


def row_ids(prefix: str, rows: Any) -> list[str]:
    """The id of each row: that of its picture, or its number after `prefix`."""
    identity = next((name for name in ID_COLUMNS if name in rows.column_names), None)
    if identity is None:
        return [f"{prefix}{index}" for index in range(len(rows))]
    return [str(value) for value in rows[identity]]


def _library(where: object) -> ModuleType:
    try:
        import datasets  # an extra
    except ImportError:
        raise DataError(
            f"{where}: reading this needs the datasets library; pip install 'captax[hub-data]'"
        ) from None
    return datasets


def _read(where: str, load: Callable[[Any], Any]) -> Any:
    library = _library(where)
    try:
        with no_bars_in_logs(library):
            return load(library)
    except DataError:
        raise
    except Exception as error:  # the library raises its own, the hub's, Arrow's and Python's
        # The library tells what is wrong only in the cause of its error.
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise DataError(f"{where}: the datasets library cannot read it: {reason}") from error


def _examples(rows: Rows, prefix: str, part: Any) -> Iterator[Example]:
    where, columns = rows.where, part.column_names
    picture = pictures(rows, part)
    ids = row_ids(prefix, part)
    first = {id: index for index, id in reversed(list(enumerate(ids)))}
    captions = gather(_rows(f"{where}, {prefix}", part, ids, caption_columns(where, columns)))
    for id, texts in captions.items():
        yield StoredExample(id, picture(first[id], id), tuple(texts), rows.source)


def _rows(where: str, rows: Any, ids: list[str], columns: list[str]) -> Iterator[ListedCaption]:
    for column in columns:
        for index, (id, value) in enumerate(zip(ids, rows[column], strict=True)):
            place = f"{where} row {index}"
            for text in captions_in(place, value):
                yield ListedCaption(id, text, place)


def _picture_column(where: str, rows: Any) -> str:
    kinds = rows.features
    typed = [name for name in rows.column_names if type(kinds[name]).__name__ == "Image"]
    if len(typed) == 1:
        return typed[0]
    return find_column(where, typed or rows.column_names, PICTURE_COLUMNS)
