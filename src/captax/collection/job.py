"""Caption a whole collection: what is left to do, what is done, and a summary of the results."""

import dataclasses
import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from captax.collection.caption_template import CaptionTemplate
from captax.collection.captioning import Copies, Wanted
from captax.collection.item import Item, files_left_out
from captax.collection.journal import Journal
from captax.collection.outputs import write_json_lines
from captax.collection.record import Record
from captax.errors import CaptaxError
from captax.files import OutputError
from captax.images import ImageError

# Makes records of the wanted pictures, in order, batch by batch.
Engine = Callable[[Iterator[Wanted], Copies | None], Iterator[list[Record]]]


@dataclasses.dataclass(frozen=True)
class Shape:
    """How captions are written.

    Attributes:
        template: the template of each caption.
        min_score: captions with a lower score are not written, but listed for review.
        min_confidence: the same for those with a lower confidence.
    """

    template: CaptionTemplate = dataclasses.field(default_factory=CaptionTemplate)
    min_score: float | None = None
    min_confidence: float | None = None

    def doubtful(self, record: Record) -> bool:
        """Whether a record's caption needs a review."""
        if not record.captions:
            return False
        least, sure = self.min_confidence, record.confidence
        if least is not None and sure is not None and sure < least:
            return True
        return self.min_score is not None and record.score < self.min_score

    def as_written(self, record: Record) -> Record:
        """The record with its captions in the template."""
        said = tuple((self.template(text, record.name), score) for text, score in record.captions)
        return dataclasses.replace(record, captions=said)


SHAPE = Shape()


@runtime_checkable
class Output(Protocol):
    """Where captions go."""

    @property
    def holds_errors(self) -> bool:
        """Whether this output also lists pictures that failed."""

    def plan(self, item: Item) -> tuple[str | None, str] | None:
        """The picture to write beside, and the text that is there; None to skip the item.

        Raises `CaptaxError` if the item's caption cannot be written.
        """

    def target(self, item: Item) -> str | None:
        """The picture that `plan` gives for an item, whether or not it is to be skipped."""

    def done(self, record: Record) -> None:
        """Remember what an earlier process of the job wrote, or was going to write."""

    def write(self, record: Record) -> str:
        """Write a record. Return the reason if this picture alone could not be written, else ""."""

    def finish(self, records: Callable[[], Iterator[Record]]) -> list[Path]:
        """Write what can only be written at the end. Return the files."""


@dataclasses.dataclass
class Summary:
    """The results of a job, as numbers of pictures.

    Attributes:
        captioned: pictures that the model captioned.
        copies: pictures that got the caption of a picture that looks the same.
        skipped: pictures that already had a caption and were not changed.
        before: pictures that an earlier process of the job captioned.
        errors: pictures that have no caption, by reason.
        doubtful: pictures whose caption was not written, but listed for review.
        seconds: how long the job took.
        files: the files that were written at the end.
        stopped: whether the job was asked to stop before its end.
        unmatched: records of an earlier process that are of none of the pictures; nothing is
            written beside a picture from them.
        left_out: files of the sources that are no pictures, by suffix.
    """

    captioned: int = 0
    copies: int = 0
    skipped: int = 0
    before: int = 0
    errors: Counter[str] = dataclasses.field(default_factory=Counter)
    doubtful: int = 0
    seconds: float = 0.0
    files: list[Path] = dataclasses.field(default_factory=list)
    stopped: bool = False
    unmatched: int = 0
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def settled(self) -> int:
        """How many pictures there were so far."""
        return self.captioned + self.copies + self.skipped + self.before + self.errors.total()

    def lines(self) -> list[str]:
        """The summary in words: the numbers, the speed, and why pictures have no caption."""
        failed = self.errors.total()
        counts = [
            (self.captioned, "captioned"),
            (self.copies, "copies of others" if self.copies > 1 else "copy of another"),
            (self.skipped, "skipped because a caption is there already"),
            (self.before, "captioned before"),
            (failed, "failed"),
        ]
        told = ", ".join(f"{count:,} {what}" for count, what in counts if count)
        rate = f" ({self.captioned / self.seconds:.1f} a second)" if self.captioned > 1 else ""
        took = f"in {_duration(self.seconds)}{rate}"
        lines = [f"{_pictures(self.settled)}: {told or 'nothing to do'} {took}"]
        if self.left_out:
            lines[0] += f"; {files_left_out(self.left_out)}"
        if self.doubtful:
            lines.append(f"captions below --min-score, to be reviewed: {self.doubtful:,}")
        if self.unmatched:
            are = "is" if self.unmatched == 1 else "are"
            lines.append(
                f"the journal has records of {_pictures(self.unmatched)} that {are} not among "
                "those given; nothing was written beside them"
            )
        lines += [f"{count:,} x {reason}" for reason, count in self.errors.most_common()]
        if self.stopped:
            lines.append("stopped; run the same command again to go on from here")
        return lines + [f"wrote {path}" for path in self.files]


def caption_collection(
    items: Iterable[Item],
    engine: Engine,
    output: Output,
    *,
    journal: Journal | None = None,
    shape: Shape = SHAPE,
    dedupe: int | None = None,
    listed: Path | None = None,
    left_out: Counter[str] | None = None,
    asked: Callable[[], bool] = lambda: False,
    watch: Callable[[list[Record], Summary], None] = lambda records, summary: None,
) -> Summary:
    """Caption every item once, even if the job is killed and resumed.

    A batch is first added to the journal, then written beside its pictures if the output does so.
    After a kill between the two, the resumed job writes this last batch again. A file of all
    captions is made from the journal at the end.

    Args:
        items: the pictures; of several with the same name, only the first is captioned.
        engine: captions them.
        output: where captions are written.
        journal: what is done. Without it, captions go to `output.write` only.
        shape: how captions are written.
        dedupe: the number of bits in which the fingerprints of copies may differ.
        listed: the path of the lists of errors and of captions for review, to which
            `.errors.jsonl` and `.review.jsonl` are appended.
        left_out: where `items` counts files that are no pictures; the summary tells them.
        asked: whether to stop after this batch.
        watch: called with every batch when it is done.

    Raises:
        OutputError: nothing more can be written; what is done is in the journal.
    """
    job = _Job(output, journal, shape, None if dedupe is None else Copies(dedupe))
    if left_out is not None:
        job.summary.left_out = left_out
    start = time.perf_counter()
    try:
        job.take_up()
        for batch in engine(job.wanted(items), job.copies):
            watch(job.settle(batch), job.summary)
            if asked():
                job.summary.stopped = True
                break
        else:
            job.finish(listed)
    except OutputError as error:
        if journal is None:
            raise
        kept = f"{_pictures(job.summary.settled)} done; run the same command again to go on"
        raise OutputError(f"{error}; {kept}", error.errno) from None
    job.summary.seconds = time.perf_counter() - start
    return job.summary


class _Job:
    def __init__(
        self, output: Output, journal: Journal | None, shape: Shape, copies: Copies | None
    ):
        self.output = output
        self.journal = journal
        self.shape = shape
        self.copies = copies
        self.summary = Summary()
        self.begun: set[str] = set()
        # The last batch of an earlier process, which may not have been written beside its pictures.
        self.again: dict[str, Record] = {}

    def take_up(self) -> None:
        """Read what an earlier process did; its last batch is written again by `wanted`."""
        if self.journal is None:
            return
        settled: dict[str, Record] = {}
        last: list[Record] = []
        for last in self.journal.batches():
            for record in last:
                self.output.done(record)
                if self.copies is not None:
                    self.copies.done(record)
                if record.error or self.shape.doubtful(record):
                    settled[record.name] = record
            self.begun.update(record.name for record in last)
        self.again = {record.name: record for record in last if record.target is not None}
        summary = self.summary
        summary.errors.update(reason_of(each.error) for each in settled.values() if each.error)
        summary.doubtful = sum(not each.error for each in settled.values())
        summary.before = len(self.begun) - summary.errors.total()

    def wanted(self, items: Iterable[Item]) -> Iterator[Wanted]:
        """The pictures that are not captioned yet."""
        unmatched = set(self.begun)
        for place, item in enumerate(items):
            unmatched.discard(item.name)
            if item.name in self.begun:
                self._write_again(item)
                continue
            self.begun.add(item.name)
            if isinstance(item.image, ImageError):  # tells more than the output's error
                yield Wanted(item, place)
                continue
            try:
                plan = self.output.plan(item)
            except CaptaxError as error:
                reason = str(error).removeprefix(str(CaptaxError(f"{item.path}: ")))
                yield Wanted(dataclasses.replace(item, image=ImageError(reason)), place)
                continue
            if plan is None:
                self.summary.skipped += 1
            else:
                yield Wanted(item, place, *plan)
        self.summary.unmatched = len(unmatched)

    def _write_again(self, item: Item) -> None:
        """Write an item's record of the last batch, beside the item: a journal names no places."""
        record = self.again.pop(item.name, None)
        if record is not None and (target := self.output.target(item)) is not None:
            for failed in self._write([dataclasses.replace(record, target=target)]):
                self.summary.errors[reason_of(failed.error)] += 1
                self.summary.before -= 1

    def settle(self, batch: list[Record]) -> list[Record]:
        """Add a batch to the journal, write it and count it. Return its final records."""
        if self.journal is not None:
            self.journal.append(batch)
        failed = {record.name: record for record in self._write(batch)}
        ended = [failed.get(record.name, record) for record in batch]
        for record in ended:
            if record.error:
                self.summary.errors[reason_of(record.error)] += 1
            elif record.copy_of:
                self.summary.copies += 1
            else:
                self.summary.captioned += 1
            self.summary.doubtful += self.shape.doubtful(record)
        return ended

    def _write(self, batch: list[Record]) -> list[Record]:
        """Write records that go to places of their own. Return new records of those that failed."""
        failed = []
        for record in batch:
            if not self.shape.doubtful(record):
                reason = self.output.write(self.shape.as_written(record))
                if reason:
                    failed.append(Record(record.name, error=reason, columns=record.columns))
        if failed and self.journal is not None:
            self.journal.append(failed)
        return failed

    def finish(self, listed: Path | None) -> None:
        """Write the file of all captions, and the lists of errors and of captions for review."""
        journal, shape = self.journal, self.shape
        if journal is None:
            return

        def every() -> Iterator[Record]:
            for batch in journal.batches():
                yield from map(shape.as_written, batch)

        def written() -> Iterator[Record]:
            return (record for record in every() if not shape.doubtful(record))

        files = self.output.finish(written)
        if listed is not None:
            errors = {record.name: record for record in every() if record.error}
            doubtful = (
                each for each in every() if shape.doubtful(each) and each.name not in errors
            )
            files += _list(listed.with_name(f"{listed.name}.review.jsonl"), doubtful)
            if not self.output.holds_errors:
                files += _list(listed.with_name(f"{listed.name}.errors.jsonl"), errors.values())
        self.summary.files = files


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count:,} pictures"


def reason_of(error: str) -> str:
    """The kind of an error, without the details of one picture."""
    of_a_file = re.sub(r"\A\S*/.*?: ", "", error, count=1, flags=re.DOTALL)
    return re.split(r": | \(|; ", of_a_file, maxsplit=1)[0]


def _list(path: Path, records: Iterable[Record]) -> list[Path]:
    """Write records to a file; without records, there is no file."""
    rest = iter(records)
    first = next(rest, None)
    if first is None:
        path.unlink(missing_ok=True)
        return []
    write_json_lines(path, lambda: itertools.chain([first], rest), own=True)
    return [path]
