"""Flickr8k as its authors published it, and as Kaggle repackaged it."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from captax.data.example import (
    DataError,
    Example,
    ListedCaption,
    SplitError,
    gather,
    make_examples,
    read_text,
    refuse,
    refuse_repeats,
    refuses,
)
from captax.data.folder import read_csv
from captax.data.splits import choose_split
from captax.data.tables import read_rows
from captax.files import open_regular

CAPTIONS = "Flickr8k.token.txt"
TEXT_DIRECTORIES = (".", "text", "Flickr8k_text")
IMAGE_DIRECTORIES = (
    "images",
    "Images",
    "Flicker8k_Dataset",  # the authors' own spelling
    "Flickr8k_Dataset",
)
SPLIT_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "dev": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}


def find_captions(root: Path) -> Path | None:
    """The caption file of either layout, or None if `root` is not Flickr8k."""
    official = (root / directory / CAPTIONS for directory in TEXT_DIRECTORIES)
    kaggle = (root / directory / "captions.txt" for directory in TEXT_DIRECTORIES)
    if found := next((path for path in official if path.is_file()), None):
        return found
    return next((path for path in kaggle if path.is_file() and _has_kaggle_header(path)), None)


def read_flickr8k(
    root: Path, *, split: str | None = None, images: Path | None = None
) -> list[Example]:
    """Flickr8k in either layout; ids are the pictures' names without `.jpg`.

    With the authors' lists (`Flickr_8k.trainImages.txt` and its dev and test siblings) a split is
    what they say, and no split means every picture they name, in their order. Without them splits
    are made by hashing.

    Args:
        root: the dataset's directory.
        split: `train`, `dev` or `test`; all for `None`.
        images: the directory of the pictures; looked for in `root` when not given.

    Raises:
        DataError: a line is malformed, a listed picture has no captions or no file, or the split
            has no list.
    """
    path = find_captions(root)
    if path is None:
        raise DataError(f"{root}: neither {CAPTIONS} nor Kaggle's captions.txt is in it; add one")
    rows = _token_rows(path) if path.name == CAPTIONS else read_csv(path)
    captions = gather(rows)
    if images is None:
        images = next((root / name for name in IMAGE_DIRECTORIES if (root / name).is_dir()), None)
    if images is None:
        raise DataError(
            f"{root}: no directory of pictures; looked for {', '.join(IMAGE_DIRECTORIES)}"
        )

    lists = {name: path.with_name(file) for name, file in SPLIT_LISTS.items()}
    lists = {name: file for name, file in lists.items() if file.is_file()}
    if not lists:
        return choose_split(_examples(captions, captions, images, path, root), split, where=root)
    if split is not None and split not in lists:
        raise SplitError(
            f"{path.with_name(SPLIT_LISTS[split])}: no such file; the splits here are "
            f"{', '.join(lists)}"
        )
    listed = {name: _listed(file, captions) for name, file in lists.items()}
    refuse_repeats(
        chain(*listed.values()), path.parent, "is in the split lists twice; keep it once"
    )
    wanted = listed if split is None else {split: listed[split]}
    return [
        example
        for name, pictures in wanted.items()
        for example in _examples(captions, pictures, images, lists[name], root)
    ]


def _examples(
    captions: dict[str, list[str]],
    names: Iterable[str],
    images: Path,
    listed_in: Path,
    root: Path,
) -> list[Example]:
    stems = {Path(name).stem: name for name in names}
    return make_examples(
        {stem: captions.get(name, []) for stem, name in stems.items()},
        {stem: images / name for stem, name in stems.items()},
        listed_in=listed_in,
        source=root.resolve().name,
    )


def _token_rows(path: Path) -> Iterator[ListedCaption]:
    """Lines `1000268201_693b08cb0e.jpg#0<tab>A child in a pink dress .`."""

    def listed(row: tuple[int, str]) -> ListedCaption:
        number, line = row
        key, tab, caption = line.partition("\t")
        picture, hash_sign, index = key.rpartition("#")
        if not (tab and hash_sign and index.isdigit()):
            raise DataError(f"{path}, line {number}: expected picture.jpg#number<tab>caption")
        return ListedCaption(picture, caption, f"{path}, line {number}")

    lines = enumerate(read_text(path).split("\n"), 1)
    return read_rows(path, (row for row in lines if row[1].strip()), listed)


def _listed(path: Path, captions: dict[str, list[str]]) -> list[str]:
    lines = [(n, line.strip()) for n, line in enumerate(read_text(path).split("\n"), 1)]
    named = [(number, name) for number, name in lines if name]
    if refuses():
        refuse(
            [f"line {number}, {name}," for number, name in named if name not in captions],
            path,
            "has no captions; add them or remove it from the list",
        )
    return [name for _, name in named]


def _has_kaggle_header(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            line = file.readline(1024).decode("utf-8-sig", "replace")
    except OSError:
        return False
    return line.strip().replace(" ", "") == "image,caption"
