"""What is a finding: whatever may not come of reading a file, whoever wrote it."""

import hashlib
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from captax.errors import CaptaxError

SECONDS, MEMORY = 3.0, 256 * 2**20  # of the processor, and bytes: inputs are small
# The audit events of Python that mean: something that a file names was run.
RUNS = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork",
        "subprocess.Popen", "socket.connect", "ctypes.dlopen", "marshal.loads")  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """`key` is the same for findings that are alike; `story` begins with a line that sums up."""

    key: str
    story: str


class Forbidden(Exception):
    """An input had something done that no file may ask for."""


def read(target: ModuleType, inputs: Path, data: bytes) -> Finding | None:
    """Have `target` read an input: a byte that says which kind of file it is, and the file."""
    path = place(target, inputs, data)
    kind, content = path.name, data[1:]
    path.write_bytes(target.finish(kind, content) if hasattr(target, "finish") else content)
    started, before = time.process_time(), _reset_peak()
    finding = None
    try:
        with _watched():
            target.read(path)
    except CaptaxError as error:
        if reason := _wrong_message(str(error), path, len(content)):
            finding = _finding(reason, error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # some libraries of Rust raise what is no Exception
        finding = _finding(f"{type(error).__name__}: {error}", error)
    seconds = time.process_time() - started
    if hasattr(target, "restore"):
        target.restore(path)
    taken = _memory("VmHWM") - before
    slow = seconds > getattr(target, "SECONDS", SECONDS)
    if finding is None and (slow or taken > MEMORY):
        what = "slow" if slow else "large"
        story = (
            f"took {seconds:.1f} s and {taken / 2**20:.0f} MiB for {len(content)} bytes of {kind}"
        )
        finding = Finding(f"{what}_{kind.replace('/', '_').replace('-', '_')}", story)
    return finding


def _reset_peak() -> int:
    """The memory in use now, from which on its peak is counted; Linux alone has such a thing."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{name}:")[2].split(maxsplit=1)[0])


def place(target: ModuleType, inputs: Path, data: bytes) -> Path:
    """Where an input is written: each kind of file in a folder of its own."""
    kind = target.KINDS[data[0] % len(target.KINDS)] if data else target.KINDS[0]
    path = inputs / kind
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _wrong_message(message: str, path: Path, size: int) -> str | None:
    if len(message.splitlines()) != 1:
        return f"an error that is not one line: {message!r}"
    if not message.isascii() and not _encodes(message):
        return f"an error that cannot be printed: {message!r}"
    if str(path) not in message and str(folder(path)) not in message:
        return f"an error that does not name the file: {message!r}"
    if "MemoryError" in message or "not enough memory" in message:
        return f"an error of too much memory: {message!r}"
    if len(message) > 100_000 + 10 * size:  # it may quote the file, and escape what it quotes
        return f"an error without end: {message[:2000]!r}"
    return None


def folder(path: Path) -> Path:
    """The checkpoint or dataset that the file belongs to."""
    return next(p for p in (path, *path.parents) if p.parent.name.startswith("captax-fuzz-"))


def _encodes(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def _finding(summary: str, error: BaseException) -> Finding:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/fuzz/" not in f.filename]
    ours = [frame for frame in frames if "captax" in frame.filename]
    # Alike: of one type, from the same place, and told of in the same words.
    at = [f"{Path(f.filename).name}:{f.lineno}" for f in [*frames[-1:], *ours[-1:]]]
    kind = summary.partition(":")[0]
    key = hashlib.sha256("|".join([kind, *at]).encode()).hexdigest()[:8]
    where = f" [{', '.join(dict.fromkeys(reversed(at)))}]"
    story = "".join(traceback.format_exception(error))
    return Finding(key, f"{' '.join(summary.split())[:300]}{where}\n\n{story}")


_watching = False


@contextmanager
def _watched() -> Iterator[None]:
    global _watching
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _watching = True
        try:
            yield
        finally:
            _watching = False


class _Logged(logging.Handler):
    """What nobody handles is printed, beside or in the place of the one line of an error."""

    def emit(self, record: logging.LogRecord) -> None:
        raise Forbidden(f"logs {record.getMessage()!r}")


def watch(inputs: Path, *, anywhere: bool, writes: bool = False, starts: bool = False) -> None:
    """From now on, refuse what no input may have done: running anything, files elsewhere, logs.

    With `anywhere`, files elsewhere may be read, but not written; with `writes`, files may be
    written where the input is; with `starts`, this Python may be started, as captax's workers are.
    """
    logging.lastResort = _Logged(logging.WARNING)  # type: ignore[assignment]
    # Modules that are imported late, code pages, time zones: whatever was there before the input.
    allowed = (str(inputs), *{os.path.realpath(p) for p in sys.path if p}, sys.prefix,
               sys.base_prefix, "/usr/lib", "/proc/", "/sys/", "/dev/null")  # fmt: skip

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if not _watching:
            return
        if starts and event == "subprocess.Popen" and args[0] == sys.executable:
            return
        if event in RUNS:
            raise Forbidden(f"{event} {args!r}")
        if event == "open" and isinstance(args[0], str):
            place = os.path.realpath(args[0])
            if writes and place.startswith(str(inputs)):
                return
            written = args[1] is not None and any(mode in args[1] for mode in "wxa+")
            if written or not (anywhere or place.startswith(allowed)):
                raise Forbidden(f"opens {args[0]!r} ({args[1]})")

    sys.addaudithook(hook)
