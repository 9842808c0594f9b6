"""Pictures behind URLs, through the file systems of fsspec."""

import dataclasses
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from captax.collection.item import CollectionError
from captax.files import PICTURE_LIMIT, open_regular, read_bytes
from captax.images import ImageError


@dataclasses.dataclass(frozen=True, slots=True)
class RemotePicture:
    """A picture behind a URL."""

    url: str

    def read(self) -> bytes:
        """The picture's file. Raises `ImageError` if it cannot be fetched."""
        return _fetch(self.url)


@dataclasses.dataclass(frozen=True, slots=True)
class RemoteSpan:
    """A picture within a larger file behind a URL: `size` bytes from `offset`."""

    url: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The picture's file. Raises `ImageError` if it cannot be fetched."""
        return _fetch(self.url, self.offset, self.offset + self.size)


def opened(place: str) -> Any:
    """Open a file, given by path or URL, for reading and seeking."""
    if "://" not in place:
        return open_regular(place)
    files, path = file_system(place)
    if type(files) is LocalFileSystem:
        open_regular(path).close()  # refuses pipes and devices
    return files.open(path, "rb")


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path of the URL in it.

    Raises:
        CollectionError: there is no such file system, or a package that it needs is not installed.
    """
    try:
        return url_to_fs(url)
    except ImportError as error:
        raise CollectionError(
            f"{url}: {one_line(error)}; for http, pip install 'captax[remote]'"
        ) from None
    except ValueError as error:
        raise CollectionError(f"{url}: {one_line(error)}; correct the URL") from None


def _fetch(url: str, start: int | None = None, end: int | None = None) -> bytes:
    try:
        files, path = file_system(url)
        if start is None and type(files) is LocalFileSystem:  # a device has no end
            return read_bytes(path, limit=PICTURE_LIMIT)
        return files.cat_file(path, start=start, end=end)
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except Exception as error:  # each file system has errors of its own
        raise ImageError(f"cannot be fetched: {one_line(error)}") from None


def one_line(error: Exception) -> str:
    """The message of an error on one line, or its type if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__
