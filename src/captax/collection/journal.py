"""What a job has done so far, so that a job that was killed can be resumed.

A journal is a file of JSON lines in a folder of its own: the job's settings, then a line for each
batch of pictures. An incomplete last line is ignored, so a batch is either done or not done. A
resumed job forms the same batches as an uninterrupted one, so its captions are the same.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, BinaryIO

from filelock import Timeout

from captax.collection.choices import Resume
from captax.collection.item import CollectionError
from captax.collection.record import Record
from captax.errors import CaptaxError, quoted
from captax.files import hold, make_folder, own_file, replacing, unwritable

# What parsing a damaged line may raise.
_DAMAGE = (ValueError, KeyError, TypeError, RecursionError)
LINE_LIMIT = 64 * 2**20  # bytes of a batch
JOURNAL, LOCK = "journal.jsonl", "lock"
VERSION = 1
# Settings that the command line calls by another name.
_OPTIONS = {"min_confidence": "the confidence of --min-score auto"}


class Journal:
    """The records of a job, kept in `folder`; a context manager that locks the folder.

    Its files are captax's own and never links. If `inside` is given, a link to the folder that
    leads out of `inside` is refused.

    Attributes:
        changed: for each setting that the records were made with and that is another one now, by
            its name, what it was and what it is.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        *,
        resume: Resume = Resume.if_possible,
        retry_errors: bool = False,
        inside: Path | None = None,
    ):
        self._inside = inside
        self.folder = folder
        self.path = folder / JOURNAL
        self.settings = json.loads(json.dumps(settings))  # as it is read back
        self._resume = resume
        self._retry_errors = retry_errors
        self._last: tuple[int, list[Record]] | None = None
        self.changed: dict[str, str] = {}

    def __enter__(self) -> "Journal":
        """Lock the folder, read what was done before and open the journal.

        Raises:
            CollectionError: another process works on this job, an earlier run had other settings,
                or there is nothing to resume although `resume` is `always`.
            OutputError: the folder cannot be written to.
        """
        try:
            parents = self.folder.parents
            self._made = list(itertools.takewhile(lambda folder: not folder.exists(), parents))
            make_folder(self.folder, inside=self._inside)
            self._lock = hold(self.folder / LOCK, inside=self._inside)
        except Timeout:
            raise CollectionError(
                f"{self.folder}: another process is working on this job; wait for it, or stop it"
            ) from None
        except OSError as error:
            raise unwritable(self.folder, error) from None
        try:
            for partial in self.folder.glob(".*.partial"):  # left by a killed process
                partial.unlink()
            self._take_up()
            self._file = self._open(JOURNAL, "ab")
        except OSError as error:
            self._leave()
            raise unwritable(self.path, error) from None
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._leave()

    def _open(self, name: str, mode: str) -> BinaryIO:
        return own_file(self.folder / name, mode, inside=self._inside)

    def _leave(self) -> None:
        """Unlock the folder. If nothing was done, remove it, so that no trace is left."""
        with contextlib.suppress(OSError, CaptaxError):
            if not self.begun:
                self.path.unlink(missing_ok=True)
                (self.folder / LOCK).unlink(missing_ok=True)
        self._lock.release()
        with contextlib.suppress(OSError):  # a folder that is not empty stays
            for folder in (self.folder, *self._made):
                folder.rmdir()

    @property
    def begun(self) -> bool:
        """Whether at least one batch is done."""
        return next(self.batches(), None) is not None

    def batches(self) -> Iterator[list[Record]]:
        """Read from the disk what was done, batch by batch."""
        return (batch for _, batch in self.placed())

    def placed(self) -> Iterator[tuple[int, list[Record]]]:
        """The batches, each with its place in the file, for `at`."""
        with contextlib.suppress(FileNotFoundError), self._open(JOURNAL, "rb") as file:
            place = len(file.readline(LINE_LIMIT + 1))
            for number in itertools.count(2):
                line = file.readline(LINE_LIMIT + 1)
                if len(line) > LINE_LIMIT:
                    raise self._damaged(number)
                if not line:
                    return
                if line.endswith(b"\n"):
                    try:
                        yield place, _batch(line)
                    except _DAMAGE:
                        raise self._damaged(number) from None
                place += len(line)

    def at(self, place: int) -> list[Record]:
        """The batch at a place that `placed` gave. The last one is kept for the next call."""
        if self._last is None or self._last[0] != place:
            with self._open(JOURNAL, "rb") as file:
                file.seek(place)
                self._last = place, _batch(file.readline(LINE_LIMIT))
        return self._last[1]

    def append(self, records: Sequence[Record]) -> None:
        """Add a batch. Once this returns, the batch survives a crash of process and machine.

        Raises:
            OutputError: the disk is full or fails; then the batch is not in the journal.
        """
        line = _line(records)
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from None

    def _take_up(self) -> None:
        before = None if self._resume is Resume.never else self._header()
        if before is None:
            if self._resume is Resume.always:
                raise CollectionError(
                    f"{self.folder}: has no journal, so there is nothing to resume; leave out "
                    "--resume always"
                )
            self._write([])
            return
        self._cut()
        changed = {
            name: f"{_OPTIONS.get(name, name)} was {_shown(was)} and is {_shown(now)}"
            for name in sorted({*before, *self.settings})
            if (was := before.get(name)) != (now := self.settings.get(name))
        }
        if changed and self._resume is not Resume.always and self.begun:
            raise CollectionError(
                f"{self.folder}: this job was begun with other settings "
                f"({'; '.join(changed.values())}); to keep its captions and go on with the new "
                "settings, add --resume always; to start over, add --resume never (--on-exists "
                "overwrite then replaces its captions)"
            )
        if self.begun:
            self.changed = changed
        failed = set()
        if self._retry_errors:  # some were captioned, and could not be written
            failed = {each.name for batch in self.batches() for each in batch if each.error}
        if changed or failed:
            self._write(self.batches(), without=failed)

    def _header(self) -> dict[str, Any] | None:
        """The settings of the job that began the journal."""
        with contextlib.suppress(FileNotFoundError), self._open(JOURNAL, "rb") as file:
            line = file.readline(LINE_LIMIT + 1)
            if line.endswith(b"\n") or len(line) > LINE_LIMIT:
                with contextlib.suppress(*_DAMAGE):
                    header = json.loads(line.decode())
                    if header["captax"] == VERSION:
                        return dict(header["settings"])
                raise CollectionError(
                    f"{self.path}: is not a journal that this version of captax can read; "
                    "add --resume never to start over"
                )
        return None

    def _cut(self) -> None:
        """Cut off an incomplete last line."""
        with self._open(JOURNAL, "r+b") as file:
            end = file.seek(0, os.SEEK_END)
            tail, least = b"", end - LINE_LIMIT
            while end > max(0, least) and b"\n" not in tail:
                start = max(0, end - 2**16)
                file.seek(start)
                tail = file.read(end - start)
                end = start + tail.rfind(b"\n") + 1 if b"\n" in tail else start
            if end and b"\n" not in tail:
                raise CollectionError(f"{self.path}: its end is damaged; add --resume never")
            file.truncate(end)

    def _write(self, batches: Iterable[list[Record]], without: Set[str] = frozenset()) -> None:
        """Write the journal anew: the settings, and `batches` without the pictures in `without`."""
        header = {"captax": VERSION, "settings": self.settings}
        with replacing(self.path, inside=self._inside, own=True) as file:
            file.write(json.dumps(header).encode() + b"\n")
            for batch in batches:
                if kept := [record for record in batch if record.name not in without]:
                    file.write(_line(kept))

    def _damaged(self, number: int) -> CollectionError:
        return CollectionError(
            f"{self.path}, line {number}: is damaged; remove the line to caption its pictures "
            "again, or start over with --resume never"
        )


def _batch(line: bytes) -> list[Record]:
    return [Record.read(each) for each in json.loads(line.decode())["batch"]]


def _line(batch: Iterable[Record]) -> bytes:
    return json.dumps({"batch": [record.write() for record in batch]}).encode() + b"\n"


def _shown(value: Any) -> str:
    """A setting in a message; None is what was not given."""
    return "not given" if value is None else quoted(value)
