"""Opening a dataset without saying what it is."""

from pathlib import Path

from captax.data.coco import find_annotations, find_karpathy, read_annotations
from captax.data.example import DataError, Example
from captax.data.flickr8k import find_captions, read_flickr8k
from captax.data.folder import find_table, has_sidecars, read_sidecars, read_table
from captax.data.splits import split_name


def open(
    path: str | Path, *, split: str | None = None, images: str | Path | None = None
) -> list[Example]:
    """The examples of a dataset, whichever of the known layouts it has.

    A directory may be, in the order they are looked for: Karpathy's splits (`dataset_coco.json`),
    Flickr8k (`Flickr8k.token.txt`, or Kaggle's `captions.txt`), COCO (`annotations/*.json`), a
    folder of pictures with a table (`metadata.jsonl`, `captions.csv`) or with a `.txt` beside each.
    A `.json`, `.jsonl` or `.csv` file may be named itself.

    Args:
        path: the directory or file.
        split: `train`, `dev` (or `val`) or `test`; everything for `None`. A dataset that lists no
            splits has train and dev, made by hashing ids.
        images: the directory of the pictures, where it is not in or beside the dataset as usual.

    Raises:
        DataError: the path does not exist, has no known layout (the message says what was looked
            for), no such split, or something malformed in it.
    """
    path = Path(path)
    split = None if split is None else split_name(split)
    if not path.exists():
        raise DataError(f"{path}: no such directory or file; give the path of a dataset")
    found = _read(path, split, None if images is None else Path(images))
    if not found:
        raise DataError(f"{path}: no pictures{f' in its {split} split' if split else ''}")
    return found


def _read(path: Path, split: str | None, images: Path | None) -> list[Example]:
    if path.is_file():
        if path.suffix == ".json":
            return read_annotations([path], split=split, images=images)
        if path.suffix in (".jsonl", ".csv"):
            return read_table(path, split=split, images=images)
        raise DataError(f"{path}: a dataset's file is .json, .jsonl or .csv; or give its directory")
    if karpathy := find_karpathy(path):
        return read_annotations([karpathy], split=split, images=images)
    if find_captions(path):
        return read_flickr8k(path, split=split, images=images)
    if annotations := find_annotations(path):
        return read_annotations(annotations, split=split, images=images)
    if table := find_table(path):
        return read_table(table, split=split, images=images)
    if has_sidecars(path):
        if images is not None:
            raise DataError(f"{path}: its pictures are beside their .txt files; leave out {images}")
        return read_sidecars(path, split=split)
    raise DataError(
        f"{path}: no dataset that captax knows; looked for Flickr8k.token.txt, Kaggle's "
        f"captions.txt, dataset_coco.json, annotations/*.json, metadata.jsonl, captions.csv, and "
        f"pictures with a .txt beside each"
    )
