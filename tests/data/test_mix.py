import pytest

from captax.data import DataError, Example, mix


def example(id: str, source: str = "") -> Example:
    return Example(id, b"", ("A dog",), source)


def test_ids_carry_their_source() -> None:
    mixed = mix([example("1", "flickr8k"), example("2", "flickr8k")], [example("1", "coco")])
    assert [x.id for x in mixed] == ["flickr8k/1", "flickr8k/2", "coco/1"]
    assert [x.id for x in mix(mixed, [example("own")])] == [*(x.id for x in mixed), "own"]


def test_refuses_duplicates() -> None:
    source = [example("1", "coco"), example("2", "coco"), example("3", "coco")]
    with pytest.raises(DataError, match=r"coco/1 \(and 1 other\) comes twice"):
        mix(source, source[:2])
