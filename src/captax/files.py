"""Write files whole or not at all, and parse JSON from outside."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from captax.errors import CaptaxError

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


def is_file(path: Path) -> bool:
    """Whether `path` is a file; a name that is too long for any file is not."""
    return os.path.isfile(path)  # noqa: PTH113 (`Path.is_file` raises OSError for such names)


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
