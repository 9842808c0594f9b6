"""Files of a job, archives and tables that somebody else wrote in order to do harm."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from captax.collection.beside import Beside, TextSidecars
from captax.collection.captioning import Wanted
from captax.collection.cluster import _Shard
from captax.collection.item import CollectionError, Item
from captax.collection.items import find_items
from captax.collection.job import caption_collection
from captax.collection.journal import JOURNAL, LINE_LIMIT, Journal
from captax.collection.outputs import write_csv
from captax.collection.plan import Plan
from captax.collection.record import Record
from captax.data.tables import read_records
from captax.errors import CaptaxError
from captax.images import ImageError
from captax.metrics.caption_files import read_captions
from captax.pipelines.captioner import Captioner


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


def test_a_tar_member_with_holes_is_an_error_of_one_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    sparse = tarfile.TarInfo("holes.jpg")
    sparse.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % 2**30  # its size with the holes
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(good := tarfile.TarInfo("good.jpg"), io.BytesIO())
    path.write_bytes(bytes(header) + good.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    holes, whole = find_items([str(path)])
    with pytest.raises(ImageError, match=r"^is stored with holes; pack the archive again"):
        holes.source()
    assert whole.source() == b""


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_pipes_and_devices_in_a_folder_cost_one_record_each(
    pictures: Callable[..., Path], tiny_captioner: Captioner
) -> None:
    """Nothing waits for them, and the pictures beside them are captioned."""
    folder = pictures("a.png", "z.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "null.png").symlink_to(os.devnull)
    (folder / "huge.png").touch()
    os.truncate(folder / "huge.png", 2**40)
    plan = Plan((str(folder),), folder / "out.jsonl", follow_links=True)
    summary = plan.run(tiny_captioner)
    assert (summary.captioned, summary.errors.total()) == (2, 3)
    errors = {
        Path(record["path"]).name: record["error"]
        for record in map(json.loads, (folder / "out.jsonl").read_text().splitlines())
        if "error" in record
    }
    assert set(errors) == {"pipe.png", "null.png", "huge.png"}
    assert all("is not a regular file" in errors[name] for name in ("pipe.png", "null.png"))
    assert "not a picture that can be read" in errors["huge.png"]


def test_records_of_no_picture_are_counted(tmp_path: Path, pictures: Callable[..., Path]) -> None:
    """A journal may be somebody else's, and pictures may have been removed since."""
    folder = pictures("a.jpg")
    items = list(find_items([str(folder)]))
    records = [Record(each, (("said", -1.0),)) for each in (items[0].name, "x", "y")]
    with Journal(tmp_path / "job", {}) as journal:
        journal.append(records)
    with Journal(tmp_path / "job", {}) as journal:
        engine = lambda wanted, copies: iter([list(wanted)] if list(wanted) else [])  # noqa: E731
        summary = caption_collection(items * 2, engine, Beside(TextSidecars()), journal=journal)
    assert summary.unmatched == 2
    assert summary.lines()[1] == (
        "captioned in an earlier run, and not among the pictures given now: 2 pictures; the "
        "captions were left as they are"
    )
    with Journal(tmp_path / "another", {}) as journal:
        again = caption_collection(items, engine, Beside(TextSidecars()), journal=journal)
    assert again.unmatched == 0


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Expecting value"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff", "can't decode"),
        (b'[{"name": "a"}]', "a record has captions or an error"),
        (b'[{"name": "a", "captions": [["x", "y"]]}]', "could not convert"),
        (b'[{"name": "a", "captions": [["x", -1]], "odd": 1}]', "odd"),
        (b'[{"name": "b", "captions": [["x", -1]]}]', "it is about other pictures"),
        (b"[]", "it is about other pictures"),
        (None, "is a link"),
    ],
)
def test_a_shard_of_a_cluster_that_no_worker_wrote_is_refused(
    content: bytes | None, why: str, tmp_path: Path
) -> None:
    picture = tmp_path / "a.jpg"
    shard = _Shard(tmp_path, {}, [Wanted(Item("a", picture, PurePosixPath("a.jpg")), 0)])
    if content is None:
        shard.file.symlink_to(os.devnull)
    else:
        shard.file.write_bytes(content)
    with pytest.raises(CaptaxError, match=why) as refused:
        shard.read()
    assert str(shard.file) in str(refused.value) and "\n" not in str(refused.value)


def test_a_shard_of_a_cluster_names_no_places(tmp_path: Path) -> None:
    item = Item("a", tmp_path / "a.jpg", PurePosixPath("a.jpg"))
    shard = _Shard(tmp_path, {}, [Wanted(item, 0, "target", "before")])
    shard.file.write_text('[{"name": "a", "captions": [["x", -1]], "target": "/etc/passwd"}]')
    assert shard.read() == [Record("a", (("x", -1.0),), target="target", before="before")]


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
