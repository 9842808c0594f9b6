"""Write files whole or not at all, and read files of bounded size, JSON among them."""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from captax.errors import CaptaxError

# The most bytes that are read of a file of each kind; honest files are far smaller.
CONFIG_LIMIT = 64 * 2**20  # a config, a recipe, a document, a text beside a picture
TOKENIZER_LIMIT = 256 * 2**20
PICTURE_LIMIT = 2**30
TABLE_LIMIT = 2**30  # captions, annotations, lists of pictures

_LONG = 180  # bytes of a name; it may have 255, and a partial file's name is longer


class OutputError(CaptaxError):
    """A file cannot be written; `errno` is the system's number for the reason."""

    def __init__(self, message: str, errno: int | None = None):
        super().__init__(message)
        self.errno = errno


def unwritable(path: Path, error: OSError) -> OutputError:
    """The error to raise if the disk or a permission does not allow `path` to be written."""
    return OutputError(
        f"{path}: cannot be written ({error.strerror or error}); free space, fix the permissions, "
        "or give another path",
        error.errno,
    )


@contextlib.contextmanager
def replacing(path: Path, *, owner: str = "") -> Iterator[Path]:
    """Give a partial file beside `path` to write to; rename it to `path` if the block succeeds.

    A reader sees the old file or the new one. Missing folders are made. If `path` is a link, the
    link stays and its target is replaced. A device or a pipe, such as /dev/null, is written
    directly and never replaced. Raises `OutputError` if the disk or a permission does not allow it;
    then nothing is left behind. A killed process leaves its partial file, which the next process
    with the same `owner` overwrites; by default the owner is the process.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        try:
            yield path
        except OSError as error:
            raise unwritable(path, error) from None
        return
    if path.is_symlink():
        path = path.resolve()
    name = path.name
    if len(os.fsencode(name)) > _LONG:
        name = hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
    partial = path.with_name(f".{name}.{owner or os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


# What makes a spreadsheet run a cell, also in its wide form and behind apostrophes.
_FORMULA = re.compile("('*)[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
CSV_HEADER = ["path", "caption", "score", "error"]  # how the CSV files of `captax caption` begin


def csv_cell(text: str, *, safe: bool = True) -> str:
    """A cell of a CSV file, with an apostrophe before what a spreadsheet would run as a formula.

    `csv_text` takes it off again. So what begins with an apostrophe and would look like such a cell
    gets one too, also where `safe` is False.
    """
    found = _FORMULA.match(text)
    return f"'{text}" if found and (safe or found[1]) else text


def csv_text(cell: str) -> str:
    """The text that `csv_cell` made a cell of."""
    found = _FORMULA.match(cell)
    return cell[1:] if found and found[1] else cell


def is_file(path: Path) -> bool:
    """Whether `path` is a file; a name that is too long for any file is not."""
    return os.path.isfile(path)  # noqa: PTH113 (`Path.is_file` raises OSError for such names)


def open_regular(path: str | os.PathLike[str], *, limit: int | None = None) -> io.BufferedReader:
    """Open a regular file to read; pipes, devices and files of more than `limit` bytes are refused.

    Nothing is waited for: a pipe without a writer is refused at once too. Raises `OSError`, whose
    `strerror` says why.
    """
    return os.fdopen(_opened(path, limit, pipes=False), "rb")


def read_bytes(path: str | os.PathLike[str], *, limit: int, pipes: bool = False) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    With `pipes`, a pipe or a terminal that the user named, such as the shell's `<(...)`, is read to
    its end too, unless it has no writer. Raises `OSError`, whose `strerror` says why.
    """
    with os.fdopen(_opened(path, limit, pipes=pipes), "rb") as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            content = file.read(limit + 1) or b""  # some files of /proc hold more than their size
        else:
            content = _piped(file.fileno(), limit, path)
    if len(content) > limit:
        raise _too_large(path, limit)
    return content


def read_text(path: str | os.PathLike[str], *, limit: int, pipes: bool = False) -> str:
    """The content of a file as `read_bytes` reads it, in UTF-8 with or without a byte order mark.

    Its line ends become line feeds. Raises `OSError`, or `UnicodeDecodeError`.
    """
    text = read_bytes(path, limit=limit, pipes=pipes).decode("utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


_PATIENCE = 5  # seconds in which a pipe must have got a writer


def _opened(path: str | os.PathLike[str], limit: int | None, *, pipes: bool) -> int:
    """A file descriptor of what `open_regular` and `read_bytes` accept."""
    waiting = getattr(os, "O_NONBLOCK", 0)  # opening a pipe waits for its writer without this
    flags = os.O_RDONLY | waiting | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except ValueError:  # a name with a null character
        reason = "its name has a null character"
        raise OSError(errno.EINVAL, reason, os.fspath(path)) from None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if pipes and (stat.S_ISFIFO(status.st_mode) or os.isatty(descriptor)):
            return descriptor
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
        if limit is not None and status.st_size > limit:
            raise _too_large(path, limit)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _piped(descriptor: int, limit: int, path: str | os.PathLike[str]) -> bytes:
    """At most `limit` bytes and one more of a pipe, which must get a writer before long."""
    until = time.monotonic() + _PATIENCE
    content = bytearray()
    while len(content) <= limit:
        try:
            part = os.read(descriptor, 2**16)
        except BlockingIOError:  # it has a writer, which has nothing to say as yet
            os.set_blocking(descriptor, True)
            continue
        if part:
            content += part
        elif content or os.get_blocking(descriptor):
            break
        elif time.monotonic() > until:
            raise OSError(errno.EPIPE, "it is a pipe that nothing writes to", os.fspath(path))
        else:
            time.sleep(0.05)
    return bytes(content[: limit + 1])


def _too_large(path: str | os.PathLike[str], limit: int) -> OSError:
    size = f"{limit / 2**20:,.0f} MiB" if limit >= 2**20 else f"{limit:,} bytes"
    return OSError(errno.EFBIG, f"it has more than {size}", os.fspath(path))


def write_text(path: Path, text: str, *, owner: str = "") -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with replacing(path, owner=owner) as partial:
        partial.write_text(text, encoding="utf-8")


def parse_json(text: str, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse JSON; `pairs` makes an object from its keys and values.

    Raises only `ValueError`: the text is not JSON, is nested too deeply for the parser, or contains
    half of a surrogate pair, which no file can hold.
    """
    try:
        content = json.loads(text, object_pairs_hook=pairs)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise ValueError(f"{half} is half a character") from None
    return content
