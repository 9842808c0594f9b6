import json
from collections.abc import Callable
from pathlib import Path

import pytest

import captax.data
from captax.data import DataError, Pair

Layout = Callable[[dict[str, str]], Path]

LONG, SHORT = "A dog ran,\nthen slept", 'A "dog"'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", json.dumps({"article": LONG, "highlights": SHORT, "url": "x"}) + "\n\n"),
        ("a.jsonl", json.dumps({"translation": {"en": LONG, "fr": SHORT}})),
        ("a.json", json.dumps([{"document": LONG, "summary": SHORT, "text": "-"}])),
        ("a.csv", f'en,fr\n"{LONG}","A ""dog"""\n'),
        ("a.csv", f'\ufeffinput, output\n"{LONG}","A ""dog"""\n'),
    ],
)
def test_a_table_by_its_usual_columns(layout: Layout, name: str, content: str) -> None:
    root = layout({name: content})
    assert captax.data.open_pairs(root / name) == [Pair("1", LONG, SHORT)]
    assert captax.data.open_pairs(root) == [Pair("1", LONG, SHORT)]


def test_tsv_is_not_quoted(layout: Layout) -> None:
    root = layout({"a.tsv": 'id\tsource\ttarget\nx7\t"Once\tA "dog"\n'})
    assert captax.data.open_pairs(root / "a.tsv") == [Pair("x7", '"Once', SHORT)]


def test_columns_may_be_named(layout: Layout) -> None:
    path = layout({"a.csv": "question,answer,hint\nWhy?,So.,Because\n"}) / "a.csv"
    assert captax.data.open_pairs(path) == [Pair("1", "Why?", "So.")]
    named = captax.data.open_pairs(path, source="hint", target="question")
    assert named == [Pair("1", "Because", "Why?")]
    with pytest.raises(
        DataError, match=r"line 2: no column is named reply; choose from question, answer"
    ):
        captax.data.open_pairs(path, source="question", target="reply")
    with pytest.raises(DataError, match="give both source and target"):
        captax.data.open_pairs(path, source="question")


def test_two_files_line_by_line(layout: Layout) -> None:
    root = layout(
        {
            "train.source": "one\u2028more\ntwo\n",
            "train.target": "1\n2",
            "val.source": "three\n",
            "val.target": "3\n",
        }
    )
    train = captax.data.open_pairs(root, split="train")
    assert train == [Pair("train/1", "one\u2028more", "1"), Pair("train/2", "two", "2")]
    assert captax.data.open_pairs(root, split="dev") == [Pair("val/1", "three", "3")]
    assert len(captax.data.open_pairs(root)) == 3
    (root / "train.target").write_text("1\n2\n3\n")
    with pytest.raises(DataError, match=r"train\.source has 2 lines and train\.target has 3"):
        captax.data.open_pairs(root)
    (root / "train.target").unlink()
    with pytest.raises(DataError, match=r"train\.target: cannot be read"):
        captax.data.open_pairs(root)


def test_splits(layout: Layout) -> None:
    row = '{"source": "a", "target": "b"}\n'
    root = layout({"train.jsonl": row * 2, "validation.jsonl": row, "one/pairs.jsonl": row * 60})
    assert [p.id for p in captax.data.open_pairs(root, split="train")] == ["train/1", "train/2"]
    assert [p.id for p in captax.data.open_pairs(root, split="dev")] == ["validation/1"]
    with pytest.raises(DataError, match="no test split; choose dev or train"):
        captax.data.open_pairs(root, split="test")
    with pytest.raises(DataError, match="no dev split; choose train"):
        captax.data.open_pairs(root / "train.jsonl", split="dev")
    train, dev = (captax.data.open_pairs(root / "one", split=split) for split in ("train", "dev"))
    assert dev and len(train) > len(dev) and len(train) + len(dev) == 60


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.csv", "source,target\na,b\nc,\n", r"a\.csv, line 3: its target is empty"),
        (
            "a.csv",
            "source,target\na\n",
            r"a\.csv, line 2: this row has 1 fields and the header has 2",
        ),
        ("a.tsv", "source\ttarget\na\tb\tc\n", r"line 2: this row has 3 fields .* replace tabs"),
        ("a.csv", "left,right\na,b\n", "line 2: cannot tell source from target among left, right"),
        ("a.csv", "en,fr,de\na,b,c\n", "line 2: cannot tell source from target among en, fr, de"),
        ("a.csv", "source,target\n", "no pairs"),
        ("a.jsonl", '{"source": "a", "target": 3}', "line 1: its target must be a string; got 3"),
        ("a.jsonl", '{"source": "a", "target": "b"}\n{', "line 2: not JSON"),
        ("a.jsonl", '{"id": 1, "source": "a", "target": "b"}\n' * 2, "1 is the id of two pairs"),
        ("a.json", '{"source": "a"}', "expected a list of objects, got dict"),
        ("a.json", "{}\n{}", r"one object a line, name it \.jsonl"),
        ("a.txt", "a\tb\n", r"text pairs are in \.jsonl"),
    ],
)
def test_refuses(layout: Layout, name: str, content: str, fault: str) -> None:
    root = layout({name: content})
    with pytest.raises(DataError, match=fault) as raised:
        captax.data.open_pairs(root / name)
    assert str(root) in str(raised.value) and "\n" not in str(raised.value)


def test_refuses_folders_without_pairs(layout: Layout) -> None:
    root = layout({"a.txt": ""})
    with pytest.raises(DataError, match=r"no text pairs; looked for train\.source"):
        captax.data.open_pairs(root)
    with pytest.raises(DataError, match="nowhere: no such directory or file"):
        captax.data.open_pairs("nowhere")
