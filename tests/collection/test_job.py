"""A job that dies anywhere, any number of times, ends as one that never did."""

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import captax.files
from captax.collection import beside, description, outputs
from captax.collection.beside import Beside, TextSidecars, XmpSidecars
from captax.collection.caption_template import CaptionTemplate
from captax.collection.choices import CaptionFormat, OnExists
from captax.collection.items import find_items
from captax.collection.job import Output, Shape, Summary, caption_collection, reason_of
from captax.collection.journal import Journal
from captax.collection.outputs import OneFile
from captax.collection.record import Record
from captax.errors import CaptaxError
from captax.files import OutputError


class Died(BaseException):
    """What no code may catch, as a kill is caught by none."""


class Death:
    """Counts steps, and dies at one of them."""

    def __init__(self, at: int | None):
        self.at = at
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        if self.at is not None and self.steps > self.at:
            raise Died  # also from whatever is tried on the way out


class Dying:
    """A file that is written byte by byte, any of which may be the last."""

    def __init__(self, file: Any, death: Death):
        self._file = file
        self._death = death

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, content: Any) -> int:
        for part in (content[: len(content) // 2], content[len(content) // 2 :]):
            self._death.step()
            self._file.write(part)
            self._file.flush()
        return len(content)


@contextlib.contextmanager
def dying(death: Death) -> Iterator[None]:
    """Within, each write and each renaming is a step, and partial files are left by the dead."""
    write_text, replacing, append = captax.files.write_text, captax.files.replacing, Journal.append

    @contextlib.contextmanager
    def torn(path: Path, **where: Any) -> Iterator[BinaryIO]:
        with contextlib.ExitStack() as kept:
            with replacing(path, **where) as file:
                try:
                    death.step()
                    yield file
                    death.step()
                except Died:  # what a kill would leave
                    file.flush()
                    partial = Path(str(file.name))
                    left = partial.read_bytes()
                    kept.callback(partial.write_bytes, left[: len(left) // 2])
                    raise
            death.step()

    def write(path: Path, text: str, **where: Any) -> None:
        with torn(path, **where) as file:
            file.write(text.encode())

    def take_down(self: Journal, records: Any) -> None:
        death.step()
        file = self._file
        self._file = Dying(file, death)
        try:
            append(self, records)
        finally:
            self._file = file
        death.step()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beside, "write_text", write)
        patch.setattr(outputs, "replacing", torn)
        patch.setattr(description, "replacing", torn)
        patch.setattr(Journal, "append", take_down)
        patch.setattr("os.fsync", lambda _: None)
        yield
    assert captax.files.write_text is write_text


@dataclasses.dataclass(frozen=True)
class Job:
    """A collection, and what is made of it; names say what a picture is like."""

    names: tuple[str, ...]
    said: tuple[int, ...]  # those of `names` that have a sidecar before
    kind: str
    policy: OnExists
    batch_size: int
    captions: int
    min_score: float | None
    dedupe: int | None

    def make(self, folder: Path) -> None:
        for name in self.names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
        for i in self.said:
            path = folder / self.names[i]
            if self.kind == "xmp":
                XmpSidecars().write(path, ["said before"])
            else:
                path.with_suffix(".txt").write_text(f"said of {path.stem}\n\n")

    def output(self) -> Output:
        if self.kind in ("sidecar", "xmp", "folder"):
            kind = XmpSidecars() if self.kind == "xmp" else TextSidecars()
            return Beside(kind, Path("out") if self.kind == "folder" else None, self.policy)
        return OneFile(Path(f"captions.{self.kind}"), CaptionFormat(self.kind))

    def run(self, engine: Any) -> Summary:
        with Journal(Path("job"), {}) as journal:
            return caption_collection(
                find_items(["pictures"]),
                engine,
                self.output(),
                journal=journal,
                shape=Shape(CaptionTemplate("{caption}, {name}", "<", ">"), self.min_score),
                dedupe=self.dedupe,
                listed=Path("captions"),
            )


def files(folder: Path) -> dict[str, bytes]:
    """All files but the journal's."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name != "job"
    }


@contextlib.contextmanager
def apart(job: Job) -> Iterator[Path]:
    """A fresh folder with the job's pictures, as the working directory."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        job.make(Path("pictures"))
        yield Path(folder)


NAMES = st.sampled_from(
    ["a.jpg", "a.png", "b.jpg", "sub/a.jpg", "bad.jpg", "worse bad.png", "é.jpg", "new\nline.png"]
    + [f"copy{n}~{like}.png" for n, like in itertools.product(range(3), "xy")]
    + ["quite a long name, which scores little.jpg"]
)
JOBS = st.builds(
    Job,
    names=st.lists(NAMES, min_size=1, max_size=9, unique=True).map(tuple),
    said=st.sets(st.integers(0, 8)).map(tuple),
    kind=st.sampled_from(
        ["sidecar", "xmp", "folder", "jsonl", "csv", "text", "coco", "metadata", "parquet"]
    ),
    policy=st.sampled_from(OnExists),
    batch_size=st.integers(1, 4),
    captions=st.integers(1, 2),
    min_score=st.sampled_from([None, -10.0]),
    dedupe=st.sampled_from([None, 0]),
).map(lambda job: dataclasses.replace(job, said=tuple(i for i in job.said if i < len(job.names))))


@given(job=JOBS, deaths=st.lists(st.integers(0, 60), min_size=1, max_size=4))
@example(
    job=Job(("a.jpg", "b.jpg"), (0,), "sidecar", OnExists.append, 1, 1, None, None),
    deaths=[3, 1, 1],
)
@settings(max_examples=50, suppress_health_check=list(HealthCheck))
def test_dying_anywhere_changes_nothing(engine: Any, job: Job, deaths: list[int]) -> None:
    with apart(job) as folder:
        undisturbed = engine(job.batch_size, job.captions)
        whole = job.run(undisturbed)
        expected = files(folder)
    counts = (whole.captioned, whole.copies, whole.skipped, whole.before, whole.errors.total())
    assert sum(counts) == whole.settled == len(job.names) and whole.before == 0
    with apart(job) as folder:
        given: list[str] = []
        settled: set[str] = set()
        for at in deaths:
            one = engine(job.batch_size, job.captions)
            died = True
            with contextlib.suppress(Died), dying(Death(at)):
                job.run(one)
                died = False
            assert not settled & set(one.given), "given again after its batch was taken down"
            with Journal(Path("job"), {}) as journal:
                settled = {record.name for batch in journal.batches() for record in batch}
            given += one.given
            if not died:
                break
        last = engine(job.batch_size, job.captions)
        summary = job.run(last)
        assert not settled & set(last.given)
        assert files(folder) == expected
        assert set(given + last.given) == set(undisturbed.given)
        done = summary.captioned + summary.copies + summary.before
        # What was skipped before is looked at again, and has the caption that it had.
        assert (done, summary.skipped) == (whole.captioned + whole.copies, whole.skipped)
        assert summary.errors == whole.errors and summary.doubtful == whole.doubtful
        again = engine(job.batch_size, job.captions)
        after = job.run(again)
        assert again.given == [] and files(folder) == expected
        assert (after.before, after.errors, after.captioned) == (done, whole.errors, 0)


def test_a_job_without_a_journal_only_writes(engine: Any, pictures: Callable[..., Path]) -> None:
    folder = pictures("a.jpg", "bad.jpg")
    sidecars = Beside(TextSidecars())
    summary = caption_collection(find_items([str(folder)]), engine(), sidecars)
    assert (summary.captioned, summary.errors) == (1, Counter({"is broken": 1}))
    assert (folder / "a.txt").read_text() == "0 a\n"


def test_asked_to_stop_it_stops_after_the_batch(engine: Any, pictures: Callable[..., Path]) -> None:
    folder = pictures("a.jpg", "b.jpg", "c.jpg")
    out = OneFile(folder / "x.csv", CaptionFormat.csv)
    with Journal(folder / "job", {}) as journal:
        items = find_items([str(folder)])
        summary = caption_collection(items, engine(), out, journal=journal, asked=lambda: True)
    assert summary.stopped and summary.captioned == 2 and not out.path.exists()
    assert summary.lines()[0].startswith("2 pictures: 2 captioned in ")
    assert "run the same command again to go on from here" in summary.lines()[-1]


def test_asked_to_stop_after_the_last_batch_it_finishes(
    engine: Any, pictures: Callable[..., Path]
) -> None:
    folder = pictures("a.jpg", "b.jpg", "c.jpg")
    out = OneFile(folder / "x.csv", CaptionFormat.csv)
    with Journal(folder / "job", {}) as journal:
        summary = caption_collection(
            find_items([str(folder)]),
            engine(batch_size=4),
            out,
            journal=journal,
            asked=lambda: True,
        )
    assert not summary.stopped and summary.lines()[-1] == f"wrote {out.path}"


def test_pictures_that_come_later_are_added(engine: Any, pictures: Callable[..., Path]) -> None:
    out = OneFile(pictures("b.jpg") / "x.jsonl", CaptionFormat.jsonl)
    for names in (["b.jpg"], ["a.jpg", "b.jpg"]):
        folder = pictures(*names)
        with Journal(folder / "job", {}) as journal:
            caption_collection(find_items([str(folder)]), engine(), out, journal=journal)
    paths = [Path(json.loads(line)["path"]).name for line in out.path.read_text().splitlines()]
    assert paths == ["b.jpg", "a.jpg"]


class Full(TextSidecars):
    """Sidecars on a disk with room for a few."""

    def __init__(self, room: int, errno: int):
        super().__init__()
        self.room = room
        self.errno = errno

    def write(self, picture: Path, texts: list[str], *, inside: Path | None = None) -> None:
        if not self.room:
            raise captax.files.unwritable(picture, OSError(self.errno, os.strerror(self.errno)))
        self.room -= 1
        super().write(picture, texts, inside=inside)


@pytest.mark.parametrize("errno", [28, 30, 122, 5, 27])  # full, read-only, quota, broken, too big
def test_a_full_disk_is_said_with_what_was_done(
    engine: Any, pictures: Callable[..., Path], errno: int
) -> None:
    folder = pictures(*(f"{n}.jpg" for n in range(5)))
    one, two = engine(), engine()
    for room, each in ((3, one), (9, two)):
        refuses = pytest.raises(OutputError) if room == 3 else contextlib.nullcontext()
        with refuses as said, Journal(folder / "job", {}) as journal:
            output = Beside(Full(room, errno))
            caption_collection(find_items([str(folder)]), each, output, journal=journal)
        if said is not None:
            assert str(said.value).endswith(
                f"cannot be written ({os.strerror(errno)}); free space, fix the permissions, or "
                "give another path; 2 pictures done; run the same command again to go on"
            )
            assert said.value.errno == errno
    assert len(list(folder.glob("*.txt"))) == 5
    assert [Path(name).name for name in two.given] == ["4.jpg"]


def test_what_cannot_be_written_is_an_error_of_that_picture_and_retried_when_asked(
    engine: Any, pictures: Callable[..., Path]
) -> None:
    folder = pictures("a.jpg", "b.jpg", "c.jpg")
    denied = Full(0, 13)

    def run(kind: TextSidecars, retry: bool = False) -> tuple[Summary, list[str]]:
        each = engine()
        with Journal(folder / "job", {}, retry_errors=retry) as journal:
            items = find_items([str(folder)])
            summary = caption_collection(items, each, Beside(kind), journal=journal)
        return summary, [Path(name).name for name in each.given]

    summary, _ = run(denied)
    assert (summary.captioned, summary.errors.total()) == (0, 3)
    summary, given = run(TextSidecars())
    assert (summary.before, summary.errors.total(), given) == (0, 3, [])
    summary, given = run(TextSidecars(), retry=True)
    assert (summary.captioned, given) == (3, ["a.jpg", "b.jpg", "c.jpg"])
    assert len(list(folder.glob("*.txt"))) == 3


def test_errors_are_counted_by_what_they_have_in_common() -> None:
    assert reason_of("damaged or truncated JPEG picture: broken (2 bytes)") == reason_of(
        "damaged or truncated JPEG picture: ends early"
    )
    assert reason_of("/a b/c.txt: is not UTF-8 text; move it away") == "is not UTF-8 text"
    needs = "captax reads HEIC pictures with pillow-heif; pip install 'captax[heic]', or convert it"
    assert reason_of(f"a/b.heic: {needs}") == needs
    assert reason_of("x/y.tar: ends within a picture; fetch it") == "ends within a picture"
    assert reason_of("is empty (0 bytes)") == "is empty"


def test_lists_of_what_is_left_are_there_only_if_something_is(
    engine: Any, pictures: Callable[..., Path]
) -> None:
    folder = pictures("a.jpg", "bad.jpg", "a long name.jpg")
    sidecars = Beside(TextSidecars())
    shape = Shape(CaptionTemplate("{caption}!"), min_score=-5.0)
    with Journal(folder / "job", {}) as journal:
        items = find_items([str(folder)])
        summary = caption_collection(
            items, engine(), sidecars, journal=journal, shape=shape, listed=folder / "x"
        )
    assert [path.name for path in folder.glob("*.txt")] == ["a.txt"]
    [review] = map(json.loads, (folder / "x.review.jsonl").read_text().splitlines())
    assert review == {
        "path": str(folder / "a long name.jpg"),
        "caption": "0 a long name!",
        "score": -11.0,
    }
    [error] = map(json.loads, (folder / "x.errors.jsonl").read_text().splitlines())
    assert error == {"path": str(folder / "bad.jpg"), "error": "is broken"}
    assert (summary.captioned, summary.doubtful) == (2, 1)
    assert summary.files == [folder / "x.review.jsonl", folder / "x.errors.jsonl"]
    (folder / "bad.jpg").rename(folder / "good.jpg")
    shutil.rmtree(folder / "job")
    with Journal(folder / "job", {}) as journal:
        caption_collection(
            find_items([str(folder)]),
            engine(),
            Beside(TextSidecars()),
            journal=journal,
            listed=folder / "x",
        )
    assert not list(folder.glob("x.*"))


def test_outputs_that_refuse_a_picture_make_it_an_error(
    engine: Any, pictures: Callable[..., Path]
) -> None:
    class Picky(Beside):
        def plan(self, item: Any, earlier: Record | None = None) -> tuple[str, str] | None:
            raise CaptaxError(f"{item.path}: not this one")

        def write(self, record: Record) -> str:
            return super().write(record)

    folder = pictures("a.jpg")
    summary = caption_collection(find_items([str(folder)]), engine(), Picky(TextSidecars()))
    assert summary.errors == Counter({"not this one": 1})
