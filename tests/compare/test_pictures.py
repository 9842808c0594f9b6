"""Which pictures are compared, and which of them a file's captions are of."""

import json
from pathlib import Path

import pytest

from captax.compare.pictures import match_captions, open_pictures
from captax.errors import CaptaxError
from captax.metrics.caption_files import read_captions
from compare.conftest import draw


def test_a_folder_has_pictures_and_a_dataset_references(here: Path) -> None:
    (here / "p" / "notes.md").write_text("no picture")
    found = open_pictures("p", limit=3)
    assert [(each.name, each.references) for each in found] == [
        ("0.png", ()), ("1.png", ()), ("2.png", ())
    ]  # fmt: skip
    (here / "p" / "1.txt").write_text("a dog\n")
    with pytest.raises(CaptaxError, match=r"no \.txt of its name .* add --no-references"):
        open_pictures("p")
    for name in ("0", "2", "3"):
        (here / "p" / f"{name}.txt").write_text("a cat\ntwo cats\n")
    assert [(e.name, e.references) for e in open_pictures("p", limit=2)] == [
        ("0.png", ("a cat", "two cats")), ("1.png", ("a dog",))
    ]  # fmt: skip
    assert len(open_pictures("p", references=False)) == 4
    with pytest.raises(CaptaxError, match="leave out --split"):
        open_pictures("p", split="dev", references=False)


@pytest.mark.parametrize("name", ["{n}.png", "p/{n}.png", "{here}/p/{n}.png", "{n}", "x\\{n}.jpg"])
def test_captions_find_their_pictures_by_any_name(name: str, here: Path) -> None:
    rows = [{"file_name": name.format(n=n, here=here), "caption": f"said {n}"} for n in range(3)]
    rows.append({"file_name": "other.png", "caption": "of another"})
    Path("c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    captions, failed, others = match_captions(read_captions("c.jsonl"), open_pictures("p"), "p")
    assert captions == {f"{n}.png": f"said {n}" for n in range(3)}
    assert (failed, others) == ({}, 1)


def test_a_name_that_two_pictures_have_says_nothing(here: Path) -> None:
    draw(here / "p" / "sub", 1)
    pictures = open_pictures("p")
    Path("c.jsonl").write_text('{"path": "sub/0.png", "caption": "below"}')
    captions, _, _ = match_captions(read_captions("c.jsonl"), pictures, "p")
    assert captions == {"sub/0.png": "below"}
    Path("c.jsonl").write_text('{"path": "elsewhere/0.png", "caption": "which?"}')
    with pytest.raises(CaptaxError, match="none of its captions is of a picture in p"):
        match_captions(read_captions("c.jsonl"), pictures, "p")


def test_lines_are_matched_in_order_and_failures_keep_their_reasons(here: Path) -> None:
    pictures = open_pictures("p")
    Path("c.txt").write_text("one\ntwo\nthree\nfour\n")
    captions, _, _ = match_captions(read_captions("c.txt"), pictures, "p")
    assert captions["2.png"] == "three"
    with pytest.raises(CaptaxError, match="4 lines of plain text for 3 pictures"):
        match_captions(read_captions("c.txt"), pictures[:3], "p")
    rows = [
        '{"path": "p/0.png", "caption": "one", "score": 0}',
        '{"path": "p/1.png", "error": "x"}',
    ]
    Path("c.jsonl").write_text("\n".join(rows))
    captions, failed, _ = match_captions(read_captions("c.jsonl"), pictures, "p")
    assert (captions, failed) == ({"0.png": "one"}, {"1.png": "x"})
    Path("c.jsonl").write_text("\n".join([rows[0], rows[0].replace("p/0.png", "0.png")]))
    with pytest.raises(CaptaxError, match=r"a second caption of 0\.png"):
        match_captions(read_captions("c.jsonl"), pictures, "p")
