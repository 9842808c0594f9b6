"""Files that appear whole or not at all, and what others wrote into theirs: names, JSON."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from captax.errors import CaptaxError

_LONG = 180  # of the 255 bytes that a name may have, what leaves room for a partial file's


class OutputError(CaptaxError):
    """A file cannot be written; `errno` says why, as the system does."""

    def __init__(self, message: str, errno: int | None = None):
        super().__init__(message)
        self.errno = errno


def unwritable(path: Path, error: OSError) -> OutputError:
    """What to raise where the disk, or a permission, does not allow `path` to be written."""
    return OutputError(f"{path}: cannot be written ({error.strerror or error})", error.errno)


@contextlib.contextmanager
def replacing(path: Path, *, owner: str = "") -> Iterator[Path]:
    """A path beside `path` to write to, renamed over it when the block ends well.

    A reader sees the old file or the new. Folders above are made. A link stays, and what it leads
    to is replaced; a device or a pipe is written to as it is, never renamed over: /dev/null belongs
    to everyone. Raises `OutputError` when the disk, or a permission, does not allow it; nothing is
    left behind then. What a killed process leaves has the name that the next of the same `owner`
    writes to: by default each process is its own.
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
    """Whether there is a file, for a name out of another: one too long for any is none."""
    return os.path.isfile(path)  # noqa: PTH113 (`Path.is_file` raises OSError then)


def write_text(path: Path, text: str, *, owner: str = "") -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with replacing(path, owner=owner) as partial:
        partial.write_text(text, encoding="utf-8")


def parse_json(text: str, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """What JSON says; `pairs` makes an object of its keys and values.

    Raises `ValueError`, and nothing else, for what is no JSON, is nested deeper than the parser
    goes, or has a text that no file can hold: half of a surrogate pair.
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
