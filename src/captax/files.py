"""Files that appear whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from captax.errors import CaptaxError


class OutputError(CaptaxError):
    """A file cannot be written."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, renamed over it when the block ends well.

    A reader sees the old file or the new. Folders above are made. A link stays, and what it leads
    to is replaced; a device or a pipe is written to as it is, never renamed over: /dev/null belongs
    to everyone. Raises `OutputError` when the disk, or a permission, does not allow it; nothing is
    left behind then.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        try:
            yield path
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from None
        return
    if path.is_symlink():
        path = path.resolve()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
