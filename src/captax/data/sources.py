"""Opens a dataset and finds out its layout."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

from captax.data.coco import find_annotations, find_karpathy, read_annotations
from captax.data.example import DataError, Example, SplitError
from captax.data.flickr8k import find_captions, read_flickr8k
from captax.data.folder import (
    find_split_tables,
    find_table,
    has_sidecars,
    read_sidecars,
    read_split_tables,
    read_table,
)
from captax.data.huggingface import (
    Rows,
    find_rows,
    local_rows,
    read_captions,
    refuse_outside,
)
from captax.data.repository import HubName, hub_name
from captax.data.shards import find_shards, read_shards
from captax.data.splits import split_name, take_rows
from captax.files import is_special

SIDECARS = "folder with a .txt beside each picture"


@dataclasses.dataclass(frozen=True)
class DatasetLayout:
    """The layout of a dataset: its name in words, a function that reads a split, and its rows.

    `rows` are those of a dataset in Hugging Face's form, which may have labels and no captions.
    """

    name: str
    read: Callable[..., list[Example]]
    rows: Rows | None = None


class UnknownLayout(DataError):
    """A directory exists but does not have a known layout of captions."""


def open(
    path: str | Path, *, split: str | None = None, images: str | Path | None = None
) -> list[Example]:
    """The examples of a dataset, whichever of the known layouts it has.

    A directory may be, in the order they are looked for: Karpathy's splits (`dataset_coco.json`),
    Flickr8k (`Flickr8k.token.txt`, or Kaggle's `captions.txt`), COCO (`annotations/*.json`), a
    folder of pictures with a table (`metadata.jsonl`, `captions.csv`) or one in each split's
    folder, what Hugging Face's `datasets` saved to disk or as Parquet, pictures with a `.txt` or
    `.caption` beside each, WebDataset shards. A `.json`, `.jsonl`, `.csv`, `.tsv` or `.tar` file
    may be given instead, shards also as `train-{000..003}.tar`, and a dataset of the Hugging Face
    hub as `hf://owner/name`, `hf://owner/name/CONFIG` or `hf://owner/name@REVISION`.

    Args:
        path: the directory or file.
        split: `train`, `dev` (or `val`) or `test`; everything for `None`. A dataset that lists no
            splits has train and dev, made by hashing ids.
        images: the directory of the pictures, if they are not in or beside the dataset.

    Raises:
        DataError: the path does not exist, has no known layout (the message says what was looked
            for), does not have the split, or holds something malformed.
    """
    split = None if split is None else split_name(split)
    found = recognise(path, images=images).read(split=split)
    if not found:
        raise SplitError(f"{path}: no pictures{f' in its {split} split' if split else ''}")
    return found


def check_place(path: str | Path, *, split: str | None = None, rows: str | None = None) -> None:
    """Check that there is something at a path, before work that takes long is done for it.

    Args:
        path: of a dataset of captions, labels or pairs, as `open` takes it.
        split: the name of a split; whether the dataset has it is not looked at.
        rows: a slice, as `take_rows` takes it.

    Raises:
        DataError: nothing is there, the hub has no such dataset, or there is no such name of a
            split or no such slice.
    """
    if split is not None:
        split_name(split)
    take_rows((), rows)
    where = find_rows(path)
    if not isinstance(where, Path) or where.exists():
        return
    if not any(shard.is_file() for shard in find_shards(where)):
        raise DataError(f"{path}: no such directory or file; give the path of a dataset")


def recognise(path: str | Path, *, images: str | Path | None = None) -> DatasetLayout:
    """The layout of the dataset, by the rules of `open`.

    Raises:
        DataError: the path does not exist, or is a file that is not a dataset.
        UnknownLayout: the directory has no known layout.
    """
    where = find_rows(path)
    if isinstance(where, Rows):
        return _alone(path, images, where.layout, partial(read_captions, where), where)
    if remote := hub_name(path):
        copied = recognise(where, images=images)
        return dataclasses.replace(copied, read=partial(_read_copy, copied.read, where, remote))
    path = where
    images = None if images is None else Path(images)
    if not path.is_dir() and (shards := find_shards(path)) and shards[0].is_file():
        read = partial(read_shards, shards, _folder(shards))
        return _alone(path, images, "WebDataset shards", read)
    if not path.exists():
        raise DataError(f"{path}: no such directory or file; give the path of a dataset")
    if is_special(path):
        raise DataError(
            f"{path}: is a device, a pipe or a socket; give a dataset's directory or file"
        )
    if path.is_file():
        if path.suffix == ".json":
            return DatasetLayout("COCO", partial(read_annotations, [path], images=images))
        if path.suffix in (".jsonl", ".csv", ".tsv"):
            return DatasetLayout("table of pictures", partial(read_table, path, images=images))
        raise DataError(
            f"{path}: not a dataset; give a .json, .jsonl, .csv, .tsv or .tar file, or a directory"
        )
    if karpathy := find_karpathy(path):
        return DatasetLayout(
            "Karpathy's splits", partial(read_annotations, [karpathy], images=images)
        )
    if find_captions(path):
        return DatasetLayout("Flickr8k", partial(read_flickr8k, path, images=images))
    if annotations := find_annotations(path):
        return DatasetLayout("COCO", partial(read_annotations, annotations, images=images))
    if table := find_table(path):
        return DatasetLayout(f"folder with {table.name}", partial(read_table, table, images=images))
    if tables := find_split_tables(path):
        name = f"folder with {tables[0].name} in each split"
        return _alone(path, images, name, partial(read_split_tables, tables))
    if rows := local_rows(path):
        return _alone(path, images, rows.layout, partial(read_captions, rows), rows)
    if has_sidecars(path):
        return _alone(path, images, SIDECARS, partial(read_sidecars, path))
    if shards := find_shards(path):
        return _alone(path, images, "WebDataset shards", partial(read_shards, shards, path))
    raise UnknownLayout(
        f"{path}: not a dataset that captax knows; looked for Flickr8k.token.txt, Kaggle's "
        f"captions.txt, dataset_coco.json, annotations/*.json, metadata.jsonl, captions.csv, "
        f"*.parquet, what save_to_disk writes, pictures with a .txt or .caption beside each, "
        f"and *.tar"
    )


def _read_copy(
    read: Callable[..., list[Example]], folder: Path, name: HubName, split: str | None = None
) -> list[Example]:
    """A split in `folder`, the copy of a dataset of the hub, whose name its examples get."""
    found = read(split=split)
    refuse_outside(folder, (example.unread for example in found), name)
    return [example.renamed(example.id, name.source) for example in found]


def _alone(
    path: str | Path,
    images: str | Path | None,
    name: str,
    read: Callable[..., list[Example]],
    rows: Rows | None = None,
) -> DatasetLayout:
    """A layout that stores pictures and captions together."""
    if images is not None:
        raise DataError(f"{path}: its pictures are stored with its captions; leave out {images}")
    return DatasetLayout(name, read, rows)


def _folder(shards: list[Path]) -> Path:
    """The innermost folder that all shards are in."""
    common = [folder for folder in shards[0].parents if all(folder in s.parents for s in shards)]
    return common[0]
