"""Tables of tags from anywhere."""

from pathlib import Path

import pytest

from captax.text.tags import TagError, read_tags

HEAD = "tag_id,name,category,count\n"


def test_tags_are_read_in_order_with_their_categories(tmp_path: Path) -> None:
    path = tmp_path / "selected_tags.csv"
    path.write_text(HEAD + '0,general,9,5\n1,"a,b",0,5\n2,é_(x),4,5\n3,new,77,5\n', "utf-8")
    assert read_tags(path, 4) == (
        ("general", "rating"),
        ("a,b", "general"),
        ("é_(x)", "character"),
        ("new", "'77'"),
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "has no columns"),
        (b"a,b\n1,2\n", "has no columns"),
        (b"\xff\xfe\x00", "not a table"),
        (HEAD.encode() + b"1,one,0,5\n", "has 1 tags, and the model has 2"),
        (HEAD.encode() + b"1,one,0,5\n" * 9, "has more than 2 tags"),
        (HEAD.encode() + b"1,one,0,5\n2,,0,5\n", "line 3: '' is not a tag"),
        (HEAD.encode() + b"1,one,0,5\n2\n", "is not a tag"),
        (HEAD.encode() + b"1,one,0,5\n2,\x1b[31m,0,5\n", "is not a tag"),
        (HEAD.encode() + b"1,one,0,5\n2," + b"x" * 200_000 + b",0,5\n", "not a table"),
    ],
)
def test_what_is_no_such_table_is_refused_in_a_line(
    tmp_path: Path, content: bytes, told: str
) -> None:
    path = tmp_path / "selected_tags.csv"
    path.write_bytes(content)
    with pytest.raises(TagError, match=told) as raised:
        read_tags(path, 2)
    assert str(path) in str(raised.value) and len(str(raised.value)) < 500


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(TagError, match="no such file"):
        read_tags(tmp_path / "selected_tags.csv", 2)
