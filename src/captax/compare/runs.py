"""Captions of the captioners, one after the other, each in its own process."""

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from captax.collection.journal import Journal
from captax.collection.record import Record
from captax.collection.stamps import changed
from captax.compare.child import ChildJob
from captax.compare.contenders import Contender
from captax.compare.pictures import ComparedPicture
from captax.errors import CaptaxError, quoted

JOURNALS = ".captax"  # the folder of all journals
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """The user asked to stop; what is done is kept."""


def journal_folder(out: Path, contender: Contender, settings: dict[str, Any]) -> Path:
    """Where a captioner's captions are kept; with other settings it is another folder."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return out / JOURNALS / f"{contender.label}-{digest}"


def records_of(job: ChildJob) -> dict[str, Record]:
    """What was done before, by the names of pictures."""
    found: dict[str, Record] = {}
    if Path(job.folder).is_dir():
        with Journal(Path(job.folder), job.settings, inside=Path(job.root)) as journal:
            for batch in journal.batches():
                found |= {record.name: record for record in batch}
    return found


def run_captioner(job: ChildJob, pictures: Sequence[ComparedPicture]) -> dict[str, Record]:
    """The record of each picture, made now or in an earlier run.

    Nothing is loaded if nothing is left to do.

    Raises:
        CaptaxError: the captioner cannot be used.
        Stopped: the user asked to stop.
    """
    if not is_complete(job, pictures):
        _run(job)
    known = records_of(job)
    return {each.name: known[each.name] for each in pictures}


def is_complete(job: ChildJob, pictures: Sequence[ComparedPicture]) -> bool:
    """Whether nothing is left to do."""
    known = records_of(job)
    return all(_is_done(known.get(each.name), each, job) for each in pictures)


def _is_done(record: Record | None, picture: ComparedPicture, job: ChildJob) -> bool:
    if record is None or changed(picture.item, record.stamp):
        return False
    return not (record.error and job.retry_errors)


def _run(job: ChildJob) -> None:
    # Isolated: the current folder may have modules in it too.
    code = f"import sys; sys.path[:] = {sys.path!r}\nfrom captax.compare.child import main\nmain()"
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # it is told of Ctrl-C here, once
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    assert process.stdin is not None and process.stdout is not None
    with process, _passed_on(process):
        with contextlib.suppress(BrokenPipeError):  # it ended; why is told below
            process.stdin.write(json.dumps(dataclasses.asdict(job)).encode() + b"\n")
            process.stdin.flush()
        lines = process.stdout.read().splitlines()
        code_of_exit = process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    try:
        answer = json.loads(lines[-1])
    except (IndexError, ValueError):
        if code_of_exit < 0:
            how = f"was killed by {signal.Signals(-code_of_exit).name}, perhaps for want of memory"
        else:
            how = f"ended with exit code {code_of_exit}"
        raise CaptaxError(
            f"{job.name}: its process {how}; what is done is kept: use a smaller --batch-size, or "
            "leave it out"
        ) from None
    if "error" in answer:
        raise CaptaxError(f"{quoted(job.name)}: {answer['error']}")
    if answer["stopped"]:
        raise Stopped


@contextlib.contextmanager
def _passed_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Within the block, Ctrl-C and SIGTERM are for the process, which ends by itself."""
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def tell(number: int, frame: Any) -> None:
        process.send_signal(number)

    try:
        for number in SIGNALS:
            signal.signal(number, tell)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if process.poll() is None:
            process.kill()
