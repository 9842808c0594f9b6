import random

import pytest

from captax.data import DataError, Example, split_by_hash

EXAMPLES = [Example(f"id{n}", b"", ("A dog",)) for n in range(4000)]


def ids(examples: list[Example]) -> set[str]:
    return {example.id for example in examples}


def test_is_a_partition_of_about_that_fraction() -> None:
    train, dev = split_by_hash(EXAMPLES, dev_fraction=0.2)
    assert len(train) + len(dev) == 4000
    assert ids(train) | ids(dev) == ids(EXAMPLES)
    assert abs(len(dev) - 800) < 4 * (4000 * 0.2 * 0.8) ** 0.5
    assert split_by_hash(EXAMPLES, dev_fraction=0.0) == (EXAMPLES, [])
    assert split_by_hash(EXAMPLES, dev_fraction=1.0) == ([], EXAMPLES)


def test_is_the_same_on_every_machine() -> None:
    # These must never change: a split that moves leaks training pictures into dev.
    _, dev = split_by_hash(EXAMPLES[:60])
    assert [example.id for example in dev] == FIXED
    _, salted = split_by_hash(EXAMPLES[:60], salt="other")
    assert [example.id for example in salted] == SALTED


def test_depends_on_the_id_alone() -> None:
    _, dev = split_by_hash(EXAMPLES)
    some = random.Random(0).sample(EXAMPLES, 500)
    _, dev_of_some = split_by_hash(some)
    assert ids(dev_of_some) == ids(dev) & ids(some)
    _, larger = split_by_hash(EXAMPLES, dev_fraction=0.3)
    assert ids(dev) < ids(larger)


def test_refuses_a_fraction_out_of_range() -> None:
    with pytest.raises(DataError, match=r"dev_fraction is 20\.0"):
        split_by_hash(EXAMPLES, dev_fraction=20.0)


FIXED = [f"id{n}" for n in (1, 6, 8, 10, 25, 29, 30, 53)]
SALTED = [f"id{n}" for n in (1, 3, 4, 15, 22, 31, 35, 46, 49, 58)]
