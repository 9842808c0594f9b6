"""The names of splits, and a split by hashing for sources that list no splits."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from captax.data.example import DataError, SplitError
from captax.errors import quoted

# "restval" is Karpathy's name for the part of COCO's val2014 that everyone trains on.
SPLIT_NAMES = {
    "train": "train",
    "restval": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
}
DEV_FRACTION = 0.1
# Rows as Python slices them: `:-300`, `100:200`.
ROWS = r"^(-?[0-9]{1,15})?:(-?[0-9]{1,15})?$"


@runtime_checkable
class Identified(Protocol):
    """Anything that can be split, because it has an id."""

    @property
    def id(self) -> str:
        """The name within its source."""


T = TypeVar("T", bound=Identified)


def take_rows(examples: Sequence[Any], rows: str | None) -> Sequence[Any]:
    """The examples in `rows`, which is a Python slice such as `:-300`; all of them for None.

    Raises:
        DataError: `rows` is no slice.
    """
    if rows is None:
        return examples
    if not re.fullmatch(ROWS, rows):
        raise DataError(f"rows {quoted(rows)}: is no slice; give one such as :100 or -300:")
    start, stop = (int(end) if end else None for end in rows.split(":"))
    return examples[start:stop]


def split_name(name: str) -> str:
    """`train`, `dev` or `test` for any usual name of these splits, such as `val` for `dev`.

    Raises:
        DataError: no split has this name.
    """
    if name not in SPLIT_NAMES:
        raise DataError(f"there is no split {quoted(name)}; choose train, dev (or val) or test")
    return SPLIT_NAMES[name]


def split_in(name: str) -> str | None:
    """The split that a file's name contains, as `captions_val2017` does; otherwise None."""
    words = re.findall("[a-z]+", name.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


def split_by_hash(
    examples: Sequence[T], *, dev_fraction: float = DEV_FRACTION, salt: str = ""
) -> tuple[list[T], list[T]]:
    """Train and dev parts, chosen by each id alone.

    The same id falls on the same side on every machine and in every order, and stays there when
    pictures are added. The dev part holds `dev_fraction` of them only on average.

    Args:
        examples: what to split.
        dev_fraction: how much of it is dev, between 0 and 1.
        salt: another salt gives another split.

    Raises:
        DataError: `dev_fraction` is not between 0 and 1.
    """
    if not 0 <= dev_fraction <= 1:
        raise DataError(f"dev_fraction is {dev_fraction}; give a number between 0 and 1")
    train: list[T] = []
    dev: list[T] = []
    for example in examples:
        (dev if _share(example.id, salt) < dev_fraction else train).append(example)
    return train, dev


def _share(id: str, salt: str) -> float:
    """A number from 0 to 1 that an id has on every machine."""
    digest = hashlib.blake2b(f"{salt}\0{id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def choose_split(examples: Sequence[T], split: str | None, *, where: object) -> list[T]:
    """The named part of a source that does not list its splits; all of it for `None`.

    If every id begins with a folder named for a split (`train/`, `val/`), and there are at least
    two such splits, these are the splits. Otherwise `split_by_hash` makes train and dev.

    Raises:
        SplitError: the folder does not exist, or test is asked for and the source lists no splits.
    """
    if split is None:
        return list(examples)
    folders = [SPLIT_NAMES.get(example.id.partition("/")[0]) for example in examples]
    there = {folder for folder in folders if folder is not None}
    if len(there) > 1 and None not in folders:
        refuse_absent(split, there, where)
        return [example for example, in_ in zip(examples, folders, strict=True) if in_ == split]
    refuse_test(split, where)
    train, dev = split_by_hash(examples)
    if not dev and len(train) > 1:  # chance may hold out none of a few
        dev = [min(train, key=lambda example: _share(example.id, ""))]
        train = [example for example in train if example is not dev[0]]
    return train if split == "train" else dev


def refuse_test(split: str | None, where: object) -> None:
    """Refuse the test split of a source that lists no splits.

    Raises:
        SplitError: `split` is test, and the source does not say which examples belong to it.
    """
    if split == "test":
        raise SplitError(
            f"{where} lists no splits, so it has no test part; ask for train or dev (made by "
            f"hashing ids), or make it a dataset of its own"
        )


def refuse_absent(split: str | None, there: set[str], where: object) -> None:
    """Refuse a split that is not among the splits of a source, `there`.

    Raises:
        SplitError: the source does not have the split.
    """
    if split is not None and split not in there:
        raise SplitError(f"{where}: no {split} split; choose {' or '.join(sorted(there))}")
