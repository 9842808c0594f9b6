"""What captax wrote, or reads as captions, is not told as files that were skipped."""

import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from captax.collection.items import find_items
from captax.collection.outputs import write_csv, write_json_lines
from captax.collection.own_files import OwnFiles
from captax.collection.record import Record

OWN = (
    *("a.txt", "a.CAPTION", "b.jpg.xmp", "b.xmp", "sub/c.json", "metadata.jsonl"),
    *("captax-sidecar.errors.jsonl", "out.jsonl", "out.jsonl.review.jsonl", "earlier.csv"),
    *("earlier.csv.errors.jsonl", "sheet.html", "a.b.txt"),
)
OTHERS = (
    "notes.txt",
    "c.txt",
    "a.mp4",
    "later.csv",
    "x.html",
    "sub/a.txt",
    "a.b.c.txt",
    "b.jpg.md",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".earlier.csv.captax").mkdir()
    for name in ("a.jpg", "b.jpg", "sub/c.PNG", "a.b.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    for name in (*OWN, *OTHERS):
        (tmp_path / name).write_text("a dog")
    return tmp_path


def counted(names: tuple[str, ...]) -> Counter[str]:
    return Counter(Path(name).suffix for name in names)


def test_a_folder(folder: Path) -> None:
    written = frozenset(str(folder / name) for name in ("out.jsonl", "sheet.html"))
    left_out: Counter[str] = Counter()
    assert len(list(find_items([str(folder)], left_out, OwnFiles(written)))) == 4
    assert left_out == counted(OTHERS)


def test_lists_of_earlier_runs_are_known_by_how_they_begin(tmp_path: Path) -> None:
    said = Record('a "dog".jpg', (("a dog", -0.5), ("a cat", -1.5)), columns={"id": "7"})
    failed = Record("b.jpg", error="is broken")
    for name, first in (("said", said), ("failed", failed)):
        write_csv(tmp_path / f"{name}.csv", [first, said].copy)
        write_json_lines(tmp_path / f"{name}.jsonl", [first, said].copy)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    left_out: Counter[str] = Counter()
    list(find_items([str(tmp_path)], left_out))
    assert not left_out
    (tmp_path / "mine.csv").write_text("path,caption,score\na.jpg,a dog,1\n")
    (tmp_path / "mine.jsonl").write_text('{"path": "a.jpg", "caption": "a dog"}\n')
    list(find_items([str(tmp_path)], left_out))
    assert left_out == {".csv": 1, ".jsonl": 1}


def test_sidecars_of_another_suffix(folder: Path) -> None:
    left_out: Counter[str] = Counter()
    list(find_items([str(folder / "sub")], left_out, OwnFiles(suffix=".cap")))
    assert left_out == {".txt": 1}
    (folder / "sub" / "c.cap").touch()
    list(find_items([str(folder / "sub")], left_out, OwnFiles(suffix=".cap")))
    assert left_out == {".txt": 2}


def test_captions_in_an_archive_may_come_before_or_after_their_picture(folder: Path) -> None:
    with tarfile.open(folder / "x.tar", "w") as archive:
        for name in ("a.txt", "notes.txt", "a.jpg", "sub/c.PNG", "sub/c.json", "a.mp4"):
            archive.add(folder / name, name)
    left_out: Counter[str] = Counter()
    list(find_items([str(folder / "x.tar")], left_out))
    assert left_out == {".txt": 1, ".mp4": 1}
