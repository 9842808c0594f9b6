"""Pictures behind URLs, by whichever of fsspec's file systems knows them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from captax.collection.items import ARCHIVES, MASKS, CollectionError, Item, place_of
from captax.images import ImageError, is_image_path


@dataclass(frozen=True, slots=True)
class RemotePicture:
    """A picture behind a URL."""

    url: str

    def read(self) -> bytes:
        """The picture's file. Raises `ImageError` when it cannot be had."""
        return _fetch(self.url)


@dataclass(frozen=True, slots=True)
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


def remote_items(url: str) -> Iterator[Item]:
    """The pictures that a URL means: a file, an archive, a folder or, but by HTTP, a pattern.

    Raises:
        CollectionError: its file system is unknown here or does not answer.
    """
    from fsspec.core import has_magic

    files, path = file_system(url)
    by_http = url.startswith(("http://", "https://"))  # where "?" begins a query
    try:
        if not by_http and has_magic(path):
            root, found = "", sorted(files.glob(path))
        elif not by_http and files.isdir(path):
            root, found = path, sorted(files.find(path))
        else:
            root, found = "", [path]
    except Exception as error:  # each file system has errors of its own
        raise CollectionError(f"{url}: cannot be looked at: {_reason(error)}") from None
    for each in found:
        name = each if by_http else files.unstrip_protocol(each)
        if each.lower().endswith(ARCHIVES) and not root:
            from captax.collection.archives import archive_items

            yield from archive_items(name)
        elif found == [path] or (is_image_path(each) and not each.endswith(MASKS)):
            within = each.removeprefix(root).split("://")[-1].split("?")[0]
            yield Item(name, RemotePicture(name), place_of(PurePosixPath(within)))


def file_system(url: str) -> tuple[Any, str]:
    """The file system that a URL is of, and what that calls it.

    Raises:
        CollectionError: there is none, or what it needs is not installed.
    """
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except ImportError as error:
        raise CollectionError(
            f"{url}: {_reason(error)}; for http, pip install 'captax[remote]'"
        ) from None
    except ValueError as error:
        raise CollectionError(f"{url}: {_reason(error)}") from None


def _fetch(url: str, start: int | None = None, end: int | None = None) -> bytes:
    try:
        files, path = file_system(url)
        return files.cat_file(path, start=start, end=end)
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except Exception as error:  # each file system has errors of its own
        raise ImageError(f"cannot be fetched: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
