"""Pictures fetched by URL, from public hosts only.

A host name is resolved once, all its addresses are checked, and the connection goes to a checked
address. So it does not matter if the name resolves to another address later. Redirects follow the
same rules. An answer is read up to a limit of bytes and seconds.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from urllib.parse import SplitResult, urljoin, urlsplit

from captax.serve.addresses import Address, is_public

REDIRECTS = 3
SECONDS = 10.0
_MOVED = (301, 302, 303, 307, 308)
_INSTEAD = "send the picture itself"


class UrlError(Exception):
    """A URL is not allowed, or could not be fetched; the client reads why and what to do."""


def resolve(host: str, port: int) -> list[Address]:
    """Every address of a host."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(place[0]).partition("%")[0]) for *_, place in found]


def fetch(
    url: str,
    *,
    max_bytes: int,
    seconds: float = SECONDS,
    resolve: Callable[[str, int], list[Address]] = resolve,
    allowed: Callable[[Address], bool] = is_public,
) -> bytes:
    """The content of a URL. Raises `UrlError` if it may not be fetched or does not arrive."""
    deadline = time.monotonic() + seconds
    for _ in range(REDIRECTS + 1):
        parts = _parts(url)
        address = _checked(parts, resolve, allowed)
        moved, body = _get(parts, address, max_bytes, deadline)
        if moved is None:
            return body
        url = urljoin(url, moved)
    raise UrlError(f"the URL has more than {REDIRECTS} redirects; give the final URL")


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UrlError(f"is not a URL: {error}; correct it, or {_INSTEAD}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UrlError(f"only http and https URLs with a host are fetched; {_INSTEAD}")
    if parts.username is not None or parts.password is not None:
        raise UrlError(f"URLs with a user name or password are not fetched; {_INSTEAD}")
    if not url.isascii() or any(character <= " " for character in url):
        raise UrlError("is not a URL; encode spaces and letters beyond ASCII")
    return parts


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _checked(
    parts: SplitResult,
    resolve: Callable[[str, int], list[Address]],
    allowed: Callable[[Address], bool],
) -> Address:
    try:
        addresses = resolve(str(parts.hostname), _port(parts))
    except (OSError, ValueError):
        raise UrlError(
            f"host {parts.hostname} cannot be found; correct the URL, or {_INSTEAD}"
        ) from None
    # If one of them is private, this is an attack or a private network.
    if not addresses or not all(map(allowed, addresses)):
        raise UrlError(f"host {parts.hostname} is not on the public internet; {_INSTEAD}")
    return addresses[0]


def _get(
    parts: SplitResult, address: Address, max_bytes: int, deadline: float
) -> tuple[str | None, bytes]:
    """The address of a redirect, or the body."""
    left = deadline - time.monotonic()
    connection = http.client.HTTPConnection(str(parts.hostname), _port(parts))
    # A timeout of single reads does not stop a host that sends a byte from time to time.
    alarm: threading.Timer | None = None
    try:
        if left <= 0:
            raise TimeoutError
        sock = socket.create_connection((str(address), _port(parts)), timeout=left)
        lines = [sock]
        alarm = threading.Timer(max(deadline - time.monotonic(), 0), _hang_up, [lines])
        alarm.daemon = True
        alarm.start()
        connection.sock = sock
        if parts.scheme == "https":
            context = ssl.create_default_context()
            secure = context.wrap_socket(
                sock, server_hostname=parts.hostname, do_handshake_on_connect=False
            )
            lines.append(secure)
            secure.do_handshake()
            connection.sock = secure
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
        headers = {"Host": parts.netloc, "Accept": "image/*", "User-Agent": "captax"}
        for name, value in {**headers, "Connection": "close"}.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        if answer.status in _MOVED and answer.headers["Location"]:
            return answer.headers["Location"], b""
        if answer.status != 200:
            raise UrlError(
                f"the host answered with status {answer.status}; check the URL, or {_INSTEAD}"
            )
        if (answer.length or 0) > max_bytes:
            raise UrlError(
                f"the picture has {answer.length:,} bytes; {max_bytes:,} are allowed; make it "
                "smaller"
            )
        body = answer.read(max_bytes + 1)
        if len(body) > max_bytes:
            raise UrlError(
                f"the picture has more than the {max_bytes:,} bytes that are allowed; make it "
                "smaller"
            )
        if time.monotonic() > deadline:  # the body is not complete
            raise TimeoutError
        return None, body
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() > deadline:
            raise UrlError(f"the host took too long to answer; try again, or {_INSTEAD}") from None
        raise UrlError(
            f"the picture could not be fetched ({type(error).__name__}); try again, or {_INSTEAD}"
        ) from None
    finally:
        if alarm is not None:
            alarm.cancel()
        connection.close()


def _hang_up(lines: list[socket.socket]) -> None:
    for line in lines:
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)
