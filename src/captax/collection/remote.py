"""Pictures behind URLs, by whichever of fsspec's file systems knows them."""

import dataclasses
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from captax.collection.item import CollectionError
from captax.images import ImageError


@dataclasses.dataclass(frozen=True, slots=True)
class RemotePicture:
    """A picture behind a URL."""

    url: str

    def read(self) -> bytes:
        """The picture's file. Raises `ImageError` when it cannot be had."""
        return _fetch(self.url)


@dataclasses.dataclass(frozen=True, slots=True)
class RemoteSpan:
    """A picture within a larger file behind a URL, `size` bytes from `offset` on."""

    url: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The picture's file. Raises `ImageError` when it cannot be had."""
        return _fetch(self.url, self.offset, self.offset + self.size)


def opened(place: str) -> Any:
    """A file, given by path or URL, to be read and sought in."""
    if "://" not in place:
        return Path(place).open("rb")
    files, path = file_system(place)
    return files.open(path, "rb")


def file_system(url: str) -> tuple[Any, str]:
    """The file system that a URL is of, and what that calls it.

    Raises:
        CollectionError: there is none, or what it needs is not installed.
    """
    try:
        return url_to_fs(url)
    except ImportError as error:
        raise CollectionError(
            f"{url}: {one_line(error)}; for http, pip install 'captax[remote]'"
        ) from None
    except ValueError as error:
        raise CollectionError(f"{url}: {one_line(error)}") from None


def _fetch(url: str, start: int | None = None, end: int | None = None) -> bytes:
    try:
        files, path = file_system(url)
        return files.cat_file(path, start=start, end=end)
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except Exception as error:  # each file system has errors of its own
        raise ImageError(f"cannot be fetched: {one_line(error)}") from None


def one_line(error: Exception) -> str:
    """What an error says, on one line; its type, where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
