"""Pictures behind URLs, through the file systems of fsspec.

A host may send without end, or stop in the middle. So what one request brings is bounded, in bytes
and in time.
"""

import dataclasses
import re
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from captax.collection.item import CollectionError
from captax.data.inline import from_data_url
from captax.files import PICTURE_LIMIT, open_regular, read_bytes
from captax.images import ImageError

SECONDS = 300.0  # for one answer over HTTP
SILENCE = 30.0  # seconds without a byte of it
_HTTP = re.compile(r"(?:^|::)(https?)://")


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


def data_picture(url: str) -> bytes | ImageError:
    """The picture in a `data:` URL, or why there is none."""
    try:
        return from_data_url(url)
    except ValueError as error:
        return ImageError(f"is a data: URL that cannot be read: {error}; write it again")


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
    bounded = {scheme: {"get_client": _client} for scheme in _HTTP.findall(url)}
    try:
        return url_to_fs(url, **bounded)
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
        if start is None and not _HTTP.match(url):  # a host of HTTP may not know parts of files
            start, end = 0, PICTURE_LIMIT + 1
        elif start is not None and end is not None and end - start > PICTURE_LIMIT:
            raise _too_much()
        content = files.cat_file(path, start=start, end=end)
        if len(content) > PICTURE_LIMIT:
            raise _too_much()
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except TimeoutError:
        raise ImageError(
            f"cannot be fetched: the host sent nothing for {SILENCE:g} seconds, or was not done "
            f"after {SECONDS:g}; try again later"
        ) from None
    except Exception as error:  # each file system has errors of its own
        raise ImageError(f"cannot be fetched: {one_line(error)}") from None
    return content


def _too_much() -> OSError:
    return OSError(f"more than {PICTURE_LIMIT:,} bytes, which is the most for a picture; shrink it")


async def _client(**settings: Any) -> Any:
    """A client of HTTP whose answers are bounded."""
    # From an extra, "remote".
    import aiohttp

    class Answer(aiohttp.ClientResponse):
        async def read(self) -> bytes:
            if self._body is None:
                content = bytearray()
                try:
                    async for chunk in self.content.iter_any():
                        content += chunk
                        if len(content) > PICTURE_LIMIT:
                            raise _too_much()
                except BaseException:
                    self.close()
                    raise
                self._body = bytes(content)
            return await super().read()

    bounds = aiohttp.ClientTimeout(total=SECONDS, sock_connect=SILENCE, sock_read=SILENCE)
    return aiohttp.ClientSession(**{"timeout": bounds, "response_class": Answer, **settings})


def one_line(error: Exception) -> str:
    """The message of an error on one line, or its type if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__
