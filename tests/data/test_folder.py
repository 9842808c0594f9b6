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
TSV_END = 'a.jpg\tA "brown" dog\n'
RAW = """\
{"filename": "a.jpg", "sentences": [{"raw": "A dog"}, {"raw": "A \\"brown\\" dog"}]}
{"filename": "sub/b.PNG", "captions": ["A cat, asleep"]}
"""


@pytest.mark.parametrize(
    "table",
    [
        {"metadata.jsonl": JSONL},
        {"captions.csv": CSV},
        {"metadata.csv": CSV.replace("\n", "\r\n")},
        {"captions.csv": "\ufeff" + CSV},
        {"captions.tsv": "path\tsentence\na.jpg\tA dog\nsub/b.PNG\tA cat, asleep\n" + TSV_END},
        {"metadata.jsonl": RAW},
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
        ("", r"line 1: no column is named file_name, image, .*; rename one .* \(it has none\)"),
        (
            "file_name,label\n",
            r"no column is named text, caption, .*; rename one .* \(file_name, label\)",
        ),
        ("image,caption,caption\na.jpg,A dog,A cat\n", "line 1: two columns are named 'caption'"),
        ("image;caption\na.jpg;A dog\n", "line 1: semicolons stand .*; save the file with commas"),
        ("image,caption\na.jpg,A dog\na.jpg,A cat, asleep\n", "line 3: .* has 3 fields .* has 2"),
        ('image,caption\na.jpg,"one\ntwo"\na.jpg\n', "line 4: this row has 1 fields"),
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
        ('{"text": "A dog"}', r"no column is named file_name, image, .*; rename one .* \(text\)"),
        (
            '{"file_name": "a.jpg"}',
            r"no column is named text, caption, .*; rename one .* \(file_name\)",
        ),
        ('{"file_name": "a.jpg", "text": 3}', "it needs one or more captions, as strings"),
        ('{"file_name": "a.jpg", "text": []}', "it needs one or more captions, as strings"),
        ('{"file_name": "a.jpg", "text": ["A dog", ""]}', "a.jpg has an empty caption"),
    ],
)
def test_refuses_malformed_jsonl(layout: Layout, line: str, fault: str) -> None:
    good = json.dumps({"file_name": "a.jpg", "text": "A\u2028dog"}, ensure_ascii=False)
    root = layout(PICTURES | {"metadata.jsonl": f"{good}\n{line}\n"})
    with pytest.raises(DataError, match=rf"metadata\.jsonl, line 2: .*{fault}"):
        captax.data.open(root)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_all_malformed_rows_are_told_at_once(layout: Layout, suffix: str) -> None:
    if suffix == "csv":
        header, good, bad = "file_name,text\n", "a.jpg,A dog", "a.jpg"
    else:
        header, good, bad = "", '{"file_name": "a.jpg", "text": "A dog"}', '{"file_name": 3}'
    root = layout(PICTURES | {f"metadata.{suffix}": header + "\n".join([good, *[bad] * 12, good])})
    with pytest.raises(DataError) as raised:
        captax.data.open(root)
    first = 2 + bool(header)
    told = str(raised.value).split("line ")
    assert [each.partition(":")[0] for each in told[1:]] == [str(first + n) for n in range(10)]
    assert told[0] == f"{root / 'metadata'}.{suffix}, " and told[-1].endswith("; and 2 more rows")
    # A fault of every row is one of the file.
    (root / f"metadata.{suffix}").write_text(header + "\n".join([bad] * 12))
    with pytest.raises(DataError) as raised:
        captax.data.open(root)
    assert str(raised.value).count("line ") == 1
    assert str(raised.value).endswith("; and 11 more rows")


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


SPLIT_PICTURES = {"train/a.jpg": "", "train/b.jpg": "", "validation/a.jpg": ""}


@pytest.mark.parametrize(
    "captions",
    [
        {"train/a.txt": "A dog", "train/b.txt": "A cat", "validation/a.txt": "A bird"},
        {"captions.csv": "image,text\ntrain/a.jpg,A dog\ntrain/b.jpg,A cat\n"
                         "validation/a.jpg,A bird\n"},
        {"train/metadata.csv": "file_name,text\na.jpg,A dog\nb.jpg,A cat\n",
         "validation/metadata.jsonl": '{"file_name": "a.jpg", "text": "A bird"}'},
    ],
)  # fmt: skip
def test_folders_named_for_splits_are_the_splits(layout: Layout, captions: dict[str, str]) -> None:
    root = layout(SPLIT_PICTURES | captions)
    train = captax.data.open(root, split="train")
    dev = captax.data.open(root, split="dev")
    assert [(e.id, e.image, e.captions) for e in train] == [
        ("train/a.jpg", root / "train/a.jpg", ("A dog",)),
        ("train/b.jpg", root / "train/b.jpg", ("A cat",)),
    ]
    assert [(e.id, e.captions, e.source) for e in dev] == [
        ("validation/a.jpg", ("A bird",), "made-up")
    ]
    assert captax.data.open(root) == train + dev
    with pytest.raises(DataError, match="no test split; choose dev or train"):
        captax.data.open(root, split="test")


def test_a_caption_that_looks_like_a_list_is_one_caption(layout: Layout) -> None:
    root = layout({"a.jpg": "", "captions.tsv": 'image\tcaption\na.jpg\t["A dog" it says]\n'})
    assert captax.data.open(root)[0].captions == ('["A dog" it says]',)


@pytest.mark.parametrize(
    "table",
    [
        "image,caption_0,caption_1\na.jpg,A dog,A cat\n",
        'filename,captions\na.jpg,"[""A dog"", ""A cat""]"\n',
    ],
)
def test_several_captions_in_one_row_of_a_csv(layout: Layout, table: str) -> None:
    root = layout({"a.jpg": "", "captions.csv": table})
    assert captax.data.open(root)[0].captions == ("A dog", "A cat")


def test_sidecars_of_either_suffix_and_any_case_are_captions(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "sub/c.jpg", "d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a.caption").write_text("one")
    (tmp_path / "b.tXt").write_text("two")
    (tmp_path / "sub" / "c.CAPTION").write_text("three")
    (tmp_path / "d.caption").write_text("not this")
    (tmp_path / "d.TXT").write_text("four")
    found = {each.id: each.captions for each in captax.data.open(tmp_path)}
    assert found == {
        "a.jpg": ("one",),
        "b.jpg": ("two",),
        "sub/c.jpg": ("three",),
        "d.jpg": ("four",),
    }


def test_a_column_named_txt_holds_captions(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "captions.csv").write_text("image,txt\na.jpg,a cat\n")
    assert [each.captions for each in captax.data.open(tmp_path)] == [("a cat",)]
