import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captax.errors import CaptaxError
from captax.metrics.align import align, merge
from captax.metrics.caption_files import read_captions, read_objects

Write = Callable[[str, Any], Path]

DOGS = {"1": ["a dog", "the dog"], "2": ["two cats"]}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(name, content)`: a file of text, or of what is no text as JSON."""

    def to_file(name: str, content: Any) -> Path:
        path = tmp_path / name
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def texts(path: Path, **options: Any) -> dict[str, list[str]]:
    rows = read_captions(path, **options).rows
    return {image: [row.caption for row in captions] for image, captions in rows.items()}


COCO = {
    "images": [{"id": 1, "file_name": "one.jpg"}, {"id": 2, "file_name": "two.jpg"}],
    "annotations": [
        {"id": 7, "image_id": 1, "caption": "a dog"},
        {"id": 8, "image_id": 2, "caption": "two cats"},
        {"id": 9, "image_id": 1, "caption": "the dog"},
    ],
}
COCO_BY_NUMBER = COCO | {
    "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}]
}
KARPATHY = {
    "images": [
        {"filename": "1.jpg", "split": "test", "sentences": [{"raw": "a dog"}, {"raw": "the dog"}]},
        {"filename": "2.jpg", "split": "val", "sentences": [{"raw": "two cats"}]},
    ]
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("coco.json", COCO),
        ("karpathy.json", KARPATHY),
        ("object.json", DOGS),
        ("results.json", [{"image_id": int(i), "captions": c} for i, c in DOGS.items()]),
        ("without_suffix", json.dumps([{"image_id": i, "caption": c} for i, c in DOGS.items()])),
        ("lines.jsonl", '{"id": 1, "caption": "a dog"}\n\n{"id": 1, "text": "the dog"}\n'
         '{"id": "2", "captions": ["two cats"]}\n'),
        ("lines", '{"id": 1, "captions": ["a dog", "the dog"]}\n{"id": 2, "caption": "two cats"}'),
        ("table.csv", "id,caption\n1,a dog\n2,two cats\n1,the dog\n"),
        ("table.txt", "\ufeffcaption,split, image\r\na dog,x,1\r\nthe dog,,1\r\ntwo cats,,2\r\n"),
        ("token.txt", "1#0\ta dog\n1#1\t the dog \n2#0\ttwo cats\n"),
    ],
)  # fmt: skip
def test_a_file_is_known_by_its_content(write: Write, name: str, content: Any) -> None:
    assert texts(write(name, content)) == DOGS


def test_plain_text_is_a_caption_a_line(write: Write) -> None:
    found = read_captions(write("plain.txt", "a dog, running\r\n\r\n{two} cats"))
    assert found.by_line
    assert [row.caption for (row,) in found.rows.values()] == ["a dog, running", "", "{two} cats"]


def test_what_captax_writes_is_read(write: Write) -> None:
    printed = "a b/1.jpg: a dog: asleep\r\n\nhttp://c.org/2.png?w=1: two cats\n"
    said = {"a b/1.jpg": ["a dog: asleep"], "http://c.org/2.png?w=1": ["two cats"]}
    assert texts(write("printed.txt", printed)) == said
    assert read_captions(write("plain.txt", printed + "no picture: cats")).by_line
    record = {"path": "a/1.jpg", "caption": "a dog", "score": -1.0, "alternatives": []}
    assert texts(write("caption.jsonl", record)) == {"a/1.jpg": ["a dog"]}
    evaluated = {"scores": {"BLEU-1": 0.5}, "captions": {"1": "a dog"}, "per_image": {"1": {}}}
    assert texts(write("evaluate.json", evaluated)) == {"1": ["a dog"]}


JSON_LINES = """\
{"path": "b/2.jpg", "error": "no such file", "id": 1, "text": "of the list"}
{"path": "a/1.jpg", "caption": "a dog", "score": -1.0, "id": 2}
"""
TABLE = """\
path,caption,score,error,id
b/2.jpg,,,no such file,1
a/1.jpg,a dog,-1.0,,2
"""


@pytest.mark.parametrize(
    ("name", "content"), [("o.jsonl", JSON_LINES), ("o", JSON_LINES), ("o.csv", TABLE)]
)
def test_pictures_that_captax_could_not_caption_have_none_and_its_paths_count(
    write: Write, name: str, content: str
) -> None:
    """The other columns are of the list that named the pictures."""
    hypotheses = read_captions(write(name, content))
    assert {image: rows[0].caption for image, rows in hypotheses.rows.items()} == {
        "a/1.jpg": "a dog"
    }
    references = read_captions(write("coco.json", COCO_BY_NUMBER))
    with pytest.raises(CaptaxError, match=r"image '2' has no caption in .* \('no such file'\); "):
        align(hypotheses, references)
    assert align(hypotheses, references, partial=True).hypotheses == {"1": "a dog"}


@pytest.mark.parametrize(("split", "ids"), [("test", ["1"]), ("val", ["2"]), ("dev", ["2"])])
def test_a_split_of_karpathys(write: Write, split: str, ids: list[str]) -> None:
    assert [*texts(write("karpathy.json", KARPATHY), split=split)] == ids


def test_several_files_are_several_references(write: Write) -> None:
    files = [write("a.txt", "a dog\ntwo cats\n"), write("b.txt", "the dog\ncats\n")]
    merged = merge([read_captions(file) for file in files])
    assert [[row.caption for row in rows] for rows in merged.rows.values()] == [
        ["a dog", "the dog"],
        ["two cats", "cats"],
    ]


def test_images_are_the_same_by_their_ids(write: Write) -> None:
    hypotheses = read_captions(write("h.json", {"2": "cats", "1": "dog"}))
    found = align(hypotheses, read_captions(write("r.json", COCO)))
    assert [*found.hypotheses.items()] == [("1", "dog"), ("2", "cats")]
    assert found.references == DOGS
    assert found.pictures == {"1": ("1", "one.jpg"), "2": ("2", "two.jpg")}


def test_or_else_by_the_names_of_their_pictures(write: Write) -> None:
    lines = '{"path": "x/two.png", "caption": "cats"}\n{"path": "one.jpg", "caption": "dog"}'
    found = align(read_captions(write("h.jsonl", lines)), read_captions(write("r.json", COCO)))
    assert found.hypotheses == {"1": "dog", "2": "cats"}
    assert found.pictures["2"] == ("x/two.png", "two.jpg")


def test_several_hypotheses_where_asked_for(write: Write) -> None:
    alternatives = [{"caption": "the cats", "score": -2.0}, {"caption": "cats", "score": -3.0}]
    record = {"path": "a/2.jpg", "caption": "two cats", "alternatives": alternatives}
    path = write("h.jsonl", record)
    assert texts(path) == {"a/2.jpg": ["two cats"]}
    references = read_captions(write("r.json", {"2": "cats"}))
    hypotheses = read_captions(path, alternatives=True)
    found = align(hypotheses, references, several=True)
    assert found.hypotheses == {"2": "two cats"}
    assert found.all_hypotheses == {"2": ["two cats", "the cats", "cats"]}
    with pytest.raises(CaptaxError, match="a second caption for image"):
        align(hypotheses, references)


INSTANCES = {
    "images": [{"id": 1}, {"id": 2}],
    "annotations": [
        {"image_id": 1, "category_id": 18},
        {"image_id": 1, "category_id": 18},
        {"image_id": 1, "category_id": 67},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 67, "name": "dining table"}],
}


@pytest.mark.parametrize("content", [INSTANCES, {"1": ["dog", "dining table"], "2": []}])
def test_objects_are_cocos_instances_or_names_by_image(write: Write, content: Any) -> None:
    assert read_objects(write("o.json", content)) == {"1": {"dog", "dining table"}, "2": set()}


def test_alternatives_that_cannot_be_read(write: Write) -> None:
    for wrong, message in (
        (None, "'alternatives' must be a list"),
        ([{"score": 1}], "'caption' is missing; add it"),
    ):
        path = write("h.jsonl", {"path": "1.jpg", "caption": "a dog", "alternatives": wrong})
        with pytest.raises(CaptaxError, match=f"h.jsonl, line 1: {message}"):
            read_captions(path, alternatives=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"o.json: not JSON \("),
        ([], r"o.json: expected an object: image id -> list of objects"),
        ({"1": "dog"}, r"o.json, '1': expected a list of objects, got str"),
        ({"1": ["dogg"]}, r"o.json, '1': COCO has no object 'dogg': did you mean 'dog'\?"),
        (INSTANCES | {"categories": []}, r"annotations\[0\]: no category has the id '18'"),
        (INSTANCES | {"annotations": {}}, r"o.json: 'annotations' must be a list"),
        ({"annotations": []}, r"o.json: 'categories' is missing; add it"),
        ({"1": [["dog"]]}, r"o.json, '1': COCO has no object \['dog'\]"),
        (
            INSTANCES | {"categories": [{"id": [], "name": ""}]},
            r"categories\[0\]: \[\] is no id",
        ),
        (
            INSTANCES | {"annotations": [{"image_id": 1, "category_id": {}}]},
            r"\[0\]: \{\} is no id",
        ),
        (
            INSTANCES | {"annotations": [{"image_id": 1}]},
            r"annotations\[0\]: 'category_id' is missing; add it",
        ),
    ],
)
def test_objects_that_cannot_be_read(write: Write, content: Any, message: str) -> None:
    with pytest.raises(CaptaxError, match=message):
        read_objects(write("o.json", content))


def test_part_of_the_references_where_asked_for(write: Write) -> None:
    hypotheses = read_captions(write("h.json", {"2": "cats"}))
    references = read_captions(write("r.json", COCO))
    assert align(hypotheses, references, partial=True).references == {"2": ["two cats"]}


RECORD = {"id": 1, "caption": "a dog"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "[", "{path}: not JSON"),
        ("x.json", "3", "{path}: neither a list nor an object"),
        ("x.json", "[]", "{path}: no captions"),
        ("x.txt", "", "{path}: no captions"),
        ("x.json", '{"1": "a", "1": "b"}', "{path}: not JSON (key '1' comes twice"),
        (
            "x.json",
            {"1": 3},
            "{path}, '1': image '1' has 3 as a caption; a caption must be a string",
        ),
        ("x.json", {"1": []}, "{path}, '1': image '1' has an empty list"),
        ("x.json", [RECORD, 3], "{path}, [1]: expected an object, got int"),
        ("x.json", [RECORD, {"caption": "a"}], "{path}, [1]: no image_id or id or image or"),
        (
            "x.json",
            [RECORD, {"id": 5, "x": ""}],
            "or text of image '5'; add one of them (found: id, x)",
        ),
        ("x.json", [{"id": 1.5, "caption": "a"}], "{path}, [0]: 1.5 is no id"),
        ("x.jsonl", '{"id": 1, "caption": "a"}\n{"id"', "{path}, line 2: not JSON"),
        ("x.jsonl", {"path": "a.png", "error": "bad"}, "{path}: no captions; give a file that has"),
        (
            "x.jsonl",
            {"path": "a.png", "fault": "bad"},
            "image 'a.png'; add one of them (found: path, fault)",
        ),
        ("x.jsonl", '{"id": 1, "caption": "a", "id": 2}', "line 1: not JSON (key 'id' comes twice"),
        ("x.json", {"annotations": COCO["annotations"]}, "{path}: 'images' is missing; add it"),
        ("x.csv", "a,b\n1,2\n", "{path}, line 2: no image_id or id or image"),
        (
            "x.csv",
            "id,caption\n1,a dog, running\n",
            "{path}, line 2: 3 fields, but the header has 2; put captions that contain commas",
        ),
        ("x.csv", 'id,caption\n1,"a dog\n', "{path}, line 2: unexpected end of data"),
        ("x.txt", "a.jpg#0\ta dog\na dog\n", "{path}, line 2: expected picture.jpg#number<tab>"),
        ("x.json", {"images": 3, "annotations": []}, "{path}: 'images' must be a list"),
        (
            "x.json",
            {"images": [{}], "annotations": []},
            "{path}, images[0]: 'id' is missing; add it",
        ),
        (
            "x.json",
            {"images": [{"id": 4}, {"id": 4}], "annotations": []},
            "{path}, images[1]: image '4' comes twice",
        ),
        ("x.json", COCO | {"annotations": COCO["annotations"][:1]}, "image '2' has no captions"),
        ("x.json", {"images": KARPATHY["images"] * 2}, "images[2]: image '1' comes twice"),
        (
            "x.json",
            {"images": [KARPATHY["images"][0] | {"sentences": []}]},
            "{path}, images[0]: image '1' has no captions",
        ),
    ],
)
def test_a_malformed_file_is_one_line(write: Write, name: str, content: Any, message: str) -> None:
    path = write(name, content)
    with pytest.raises(CaptaxError) as error:
        read_captions(path)
    assert message.format(path=path) in str(error.value)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CaptaxError, match=r"nowhere\.json: cannot be read \(No such file"):
        read_captions(tmp_path / "nowhere.json")
    (tmp_path / "latin.txt").write_bytes(b"a caf\xe9")
    with pytest.raises(CaptaxError, match="byte 5 is not UTF-8"):
        read_captions(tmp_path / "latin.txt")


@pytest.mark.parametrize("name", ["x.json", "x.csv"])
def test_only_karpathys_files_have_splits(write: Write, name: str) -> None:
    path = write(name, "id,caption\n1,a dog\n" if name == "x.csv" else COCO)
    with pytest.raises(CaptaxError, match="has no splits; leave out --split test"):
        read_captions(path, split="test")
    with pytest.raises(CaptaxError, match="no captions of split train; use another --split"):
        read_captions(write("k.json", KARPATHY), split="train")


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        (
            [RECORD, RECORD],
            DOGS,
            "{h}, [1]: a second caption for image '1' (the first: {h}, [0]); keep one",
        ),
        ({"1": "a", "5": "b"}, DOGS, "{h}, '5': image '5' has no references in {r}; add"),
        ({"5": "b"}, DOGS, "{h}, '5': image '5' has no references in {r}; add"),
        ({"2": "a"}, DOGS, "{r}, '1': image '1' has no caption in {h}; caption every image"),
        ({"2": "a"}, DOGS | {"3": "b"}, "'1' has no caption in {h}; 1 more have none; caption"),
        ({"1": "a"}, {"1": ["b", " "]}, "{r}, '1': image '1' has an empty reference"),
        ({"1": "a"}, {"a/x.jpg": "b", "b/x.png": "c"}, "and 'b/x.png' are both named 'x'"),
        ("a dog\n", DOGS, "{h}: plain text is matched line by line with other plain text"),
        (
            "a dog\n",
            "a\nb\n",
            "{r}: 2 lines, but {h} has 1; each line must describe the same image",
        ),
    ],
)
def test_files_that_do_not_fit_name_the_image_and_the_file(
    write: Write, hypotheses: Any, references: Any, message: str
) -> None:
    ours, theirs = (
        read_captions(write(name + (".txt" if isinstance(content, str) else ".json"), content))
        for name, content in (("h", hypotheses), ("r", references))
    )
    with pytest.raises(CaptaxError) as error:
        align(ours, theirs)
    assert message.format(h=ours.path, r=theirs.path) in str(error.value)
    assert "\n" not in str(error.value)
