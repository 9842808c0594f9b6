"""Files of a job, archives and tables that somebody else wrote in order to do harm."""

import io
import json
import tarfile
from pathlib import Path, PurePosixPath

import pytest

from captax.collection.beside import Beside, TextSidecars
from captax.collection.item import CollectionError, Item
from captax.collection.items import find_items
from captax.collection.job import caption_collection
from captax.collection.journal import JOURNAL, LINE_LIMIT, Journal
from captax.collection.outputs import write_csv
from captax.collection.record import Record
from captax.data.tables import read_records
from captax.images import ImageError
from captax.metrics.caption_files import read_captions


def test_a_journal_names_no_places(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    picture = inside / "a.jpg"
    records = [
        Record(str(picture), (("said", -1.0),), target=str(outside / "a.jpg")),
        Record("another", (("evil", -1.0),), target=str(outside / "b.jpg")),
    ]
    with Journal(tmp_path / "job", {}) as journal:
        journal.append(records)
    items = [Item(str(picture), picture, PurePosixPath("a.jpg"))]
    with Journal(tmp_path / "job", {}) as journal:
        engine = lambda wanted, copies: iter([list(wanted)] if list(wanted) else [])  # noqa: E731
        caption_collection(items, engine, Beside(TextSidecars()), journal=journal)
    assert list(outside.iterdir()) == []
    assert (inside / "a.txt").read_text() == "said\n"


@pytest.mark.parametrize(
    "record",
    [
        {"name": "a"},
        {"name": "a", "captions": [["\ud800", 1.0]]},
        {"name": "a", "error": "x", "odd": 1},
    ],
)
def test_a_record_that_no_job_wrote_is_refused(record: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    lines = [{"captax": 1, "settings": {}}, {"batch": [record]}]
    path = tmp_path / "job" / JOURNAL
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(CollectionError, match=r"line 2: is damaged"):
        Journal(tmp_path / "job", {"other": 1}).__enter__()


def test_a_line_without_an_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    with (tmp_path / "job" / JOURNAL).open("wb") as file:
        file.truncate(LINE_LIMIT * 2)
    with pytest.raises(CollectionError, match="is not a journal"):
        Journal(tmp_path / "job", {}).__enter__()


def test_a_tar_that_claims_too_much_is_an_error_of_one_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo("good.jpg")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"good"))
    huge = tarfile.TarInfo("huge.jpg")
    huge.size = 2**40
    path.write_bytes(path.read_bytes()[:1024] + huge.tobuf(tarfile.GNU_FORMAT) + b"x" * 512)
    good, *bad = find_items([str(path)])
    assert good.source() == b"good" and bad
    for item in bad:
        with pytest.raises(ImageError, match=r"more bytes|unexpected end"):
            item.source()


@pytest.mark.parametrize("kind", [b"x", b"L"])  # pax, and the long names of GNU
def test_a_tar_header_that_claims_too_much_is_one_error(kind: bytes, tmp_path: Path) -> None:
    header = tarfile.TarInfo("a")
    header.type, header.size = kind, 2**40
    path = tmp_path / "a.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    (item,) = find_items([str(path)])
    with pytest.raises(ImageError, match="not a complete tar file"):
        item.source()


@pytest.mark.parametrize("safe", [True, False])
def test_a_csv_is_safe_and_is_read_back(safe: bool, tmp_path: Path) -> None:
    texts = ["=1+1", "+a", "-b", "@c", "\td", "'=e", "''-f", "'tis", "a dog", "\uff1dg"]
    records = [Record(f"{text}{n}.jpg", ((text, -1.5),)) for n, text in enumerate(texts)]
    path = tmp_path / "a.csv"
    write_csv(path, lambda: records, safe=safe)
    cells = [row["caption"] for _, row in read_records(path)]
    assert cells == texts
    read = read_captions(path).rows
    assert [rows[0].caption for rows in read.values()] == [text.strip() for text in texts]
    assert list(read) == [record.name for record in records]
    written = path.read_text()
    assert ("'=1+1" in written) is safe and ",-1.5" in written
