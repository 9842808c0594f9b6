"""A job that is run again looks at what is there, and not only at what it did."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from captax.collection.archives import _zip
from captax.collection.beside import Beside, TextSidecars, XmpSidecars
from captax.collection.choices import CaptionFormat, Compare, OnExists
from captax.collection.items import find_items
from captax.collection.job import Output, Summary, caption_collection
from captax.collection.journal import Journal
from captax.collection.outputs import OneFile
from captax.collection.plan import Plan
from captax.collection.record import as_line

Run = Callable[..., Summary]


@pytest.fixture
def job(tmp_path: Path, engine: Callable[..., Callable[..., object]]) -> Run:
    """`job(source, output)`: caption `source`; pictures of more bytes get more captions."""

    def run(source: Path, output: Output, captions: int = 1, **options: object) -> Summary:
        with Journal(tmp_path / "job", {}) as journal:
            return caption_collection(
                find_items([str(source)]),
                engine(captions=captions),
                output,
                journal=journal,
                **options,
            )

    return run


def replace(picture: Path) -> None:
    status = picture.stat()
    picture.write_bytes(picture.read_bytes() + b"more")
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_replaced_picture_is_captioned_again_in_its_place(
    pictures: Callable[..., Path], tmp_path: Path, job: Run
) -> None:
    folder = pictures("a.jpg", "b.jpg", "c.jpg")
    out = tmp_path / "out.txt"
    job(folder, OneFile(out, CaptionFormat.text))
    replace(folder / "b.jpg")
    summary = job(folder, OneFile(out, CaptionFormat.text), captions=2)
    assert (summary.before, summary.captioned, summary.changed) == (2, 1, 1)
    assert "changed since an earlier run, and looked at again: 1 picture" in summary.lines()
    expected = ["a.jpg: 0 a", "b.jpg: 0 b", "b.jpg: 1 b", "c.jpg: 0 c"]
    assert out.read_text().split("\n")[:-1] == [f"{folder}/{line}" for line in expected]
    again = job(folder, OneFile(out, CaptionFormat.text))  # and also when it is read back
    assert (again.before, again.captioned, again.changed) == (3, 0, 0)
    assert out.read_text().split("\n")[:-1] == [f"{folder}/{line}" for line in expected]


@pytest.mark.parametrize("kind", [TextSidecars(), XmpSidecars()], ids=["text", "xmp"])
def test_a_deleted_sidecar_is_written_again(
    pictures: Callable[..., Path], job: Run, kind: TextSidecars | XmpSidecars
) -> None:
    folder = pictures("a.jpg", "b.jpg", "c.jpg")
    job(folder, Beside(kind))
    kind.file(folder / "a.jpg").unlink()
    summary = job(folder, Beside(kind))
    assert (summary.before, summary.captioned, summary.lost) == (2, 1, 1)
    assert kind.read(folder / "a.jpg").strip() == "0 a"


@pytest.mark.parametrize("policy", list(OnExists))
def test_a_replaced_picture_replaces_what_the_job_wrote_and_nothing_of_a_person(
    pictures: Callable[..., Path], job: Run, policy: OnExists
) -> None:
    folder = pictures("a.jpg", "b.jpg", "c.jpg")
    (folder / "b.txt").write_text("mine\n")
    job(folder, Beside(TextSidecars(), policy=policy))
    (folder / "c.txt").write_text("edited\n")
    for name in "abc":
        replace(folder / f"{name}.jpg")
    job(folder, Beside(TextSidecars(), policy=policy), captions=2)
    said = {name: (folder / f"{name}.txt").read_text().split("\n")[:-1] for name in "abc"}
    assert said["a"] == ["0 a", "1 a"]
    kept = {OnExists.append: ["mine", "0 b", "1 b"], OnExists.prepend: ["0 b", "1 b", "mine"]}
    assert said["b"] == kept.get(policy, ["0 b", "1 b"] if policy == "overwrite" else ["mine"])
    assert ("edited" in said["c"]) is (policy is not OnExists.overwrite)


def test_a_repaired_picture_is_tried_again_and_a_broken_one_named(
    pictures: Callable[..., Path], tmp_path: Path, job: Run
) -> None:
    folder = pictures("a.jpg", "bad.jpg")
    listed = tmp_path / "list.txt"
    listed.write_text(f"{folder}/bad.jpg\n{folder}/a.jpg\n")
    out = OneFile(tmp_path / "out.jsonl", CaptionFormat.jsonl)
    assert job(listed, out).errors.total() == 1
    summary = job(listed, out)
    assert summary.failed_before == 1
    [line] = [line for line in summary.lines() if "--retry-errors" in line]
    assert line.startswith("failed in an earlier run, and not tried again: 1 picture;")
    replace(folder / "bad.jpg")
    summary = job(listed, out)
    assert (summary.changed, summary.failed_before, summary.errors.total()) == (1, 0, 1)


def test_a_repaired_list_leaves_no_error_and_no_picture_behind(
    pictures: Callable[..., Path], tmp_path: Path, job: Run
) -> None:
    pictures("a.jpg", "b.jpg", "c.jpg")
    listed = tmp_path / "list.jsonl"
    rows = ['{"path": "pictures/a.jpg"}', '{"path": "pictures/b.jpg"', '{"path": ""}']
    listed.write_text("\n".join([*rows, '{"path": "pictures/c.jpg"}', '{"path": "bad.jpg"}']))
    out = OneFile(tmp_path / "out.jsonl", CaptionFormat.jsonl)
    summary = job(listed, out, listed=tmp_path / "out")
    assert (summary.captioned, summary.errors.total()) == (2, 3)
    assert job(listed, out).lines()[0].startswith("5 pictures: 2 captioned before, 3 failed in ")

    listed.write_text('{"path": "pictures/a.jpg"}\n{"path": "pictures/b.jpg"}\n{"path": ""}\n')
    seen: list[int] = []
    summary = job(listed, out, watch=lambda _, summary: seen.append(summary.settled))
    assert (summary.captioned, summary.before, summary.failed_before) == (1, 1, 1)
    assert summary.settled == 3 and max(seen) <= 3
    assert summary.unmatched == 1  # c.jpg, which may come back
    paths = [json.loads(line)["path"] for line in out.path.read_text().splitlines()]
    assert [Path(path).name for path in paths] == ["a.jpg", "list.jsonl, line 3", "c.jpg", "b.jpg"]


def test_what_changed_is_told_by_content_when_asked(
    pictures: Callable[..., Path], tmp_path: Path, job: Run
) -> None:
    folder = pictures("a.jpg", "b.jpg")
    out = OneFile(tmp_path / "out.jsonl", CaptionFormat.jsonl)
    job(folder, out, compare=Compare.content)
    os.utime(folder / "a.jpg", (1, 1))
    (folder / "b.jpg").write_bytes(bytes((folder / "b.jpg").stat().st_size))
    assert job(folder, out, compare=Compare.content).changed == 1


def test_a_picture_in_an_archive_is_compared_too(
    pictures: Callable[..., Path], tmp_path: Path, job: Run
) -> None:
    picture = pictures("a.jpg") / "a.jpg"
    out = OneFile(tmp_path / "out.jsonl", CaptionFormat.jsonl)
    for number, extra in enumerate((b"", b"", b"more")):
        archive = tmp_path / "z.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("a.jpg", picture.read_bytes() + extra)
            file.writestr("b.jpg", picture.read_bytes())
        _zip.cache_clear()  # as in another process
        assert job(archive, out).changed == (number == 2)


def test_a_copy_of_what_a_picture_was_is_its_own(
    pictures: Callable[..., Path], tmp_path: Path, job: Run
) -> None:
    folder = pictures("a~1.jpg", "b~1.jpg", "c~2.jpg")
    out = OneFile(tmp_path / "out.jsonl", CaptionFormat.jsonl)
    assert job(folder, out, dedupe=0).copies == 1
    replace(folder / "a~1.jpg")
    assert job(folder, out, dedupe=0).captioned == 1
    assert as_line({"path": f"{folder}/c~2.jpg"})[1:-2] in out.path.read_text()


def test_a_folder_has_one_name() -> None:
    assert Plan(("photos/",), Path("o.txt")).named == Plan(("photos",), Path("o.txt")).named
