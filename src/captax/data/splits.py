"""Splits: the names they go by, and one made by hashing where a source has none."""

import hashlib
from collections.abc import Sequence

from captax.data.example import DataError, Example

# "restval" is Karpathy's name for the part of COCO's val2014 that everyone trains on.
SPLIT_NAMES = {
    "train": "train",
    "restval": "train",
    "dev": "dev",
    "val": "dev",
    "validation": "dev",
    "test": "test",
}
DEV_FRACTION = 0.1


def split_name(name: str) -> str:
    """`train`, `dev` or `test`, under any of the names they go by.

    Raises:
        DataError: it is none of them.
    """
    if name not in SPLIT_NAMES:
        raise DataError(f"there is no split {name!r}: choose train, dev (or val) or test")
    return SPLIT_NAMES[name]


def split_by_hash(
    examples: Sequence[Example], *, dev_fraction: float = DEV_FRACTION, salt: str = ""
) -> tuple[list[Example], list[Example]]:
    """Train and dev parts, chosen by each id alone.

    The same id falls on the same side on every machine and in every order, and stays there when
    pictures are added. The dev part holds `dev_fraction` of them only on average.

    Args:
        examples: what to split.
        dev_fraction: how much of it is dev, between 0 and 1.
        salt: another salt is another split.

    Raises:
        DataError: `dev_fraction` is not between 0 and 1.
    """
    if not 0 <= dev_fraction <= 1:
        raise DataError(f"dev_fraction is {dev_fraction}: give a number between 0 and 1")
    train: list[Example] = []
    dev: list[Example] = []
    for example in examples:
        digest = hashlib.blake2b(f"{salt}\0{example.id}".encode(), digest_size=8).digest()
        share = int.from_bytes(digest, "big") / 2**64
        (dev if share < dev_fraction else train).append(example)
    return train, dev


def choose_split(examples: Sequence[Example], split: str | None, *, where: object) -> list[Example]:
    """The named part of a source that has no splits of its own; all of it for `None`.

    Train and dev are those of `split_by_hash`.

    Raises:
        DataError: the test part is asked for: nobody has said which pictures are the test.
    """
    if split is None:
        return list(examples)
    if split == "test":
        raise DataError(
            f"{where} lists no splits, so it has no test part; ask for train or dev (made by "
            f"hashing ids), or make it a dataset of its own"
        )
    train, dev = split_by_hash(examples)
    return train if split == "train" else dev
