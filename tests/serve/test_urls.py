"""Pictures by URL: what is fetched, and what must never be.

All of 127.0.0.0/8 is this machine: 127.0.0.2 plays the public internet here, and is allowed alone.
"""

import ipaddress
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from captax.serve.urls import UrlError, fetch, is_public

PUBLIC = ipaddress.ip_address("127.0.0.2")


class Host(ThreadingHTTPServer):
    """A host whose answers are given by path; it remembers who asked for what."""

    def __init__(self, address: str):
        super().__init__((address, 0), _Handler)
        self.asked: list[tuple[str, str | None]] = []
        self.answers: dict[str, Any] = {}
        self.port = self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Host"]))
        self.server.answers[self.path](self)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def giving(body: bytes, status: int = 200, **headers: str) -> Any:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """One that is public, one of the inside."""
    both = Host("127.0.0.2"), Host("127.0.0.1")
    threads = [threading.Thread(target=host.serve_forever, args=(0.01,)) for host in both]
    for thread in threads:
        thread.start()
    yield both
    for host, thread in zip(both, threads, strict=True):
        host.shutdown()
        host.server_close()
        thread.join()


def get(url: str, names: dict[str, list[str]] | None = None, **options: Any) -> bytes:
    known = names or {}

    def resolve(host: str, port: int) -> list[Any]:
        return [ipaddress.ip_address(each) for each in known.get(host, [host])]

    options = {"max_bytes": 1000, "allowed": lambda address: address == PUBLIC, **options}
    return fetch(url, resolve=resolve, **options)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1",
        "::", "::1", "fe80::1", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::10.0.0.1",
        "64:ff9b:1::8.8.8.8", "2002:7f00:1::", "2002:0a00:1::",
        "192.0.0.1", "192.0.0.8", "192.0.0.170", "192.31.196.1", "192.52.193.1", "192.88.99.1",
        "192.175.48.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "::ffff:192.0.0.8",
        "::ffff:192.88.99.1", "::ffff:0:8.8.8.8", "64:ff9b::192.88.99.1", "2002:c058:6301::",
        "100::1", "100:0:0:1::1", "2001::1", "2001:0:808:808::1", "2001:1::1", "2001:2::1",
        "2001:20::1", "2620:4f:8000::1", "3fff::1", "3fff:fff::1", "4000::1", "5f00::1", "fec0::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_of_the_internet(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8", "93.184.216.34", "192.0.1.1", "192.88.98.1", "2606:2800:220:1::1", "2001:200::1",
        "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1",
    ],
)  # fmt: skip
def test_addresses_that_are(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_a_picture_is_fetched_by_the_name_it_was_asked_for(hosts: tuple[Host, Host]) -> None:
    public, _ = hosts
    public.answers["/a.png?x=1"] = giving(b"picture")
    url = f"http://pictures.example:{public.port}/a.png?x=1#part"
    assert get(url, {"pictures.example": ["127.0.0.2"]}) == b"picture"
    assert public.asked == [("/a.png?x=1", f"pictures.example:{public.port}")]


def test_redirects_are_followed_among_public_hosts_only(hosts: tuple[Host, Host]) -> None:
    public, inside = hosts
    inside.answers["/secret"] = giving(b"secret")
    public.answers["/moved"] = giving(b"", 302, Location="/here")
    public.answers["/here"] = giving(b"picture")
    public.answers["/trap"] = giving(b"", 307, Location=f"http://127.0.0.1:{inside.port}/secret")
    public.answers["/file"] = giving(b"", 302, Location="file:///etc/passwd")
    public.answers["/round"] = giving(b"", 302, Location="/round")
    base = f"http://127.0.0.2:{public.port}"
    assert get(f"{base}/moved") == b"picture"
    with pytest.raises(UrlError, match="not on the public internet"):
        get(f"{base}/trap")
    with pytest.raises(UrlError, match="only http and https"):
        get(f"{base}/file")
    with pytest.raises(UrlError, match="redirects"):
        get(f"{base}/round")
    assert len([path for path, _ in public.asked if path == "/round"]) == 4
    assert inside.asked == []


def test_names_of_the_inside_are_not_fetched(hosts: tuple[Host, Host]) -> None:
    _, inside = hosts
    inside.answers["/secret"] = giving(b"secret")
    names = {
        "inside.example": ["127.0.0.1"],
        "both.example": ["127.0.0.2", "127.0.0.1"],
        "nowhere.example": [],
    }
    for name in names:
        with pytest.raises(UrlError, match="not on the public internet"):
            get(f"http://{name}:{inside.port}/secret", names)
    with pytest.raises(UrlError, match="not on the public internet"):
        fetch(f"http://localhost:{inside.port}/secret", max_bytes=1000)
    assert inside.asked == []


def test_the_name_is_resolved_once(hosts: tuple[Host, Host]) -> None:
    """A name that turns to the inside once it was checked is not asked for again."""
    public, inside = hosts
    public.answers["/a"] = giving(b"picture")
    inside.answers["/a"] = giving(b"secret")
    turns = iter(["127.0.0.2", "127.0.0.1", "127.0.0.1"])
    found = fetch(
        f"http://turning.example:{public.port}/a",
        max_bytes=1000,
        resolve=lambda host, port: [ipaddress.ip_address(next(turns))],
        allowed=lambda address: address == PUBLIC,
    )
    assert found == b"picture"
    assert inside.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.2/a", "file:///etc/passwd", "http://", "http:///a", "gopher://127.0.0.2/",
        "http://user@127.0.0.2/", "http://user:password@127.0.0.2/", "http://127.0.0.2:99999/",
        "http://127.0.0.2/a b", "http://127.0.0.2/\r\nHost: other", "http://[::1", "//127.0.0.2/",
    ],
)  # fmt: skip
def test_what_is_no_plain_url_is_not_fetched(url: str) -> None:
    with pytest.raises(UrlError):
        get(url)


def test_sizes_are_bounded_whether_they_are_declared_or_not(hosts: tuple[Host, Host]) -> None:
    public, _ = hosts
    base = f"http://127.0.0.2:{public.port}"
    public.answers["/declared"] = giving(b"", Content_Length="5000000")
    public.answers["/not"] = giving(bytes(1001))
    public.answers["/just"] = giving(bytes(1000))
    with pytest.raises(UrlError, match="the picture has 5,000,000 bytes; 1,000"):
        get(f"{base}/declared")
    with pytest.raises(UrlError, match="more than the 1,000 bytes"):
        get(f"{base}/not")
    assert get(f"{base}/just") == bytes(1000)


def test_a_host_that_drips_is_left_in_time(hosts: tuple[Host, Host]) -> None:
    public, _ = hosts
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not stop.wait(0.02):
                handler.wfile.write(b"x")
        except OSError:
            pass

    public.answers["/slow"] = drip
    began = time.monotonic()
    with pytest.raises(UrlError, match="the host took too long to answer"):
        get(f"http://127.0.0.2:{public.port}/slow", seconds=0.3, max_bytes=10**9)
    stop.set()
    assert time.monotonic() - began < 20


def test_hosts_that_fail_are_told_plainly(hosts: tuple[Host, Host]) -> None:
    public, _ = hosts
    public.answers["/gone"] = giving(b"", 404)
    public.answers["/odd"] = lambda handler: handler.wfile.write(b"not http at all\r\n\r\n")
    base = f"http://127.0.0.2:{public.port}"
    with pytest.raises(UrlError, match="status 404"):
        get(f"{base}/gone")
    with pytest.raises(UrlError, match="could not be fetched"):
        get(f"{base}/odd")
    with pytest.raises(UrlError, match="could not be fetched"):
        get("http://127.0.0.2:9/closed")
