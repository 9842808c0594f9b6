"""Pictures with labels, for classification: a folder for each class, Food-101, or labelled rows."""

import dataclasses
import difflib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from captax.data.example import (
    DataError,
    OnDemand,
    SplitError,
    Stored,
    note,
    read_text,
    refuse,
    refuse_repeats,
    refuses,
)
from captax.data.huggingface import (
    LABEL_COLUMNS,
    Rows,
    find_rows,
    label_column,
    local_rows,
    pictures,
    refuse_outside,
    row_ids,
)
from captax.data.repository import hub_name
from captax.data.splits import (
    SPLIT_NAMES,
    refuse_absent,
    refuse_test,
    split_by_hash,
    split_name,
)
from captax.data.tables import alternatives, find_column
from captax.errors import quoted
from captax.files import is_file, parse_json
from captax.images.decode import ImageError
from captax.images.find import find_images
from captax.images.kinds import is_image_path

FOOD101_LISTS = {"train": "train.txt", "dev": "val.txt", "test": "test.txt"}


@dataclasses.dataclass(frozen=True)
class LabelledExample:
    """One picture and the class it belongs to.

    Attributes:
        id: its path in the dataset.
        image: the picture file, or the bytes of one.
        label: the name of its class.
    """

    id: str
    image: Path | bytes
    label: str


class StoredLabelledExample(OnDemand, LabelledExample):
    """A labelled picture that is read on demand."""

    def __init__(self, id: str, image: Stored, label: str):
        super().__init__(id=id, stored=image, label=label)


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A labelled dataset: the name of its layout, the classes that are kept, and all its examples.

    `splits` has the single key "" if the dataset lists no splits.
    """

    layout: str
    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[LabelledExample]]

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits that the dataset lists, or train and dev if dev is made by hashing."""
        return tuple(self.splits) if self._measures else ("train", "dev")

    def part(self, split: str | None, where: object) -> list[LabelledExample]:
        """The examples of a split, or of all splits if `split` is None.

        Raises:
            SplitError: there is no such split.
        """
        if split is None:
            return [example for name in self.splits for example in self._kept(name)]
        if not self._measures:
            refuse_test(split, where)
            train, dev = split_by_hash(self.part(None, where))
            return train if split == "train" else dev
        if split == "dev" and "dev" not in self.splits:
            split = "test"
        refuse_absent(split, set(self.splits), where)
        return self._kept(split)

    def _kept(self, name: str) -> list[LabelledExample]:
        classes = set(self.classes)
        return [example for example in self.splits[name] if example.label in classes]

    def lacking(self, split: str, where: object) -> list[str]:
        """The classes that have no picture in a split."""
        there = {example.label for example in self.part(split, where)}
        return [name for name in self.classes if name not in there]

    @property
    def _measures(self) -> bool:
        """Whether the dataset lists a split to measure on: dev or test."""
        return bool({"dev", "test"} & self.splits.keys())


def open_labelled(
    path: str | Path, *, split: str | None = None, classes: int | Sequence[str] | None = None
) -> list[LabelledExample]:
    """The pictures of a dataset for classification, with the names of their classes.

    A directory may be Food-101 (`images/<class>/<id>.jpg` and `meta/train.txt`, `meta/test.txt`),
    or have a folder of pictures for each class, within folders of splits (`train/<class>/`) or not.
    `hf://owner/name` is a dataset of the Hugging Face hub, which may also be on disk: it has a
    column of labels, `label` or the only one of classes.
    Without a dev split, dev is the test split, as with Food-101; without either, it is made by
    hashing ids. Classes come in the order of `class_names`.

    Args:
        path: the directory, or a dataset of the hub.
        split: `train`, `dev` (or `val`) or `test`; everything for `None`.
        classes: the classes to keep: their names, or a number to keep the first ones.

    Raises:
        DataError: the directory has neither layout, a listed picture does not exist, there are
            fewer than two classes, a class is unknown or has no training pictures, or the split
            does not exist or is empty.
    """
    split = None if split is None else split_name(split)
    dataset = read_labelled(path, classes)
    found = dataset.part(split, path)
    if not found:
        raise SplitError(f"{path}: no pictures{f' in its {split} split' if split else ''}")
    if split is not None and (lacking := dataset.lacking(split, path)):
        listed = f"{', '.join(lacking[:5])}{', ...' if len(lacking) > 5 else ''}"
        message = f"{path}: its {split} split has no pictures of {listed}"
        if split == "train":
            raise DataError(f"{message}; add some, or name only the other classes in classes=")
        warnings.warn(message, stacklevel=2)
    return found


def class_names(path: str | Path, *, classes: int | Sequence[str] | None = None) -> tuple[str, ...]:
    """The classes of a labelled dataset: as Food-101 lists them, else in alphabetical order.

    They are the same whichever split is opened. `classes` keeps the classes
    with these names, or the first ones if it is a number, in the same order.

    Raises:
        DataError: as `open_labelled` does.
    """
    return read_labelled(path, classes).classes


def is_labelled(root: Path) -> bool:
    """Whether the directory has one of the layouts that `open_labelled` knows."""
    return root.is_dir() and (_is_food101(root) or bool(_class_folders(root)))


def read_labelled(path: str | Path, classes: int | Sequence[str] | None = None) -> Labelled:
    """Read the lists of a labelled dataset, and no pictures; the rows of a split when it is read.

    Raises:
        DataError: as `open_labelled` does, except for faults that concern one split.
    """
    root = find_rows(path)
    if isinstance(root, Rows):
        return read_labelled_rows(root, classes)
    if not root.is_dir():
        raise DataError(f"{root}: no such directory; give the directory of a dataset with labels")
    if _is_food101(root):
        dataset = _food101(root)
        if name := hub_name(path):
            each = (example.image for part in dataset.splits.values() for example in part)
            refuse_outside(root, each, name)
        return _keep(root, dataset, classes)
    if folders := _class_folders(root):
        return _keep(root, _folders(root, folders), classes)
    if rows := local_rows(root):
        return read_labelled_rows(rows, classes)
    raise DataError(
        f"{root}: no labelled pictures; looked for a folder of pictures for each class "
        f"(at the top, or in folders named train, dev and test), for Food-101's images/ and meta/, "
        f"and for Hugging Face's Parquet"
    )


def read_labelled_rows(rows: Rows, classes: int | Sequence[str] | None = None) -> Labelled:
    """The labelled pictures of a dataset in Hugging Face's form.

    Raises:
        DataError: no column holds labels, or as `open_labelled` does.
    """
    part = rows.smallest()
    column = label_column(part)
    if column is None:
        find_column(rows.where, part.column_names, LABEL_COLUMNS)  # says what it looked for
    splits = _RowSplits(rows, str(column))
    listed = getattr(part.features[column], "names", None)
    names = listed or sorted({each.label for name in splits for each in splits[name]}, key=_counted)
    return _keep(rows.where, Labelled(rows.layout, tuple(names), splits), classes)


class _RowSplits(Mapping[str, Sequence[LabelledExample]]):
    """The examples of each split of `rows`, which are read when they are asked for."""

    def __init__(self, rows: Rows, column: str):
        self._rows, self._column = rows, column
        self._names: dict[str, list[str]] = {}
        for name in rows.splits:
            split = "" if rows.alone else SPLIT_NAMES.get(name, name)
            self._names.setdefault(split, []).append(name)
        self._read: dict[str, list[LabelledExample]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, split: object) -> bool:
        return split in self._names

    def __getitem__(self, split: str) -> Sequence[LabelledExample]:
        if split not in self._read:
            found = [each for name in self._names[split] for each in self._examples(name)]
            ids = (example.id for example in found)
            refuse_repeats(ids, self._rows.where, "is the id of two rows; rename one")
            self._read[split] = found
        return self._read[split]

    def _examples(self, name: str) -> Iterator[LabelledExample]:
        part, where = self._rows.read(name), self._rows.where
        prefix = "" if self._rows.alone else f"{name}/"
        picture = pictures(self._rows, part)
        names = getattr(part.features[self._column], "names", None)
        values = zip(row_ids(prefix, part), part[self._column], strict=True)
        for index, (id, value) in enumerate(values):
            label: object = value
            if names and isinstance(value, int):  # the hub writes -1 where there is no label
                label = names[value] if 0 <= value < len(names) else None
            if not isinstance(label, str | int) or label == "":
                note(
                    f"{where}, {prefix} row {index}: its {self._column} names no class; got "
                    f"{quoted(value)}"
                )
                continue
            yield StoredLabelledExample(id, picture(index, id), str(label))


def _counted(name: str) -> tuple[int, str]:
    """A key that sorts numbers by their values, and other names by their letters."""
    return (int(name) if name.isdecimal() else 0, name)


def _keep(where: object, dataset: Labelled, classes: int | Sequence[str] | None) -> Labelled:
    """The dataset with some of its classes."""
    kept = _choose(where, dataset.classes, classes)
    if len(kept) < 2:
        raise DataError(
            f"{where}: there is only one class ({', '.join(kept) or 'none'}), and a classifier "
            "needs two or more; add pictures of another"
        )
    return dataclasses.replace(dataset, classes=kept)


def _choose(
    root: object, names: tuple[str, ...], classes: int | Sequence[str] | None
) -> tuple[str, ...]:
    if classes is None:
        return names
    if isinstance(classes, str):
        raise DataError(f"classes is one string; give a list of names, such as [{quoted(classes)}]")
    if isinstance(classes, int):
        if not 2 <= classes <= len(names):
            raise DataError(
                f"{root}: classes is {classes} and the dataset has {len(names)} classes; give 2 to "
                f"{len(names)}"
            )
        return names[:classes]
    for name in classes:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3) or names[:3]
            raise DataError(f"{root}: no class {quoted(name)}; did you mean {alternatives(near)}?")
    return tuple(name for name in names if name in set(classes))


def _is_food101(root: Path) -> bool:
    meta = root / "meta"
    return (root / "images").is_dir() and any(_lists(meta).values())


def _lists(meta: Path) -> dict[str, Path | None]:
    """The list of each split: `train.txt`, or `train.json` if that is missing."""
    found: dict[str, Path | None] = {}
    for split, name in FOOD101_LISTS.items():
        paths = (meta / name, (meta / name).with_suffix(".json"))
        found[split] = next((path for path in paths if path.is_file()), None)
    return found


def _food101(root: Path) -> Labelled:
    lists = {split: path for split, path in _lists(root / "meta").items() if path is not None}
    splits: dict[str, list[LabelledExample]] = {}
    for split, path in lists.items():
        splits[split] = [
            LabelledExample(id, root / "images" / f"{id}.jpg", id.partition("/")[0])
            for id in _listed(path)
        ]
        if refuses():
            refuse(
                (
                    str(e.image)
                    for e in splits[split]
                    if isinstance(e.image, Path) and not is_file(e.image)
                ),
                path,
                "does not exist; restore the picture or remove it from the list",
            )
    every = [example for examples in splits.values() for example in examples]
    refuse_repeats(
        (example.id for example in every), root / "meta", "is in the lists twice; keep it once"
    )
    there = {example.label for example in every}
    names = root / "meta" / "classes.txt"
    if not names.is_file():
        return Labelled("Food-101", tuple(sorted(there)), splits)
    classes = tuple(line.strip() for line in read_text(names).split("\n") if line.strip())
    refuse_repeats(classes, names, "comes twice; remove one")
    refuse(sorted(there - set(classes)), names, "has pictures but is not in the list; add it")
    refuse((name for name in classes if name not in there), names, "has no pictures; remove it")
    return Labelled("Food-101", tuple(name for name in classes if name in there), splits)


def _listed(path: Path) -> list[str]:
    """The `class/id` of every picture in a list."""
    if path.suffix == ".json":
        try:
            content = parse_json(read_text(path))
            ids = [id for listed in content.values() for id in listed]
        except (ValueError, AttributeError, TypeError) as error:
            raise DataError(f"{path}: expected an object of class: [ids] ({error})") from error
    else:
        ids = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    for number, id in enumerate(ids, 1):
        if not isinstance(id, str) or not all(id.partition("/")):
            raise DataError(
                f"{path}, entry {number}: {quoted(id)} does not have the form class/picture"
            )
    return ids


def _class_folders(root: Path) -> dict[str, list[Path]]:
    """The folders of classes by split; the split is "" if splits have no folders."""
    folders = _subfolders(root)
    splits = {folder: _subfolders(folder) for folder in folders if folder.name in SPLIT_NAMES}
    if splits and all(splits.values()):
        refuse(
            (folder.name for folder in folders if folder not in splits and _has_pictures(folder)),
            root,
            "is beside the folders of splits; move it into one of them, or out of the dataset",
        )
        found: dict[str, list[Path]] = {}
        for folder, classes in splits.items():
            found.setdefault(SPLIT_NAMES[folder.name], []).extend(classes)
    else:
        found = {"": folders}
    found = {split: list(filter(_has_pictures, classes)) for split, classes in found.items()}
    return found if any(found.values()) else {}


def _folders(root: Path, folders: Mapping[str, list[Path]]) -> Labelled:
    splits: dict[str, list[LabelledExample]] = {}
    for split, classes in folders.items():
        splits[split] = [
            LabelledExample(image.relative_to(root).as_posix(), image, folder.name)
            for folder in classes
            for image in find_images([folder], readable=True)
        ]
    names = sorted({folder.name for classes in folders.values() for folder in classes})
    layout = "a folder for each class" + ("" if "" in splits else ", in folders of splits")
    return Labelled(layout, tuple(names), splits)


def unlabelled(root: Path) -> list[Path]:
    """The pictures beside the folders of classes, which are of no class."""
    folders = {root}
    if _is_food101(root):
        folders.add(root / "images")
    else:
        folders |= {each.parent for classes in _class_folders(root).values() for each in classes}
    return [
        path
        for folder in sorted(folders)
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and is_image_path(path) and not path.is_dir()
    ]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _has_pictures(folder: Path) -> bool:
    try:
        return any(is_image_path(path) for path in folder.rglob("*"))
    except (OSError, ImageError):
        return False
