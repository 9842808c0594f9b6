import json
from collections.abc import Callable
from pathlib import Path

import pytest

import captax.data
from captax.data import DataError, Example

Layout = Callable[[dict[str, str]], Path]

PICTURES = {"a.jpg": "", "sub/b.PNG": ""}
CSV = 'file_name,text\na.jpg,A dog\nsub/b.PNG,"A cat, asleep"\na.jpg,A "brown" dog\n'
JSONL = """\
{"file_name": "a.jpg", "text": ["A dog", "A \\"brown\\" dog"]}

{"image": "sub/b.PNG", "caption": "A cat, asleep", "width": 640}
"""


@pytest.mark.parametrize(
    "table",
    [
        {"metadata.jsonl": JSONL},
        {"captions.csv": CSV},
        {"metadata.csv": CSV.replace("\n", "\r\n")},
        {"captions.csv": "\ufeff" + CSV},
        {"a.txt": 'A dog\n\n A "brown" dog \n', "sub/b.txt": "A cat, asleep", "README.txt": "-"},
    ],
)
def test_the_same_folder_in_every_form(layout: Layout, table: dict[str, str]) -> None:
    root = layout(PICTURES | table)
    assert captax.data.open(root) == [
        Example("a.jpg", root / "a.jpg", ("A dog", 'A "brown" dog'), "made-up"),
        Example("sub/b.PNG", root / "sub/b.PNG", ("A cat, asleep",), "made-up"),
    ]


def test_a_table_may_be_named_and_its_pictures_elsewhere(layout: Layout) -> None:
    root = layout({"mine.csv": "image,caption\na.jpg,A dog\n", "far/a.jpg": ""})
    [example] = captax.data.open(root / "mine.csv", images=root / "far")
    assert example == Example("a.jpg", root / "far/a.jpg", ("A dog",), "made-up")
    with pytest.raises(DataError, match=r"mine\.csv: \S*/a\.jpg does not exist"):
        captax.data.open(root / "mine.csv")


def test_sidecar_pictures_cannot_be_elsewhere(layout: Layout) -> None:
    root = layout(PICTURES | {"a.txt": "A dog", "sub/b.txt": "A cat"})
    with pytest.raises(DataError, match="leave out far"):
        captax.data.open(root, images="far")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "line 1: no column file_name or image in the header, which has nothing"),
        ("file_name,label\n", "line 1: no column text or caption .* has file_name, label"),
        ("image,caption\na.jpg,A dog\na.jpg,A cat, asleep\n", "line 3: 3 fields .* has 2"),
        ('image,caption\na.jpg,"one\ntwo"\na.jpg\n', "line 4: 1 fields"),
        ('image,caption\na.jpg,A dog\na.jpg,"A cat\na.jpg,x\n', "line 3: .*check its quotes"),
        ('image,caption\na.jpg,"A" dog\n', "line 2: .*check its quotes"),
        ("image,caption\na.jpg,A dog\n\na.jpg,\n", "line 4: a.jpg has an empty caption"),
        ("image,caption\n,A dog\n", "line 2: a caption without a picture"),
        ("image,caption\n", "no pictures"),
    ],
)
def test_refuses_malformed_csv(layout: Layout, content: str, fault: str) -> None:
    root = layout(PICTURES | {"captions.csv": content})
    with pytest.raises(DataError, match=fault) as raised:
        captax.data.open(root)
    assert str(root) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object, got list"),
        ('{"text": "A dog"}', "no file_name or image; it has text"),
        ('{"file_name": "a.jpg"}', "no text or caption; it has file_name"),
        ('{"file_name": "a.jpg", "text": 3}', "must be strings"),
        ('{"file_name": "a.jpg", "text": []}', "must be strings"),
        ('{"file_name": "a.jpg", "text": ["A dog", ""]}', "a.jpg has an empty caption"),
    ],
)
def test_refuses_malformed_jsonl(layout: Layout, line: str, fault: str) -> None:
    good = json.dumps({"file_name": "a.jpg", "text": "A\u2028dog"}, ensure_ascii=False)
    root = layout(PICTURES | {"metadata.jsonl": f"{good}\n{line}\n"})
    with pytest.raises(DataError, match=rf"metadata\.jsonl, line 2: .*{fault}"):
        captax.data.open(root)


def test_refuses_pictures_without_captions(layout: Layout) -> None:
    root = layout(PICTURES | {"c.jpg": "", "c.txt": "A bird"})
    with pytest.raises(DataError, match=r"made-up: a\.jpg \(and 1 other\) has no \.txt"):
        captax.data.open(root)
    root = layout({"a.txt": "A dog", "sub/b.txt": " \n"})
    with pytest.raises(DataError, match=r"b\.txt: has no caption"):
        captax.data.open(root)


def test_refuses_text_that_is_not_utf8(layout: Layout) -> None:
    root = layout(PICTURES)
    (root / "captions.csv").write_bytes("image,caption\na.jpg,café\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"captions\.csv: byte 23 is not UTF-8"):
        captax.data.open(root)


def test_missing_pictures_are_named_even_with_braces_in_the_path(layout: Layout) -> None:
    root = layout({"{0}/captions.csv": "image,caption\n{}.jpg,A dog\n"})
    with pytest.raises(DataError, match=r"\{0\}/captions\.csv: .*/\{\}\.jpg does not exist"):
        captax.data.open(root / "{0}")
