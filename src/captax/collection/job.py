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
from captax.collection.choices import Compare
from captax.collection.item import Item, files_left_out
from captax.collection.journal import Journal
from captax.collection.outputs import write_json_lines
from captax.collection.record import Record
from captax.collection.stamps import changed, stamp
from captax.errors import CaptaxError, plural
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
        score = record.score
        return self.min_score is not None and score is not None and score < self.min_score

    def as_written(self, record: Record) -> Record:
        """The record with its captions in the template."""
        said = tuple((self.template(text, record.name), score) for text, score in record.captions)
        return dataclasses.replace(record, captions=said)


SHAPE = Shape()
# Settings that no caption depends on, and those that only its written form does.
_OF_THE_JOB = ("sources", "working directory", "on_exists", "format")
_OF_THE_TEXT = (
    *(each.name for each in dataclasses.fields(CaptionTemplate)),
    *("min_score", "min_confidence"),
)


@runtime_checkable
class Output(Protocol):
    """Where captions go."""

    @property
    def holds_errors(self) -> bool:
        """Whether this output also lists pictures that failed."""

    @property
    def changes_pictures(self) -> bool:
        """Whether captions are written into the pictures themselves."""

    @property
    def rewrites(self) -> bool:
        """Whether each run writes all captions anew, those of earlier runs too."""

    def plan(self, item: Item, earlier: Record | None = None) -> tuple[str | None, str, str] | None:
        """The `target`, `before` and `replaced` of an item's record; None to skip the item.

        `earlier` is the item's record of an earlier run, which is to be replaced. Raises
        `CaptaxError` if the item's caption cannot be written.
        """

    def lacks(self, item: Item, record: Record) -> bool:
        """Whether what was written for an item's record is not there any more."""

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
        before: pictures that an earlier run captioned.
        failed_before: pictures that failed in an earlier run and were not tried again.
        changed: pictures that were replaced or repaired since an earlier run.
        lost: pictures whose written caption was not there any more.
        errors: pictures that have no caption, by reason.
        doubtful: pictures whose caption was not written, but listed for review.
        looped: pictures whose caption said the same again and again, and was cut.
        removed: pictures whose caption had a preamble, which was removed.
        lacked: pictures that the prompt could not tell a fact of, by its name.
        seconds: how long the job took.
        files: the files that were written at the end.
        stopped: whether the job was asked to stop before its end.
        unmatched: captions of an earlier run that are of none of the pictures. They are kept where
            they are and counted nowhere else. What such pictures have else, an error or a
            caption for review, is told no more.
        left_out: files of the sources that are no pictures, by suffix.
        other_settings: the settings that differ from those that earlier captions, which are kept,
            were made with.
        done: the word for what was done with a picture.
    """

    captioned: int = 0
    copies: int = 0
    skipped: int = 0
    before: int = 0
    failed_before: int = 0
    changed: int = 0
    lost: int = 0
    errors: Counter[str] = dataclasses.field(default_factory=Counter)
    doubtful: int = 0
    looped: int = 0
    removed: int = 0
    lacked: Counter[str] = dataclasses.field(default_factory=Counter)
    seconds: float = 0.0
    files: list[Path] = dataclasses.field(default_factory=list)
    stopped: bool = False
    unmatched: int = 0
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)
    other_settings: list[str] = dataclasses.field(default_factory=list)
    done: str = "captioned"

    @property
    def settled(self) -> int:
        """How many pictures there were so far."""
        return self.captioned + self.copies + self.skipped + self.before + self.errors.total()

    def lines(self) -> list[str]:
        """The summary in words: the numbers, the speed, and why pictures have no caption."""
        failed = self.errors.total()
        counts = [
            (self.captioned, self.done),
            (self.copies, "copies of others" if self.copies > 1 else "copy of another"),
            (self.skipped, "skipped because a caption is there already"),
            (self.before, f"{self.done} before"),
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
        if self.looped:
            lines.append(
                "captions that said the same again and again, and were cut after its first time: "
                f"{self.looped:,}"
            )
        if self.removed:
            lines.append(f"captions whose preamble was removed: {self.removed:,}")
        if self.lacked:
            told = ", ".join(f"{name} {count:,}" for name, count in sorted(self.lacked.items()))
            lines.append(f"pictures that lack a fact of the prompt: {told}")
        if self.changed:
            lines.append(
                f"changed since an earlier run, and looked at again: {_pictures(self.changed)}"
            )
        if self.lost:
            lost = _pictures(self.lost)
            lines.append(f"{self.done} again because the caption was gone: {lost}")
        if self.other_settings and self.before:
            lines.append(
                f"made with other settings, and not made again: the captions of "
                f"{_pictures(self.before)} ({'; '.join(self.other_settings)}); to make them again, "
                "add --resume never --on-exists overwrite"
            )
        if self.failed_before:
            lines.append(
                f"failed in an earlier run, and not tried again: {_pictures(self.failed_before)}; "
                "add --retry-errors to try again"
            )
        if self.unmatched:
            lines.append(
                f"{self.done} in an earlier run, and not among the pictures given now: "
                f"{_pictures(self.unmatched)}; the captions were left as they are"
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
    compare: Compare = Compare.time,
    asked: Callable[[], bool] = lambda: False,
    watch: Callable[[list[Record], Summary], None] = lambda records, summary: None,
) -> Summary:
    """Caption every item once, even if the job is killed and resumed.

    A picture that is not what it was in an earlier run, or whose caption is gone from beside it, is
    captioned again.

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
        compare: how pictures are compared with those of an earlier run.
        asked: whether to stop after this batch; the last one is followed by the files of all
            captions.
        watch: called with every batch when it is done.

    Raises:
        OutputError: nothing more can be written; what is done is in the journal.
    """
    job = _Job(output, journal, shape, None if dedupe is None else Copies(dedupe), compare)
    if left_out is not None:
        job.summary.left_out = left_out
    start = time.perf_counter()
    try:
        job.take_up()
        for batch in engine(job.wanted(items), job.copies):
            watch(job.settle(batch), job.summary)
            if asked() and job.left:
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
        self,
        output: Output,
        journal: Journal | None,
        shape: Shape,
        copies: Copies | None,
        compare: Compare,
    ):
        self.output = output
        self.journal = journal
        self.shape = shape
        self.copies = copies
        self.compare = compare
        self.summary = Summary()
        # Each picture with the place of its last record in the journal, which is 0 for a picture of
        # this process.
        self.begun: dict[str, int] = {}
        # Pictures with several records in the journal, of which the last one counts.
        self.several: set[str] = set()
        # The last batch of an earlier process, which may not have been written beside its pictures.
        self.again: dict[str, Record] = {}
        # Pictures that the engine has and has not given back, and one until all were given to it.
        self.left = 1
        # Pictures of earlier runs that failed, with the error, or whose caption is for review ("").
        self.unsettled: dict[str, str] = {}
        # Pictures of earlier runs that are not met among the items.
        self.unmet: set[str] = set()

    def take_up(self) -> None:
        """Read what an earlier process did; its last batch is written again by `wanted`."""
        if self.journal is None:
            return
        last: list[Record] = []
        for place, last in self.journal.placed():
            for record in last:
                self.output.done(record)
                if self.copies is not None:
                    self.copies.done(record)
                self.unsettled.pop(record.name, None)
                if record.error or self.shape.doubtful(record):
                    self.unsettled[record.name] = record.error
                if record.name in self.begun:
                    self.several.add(record.name)
                self.begun[record.name] = place
        self.again = {record.name: record for record in last if record.target is not None}
        self.summary.other_settings = [
            told
            for name, told in self.journal.changed.items()
            if name not in _OF_THE_JOB and not (self.output.rewrites and name in _OF_THE_TEXT)
        ]
        self.unmet = set(self.begun)

    def wanted(self, items: Iterable[Item]) -> Iterator[Wanted]:
        """The pictures that are not captioned yet."""
        for each in self._wanted(items):
            self.left += 1
            yield each
        self.left -= 1

    def _wanted(self, items: Iterable[Item]) -> Iterator[Wanted]:
        for place, item in enumerate(items):
            earlier = None
            if item.name in self.unmet:
                self.unmet.remove(item.name)
                earlier = self._outdated(item)
                if earlier is None:
                    self._keep(item)
                    continue
            elif item.name in self.begun:
                continue
            self.begun[item.name] = 0
            state = "" if self.journal is None else stamp(item, self.compare)
            if isinstance(item.image, ImageError):  # tells more than the output's error
                yield Wanted(item, place, stamp=state)
                continue
            try:
                plan = self.output.plan(item, earlier and self.shape.as_written(earlier))
            except CaptaxError as error:
                reason = str(error).removeprefix(str(CaptaxError(f"{item.path}: ")))
                failed = dataclasses.replace(item, image=ImageError(reason))
                yield Wanted(failed, place, stamp=state)
                continue
            if plan is None:
                self.summary.skipped += 1
            else:
                yield Wanted(item, place, *plan, state)
        self.summary.unmatched = len(self.unmet - self.unsettled.keys())

    def _outdated(self, item: Item) -> Record | None:
        """The record of an earlier run, if it does not count any more."""
        summary = self.summary
        if self.journal is None:
            return None
        # A picture may have two records in a batch, and the last counts.
        batch = self.journal.at(self.begun[item.name])
        record = next(each for each in batch[::-1] if each.name == item.name)
        doubtful = self.shape.doubtful(record)
        if (record.error or not self.output.changes_pictures) and changed(item, record.stamp):
            summary.changed += 1
        elif (
            item.name not in self.again and not doubtful and self.output.lacks(item, record)
        ):  # the last batch may not have been written yet
            summary.lost += 1
        else:
            return None
        self.again.pop(item.name, None)
        self.several.add(item.name)
        if self.copies is not None:
            self.copies.forget(item.name)
        return record

    def _keep(self, item: Item) -> None:
        """Count what an earlier run made of an item. Write it again if it is of the last batch.

        It is written beside the item: a journal names no places.
        """
        error = self.unsettled.get(item.name)
        if error:
            self.summary.errors[reason_of(error)] += 1
            self.summary.failed_before += 1
        else:
            self.summary.before += 1
            self.summary.doubtful += error is not None
        record = self.again.pop(item.name, None)
        if record is not None and (target := self.output.target(item)) is not None:
            for failed in self._write([dataclasses.replace(record, target=target)]):
                self.summary.errors[reason_of(failed.error)] += 1
                self.summary.before -= 1

    def settle(self, batch: list[Record]) -> list[Record]:
        """Add a batch to the journal, write it and count it. Return its final records."""
        self.left -= len(batch)
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
                self.summary.looped += record.looped
                self.summary.removed += bool(record.removed)
                lacked = [name for name, value in record.facts.items() if value is None]
                self.summary.lacked.update(lacked)
            self.summary.doubtful += self.shape.doubtful(record)
        return ended

    def _write(self, batch: list[Record]) -> list[Record]:
        """Write records that go to places of their own. Return new records of those that failed."""
        failed = []
        for record in batch:
            if not self.shape.doubtful(record):
                reason = self.output.write(self.shape.as_written(record))
                if reason:
                    failed.append(
                        Record(
                            record.name, error=reason, stamp=record.stamp, columns=record.columns
                        )
                    )
                    self.several.add(record.name)
        if failed and self.journal is not None:
            self.journal.append(failed)
        return failed

    def finish(self, listed: Path | None) -> None:
        """Write the file of all captions, and the lists of errors and of captions for review."""
        journal, shape = self.journal, self.shape
        if journal is None:
            return

        several = self.several
        # What is not among the pictures any more can neither be repaired nor reviewed.
        forgotten = self.unmet & self.unsettled.keys()
        records = itertools.chain.from_iterable(journal.batches() if several else ())
        latest = {record.name: record for record in records if record.name in several}

        def final() -> Iterator[Record]:
            left = dict(latest)
            for batch in journal.batches():
                for record in batch:
                    if record.name not in several:
                        yield record
                    elif record.name in left:  # in the place of its first record
                        yield left.pop(record.name)

        def every() -> Iterator[Record]:
            for record in final():
                if record.name not in forgotten:
                    yield shape.as_written(record)

        def written() -> Iterator[Record]:
            return (record for record in every() if not shape.doubtful(record))

        files = self.output.finish(written)
        if listed is not None:
            errors = [record for record in every() if record.error]
            doubtful = filter(shape.doubtful, every())
            of_doubtful, of_errors = lists_of(listed)
            files += _list(of_doubtful, doubtful)
            if not self.output.holds_errors:
                files += _list(of_errors, errors)
        self.summary.files = files


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _pictures(count: int) -> str:
    return plural(count, "picture")


def reason_of(error: str) -> str:
    """The kind of an error, without the details of one picture."""
    of_a_file = re.sub(r"\A\S*/.*?: ", "", error, count=1, flags=re.DOTALL)
    return re.split(r": | \(|; (?!.*pip install)", of_a_file, maxsplit=1)[0]


def lists_of(listed: Path) -> tuple[Path, Path]:
    """The lists of captions for review and of errors."""
    review, errors = (listed.with_name(f"{listed.name}.{of}.jsonl") for of in ("review", "errors"))
    return review, errors


def _list(path: Path, records: Iterable[Record]) -> list[Path]:
    """Write records to a file; without records, there is no file."""
    rest = iter(records)
    first = next(rest, None)
    if first is None:
        path.unlink(missing_ok=True)
        return []
    write_json_lines(path, lambda: itertools.chain([first], rest), own=True)
    return [path]
