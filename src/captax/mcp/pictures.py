"""The pictures that a client may show: those in its own messages, and files in folders allowed."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from captax.data.inline import from_base64, from_data_url, is_data_url
from captax.errors import CaptaxError

# Bytes of a picture.
MOST_BYTES = 32 * 2**20


class NotAllowed(CaptaxError):
    """A picture may not be read, or is none."""


def folders_of(paths: Sequence[Path]) -> list[Path]:
    """The folders that may be read, without links. Raises `NotAllowed` for one that is none."""
    for path in paths:
        if not path.is_dir():
            raise NotAllowed(f"{path}: no such folder; give one as --allow")
    return [path.resolve() for path in paths]


def read_picture(path: str, image: str, folders: Sequence[Path]) -> bytes:
    """The file of a picture: at `path`, in one of the `folders`, or in `image`, which is base64.

    Relative paths begin in the first folder. Raises `NotAllowed`.
    """
    if bool(path) == bool(image):
        raise NotAllowed("give a picture either by `path` or in base64 as `image`")
    if image:
        try:
            data = from_data_url(image) if is_data_url(image) else from_base64(image)
        except ValueError as error:
            raise NotAllowed(f"`image` is no base64 ({error}); encode the file") from None
    else:
        data = _read(path, folders)
    if len(data) > MOST_BYTES:
        raise NotAllowed(f"the picture has more than {MOST_BYTES:,} bytes; give a smaller one")
    return data


def _read(path: str, folders: Sequence[Path]) -> bytes:
    refused = NotAllowed(
        f"{path}: is no file in a folder that may be read; start captax mcp with --allow FOLDER"
    )
    try:
        real = (folders[0] / path).resolve(strict=True)
        if not any(real.is_relative_to(folder) for folder in folders):
            raise refused
        # Without waiting for the other end of a pipe.
        handle = os.open(real, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError, RuntimeError):  # a loop of links is the last before Python 3.13
        raise refused from None
    try:
        # What was opened is what lies there, also if a folder became a link meanwhile.
        opened, there = os.fstat(handle), real.stat()
        same = (opened.st_dev, opened.st_ino) == (there.st_dev, there.st_ino)
        if not (same and real.resolve(strict=True) == real and stat.S_ISREG(opened.st_mode)):
            raise refused
        with os.fdopen(os.dup(handle), "rb") as file:
            return file.read(MOST_BYTES + 1)
    except (OSError, RuntimeError):
        raise refused from None
    finally:
        os.close(handle)
