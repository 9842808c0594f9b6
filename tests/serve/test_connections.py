"""Clients that speak HTTP badly, or too much of it: others are answered all the while."""

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any

import pytest
from starlette.responses import Response

from captax.pipelines.captioner import Captioner
from captax.serve.connections import MOST_CHUNKS, MOST_HEAD, MOST_HEADERS
from serve.conftest import address, client_of, encoded, listening, png, until

HEAD = b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def server(tiny_captioner: Captioner) -> Iterator[Any]:
    with listening(tiny_captioner) as server:
        yield server


def told(server: Any, sent: bytes) -> tuple[int, Any]:
    """The status and the body of the one answer to what is sent, after which the server closes."""
    with socket.create_connection(address(server), timeout=30) as client:
        client.sendall(sent)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"HTTP/1.1" not in body
    return int(head.split()[1]), json.loads(body)


def chunked(body: bytes, size: int) -> bytes:
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "kind"),
    [
        (CHUNKED + b"1\r\n \r\n" * (MOST_CHUNKS + 10), 400, "too_many_chunks"),
        (GET + b"a:\r\n" * (MOST_HEADERS + 1) + b"\r\n", 431, "too_large_head"),
        (GET + b"a: " + b"b" * (MOST_HEAD + 5000), 431, "too_large_head"),
        (CHUNKED + b"0\r\n" + b"a:\r\n" * 9000 + b"\r\n", 431, "too_large_head"),
        (CHUNKED + b"Z\r\n", 400, "invalid_http"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "invalid_http"),
    ],
)
def test_what_is_refused_before_it_is_a_request(
    server: Any, caplog: pytest.LogCaptureFixture, sent: bytes, status: int, kind: str
) -> None:
    with caplog.at_level(logging.WARNING):
        found, body = told(server, sent)
        until(lambda: server.service.working == 0)
    assert (found, body["error"]["type"]) == (status, kind)
    assert len(body["error"]["message"].splitlines()) == 1
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []


def test_a_body_in_chunks_of_a_usual_size_is_read(server: Any) -> None:
    body = json.dumps({"images": [encoded(png(0, (200, 200)))]}).encode()
    for size in (200, 1500, 200_000):
        sent = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        status, answer = told(server, sent + chunked(body, size))
        assert status == 200, answer


def test_requests_behind_each_other_are_answered_in_order(server: Any) -> None:
    paths = [f"/no/{n}" for n in range(200)]
    asked = "".join(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n" for path in paths)
    with socket.create_connection(address(server), timeout=30) as client:
        client.sendall(asked.encode() + GET + b"Connection: close\r\n\r\n")
        answers = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    places = [answers.index(f"GET {path}: ") for path in paths]
    assert places == sorted(places)
    assert answers.count("HTTP/1.1 404") == 200
    assert answers.count("HTTP/1.1 200") == 1


def test_a_client_that_does_not_read_is_closed(tiny_captioner: Captioner) -> None:
    with listening(tiny_captioner, answer_timeout=0.3) as server:
        server.config.app.add_route("/large", lambda request: Response(bytes(20 << 20)))
        with socket.create_connection(address(server), timeout=30) as client:
            client.sendall(GET.replace(b"/health", b"/large") + b"\r\n")
            until(lambda: any(each.unread for each in list(server.server_state.connections)))
            health(server)
            until(lambda: not server.server_state.connections)


def health(server: Any) -> float:
    """Seconds that an honest client waits for an answer on a new connection."""
    started = time.monotonic()
    host, port = address(server)
    connection = HTTPConnection(host, port, timeout=60)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()
    return time.monotonic() - started


def _endless(sent: bytes, repeated: bytes) -> Callable[[socket.socket], Iterator[None]]:
    def attack(client: socket.socket) -> Iterator[None]:
        client.sendall(sent)
        while True:
            client.sendall(repeated)
            yield

    return attack


def _pipelining(client: socket.socket) -> Iterator[None]:
    client.setblocking(False)
    while True:
        with contextlib.suppress(BlockingIOError):
            client.send((GET + b"\r\n") * 1000)
        with contextlib.suppress(BlockingIOError):
            client.recv(65536)
        yield


ATTACKS = {
    "chunks": _endless(CHUNKED, b"1\r\n \r\n" * 40_000),
    "lines": _endless(GET, b"abc: def\r\n" * 1000),
    "heads": _endless(GET + b"\r\n", GET + b"a:\r\n" * 60_000 + b"\r\n"),
    "trailers": _endless(CHUNKED + b"0\r\n", b"a:\r\n" * 10_000),
    "pipelining": _pipelining,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_others_are_answered_meanwhile(server: Any, name: str) -> None:
    ended = threading.Event()

    def attack() -> None:
        while not ended.is_set():
            with (
                contextlib.suppress(OSError),
                socket.create_connection(address(server), timeout=1) as client,
            ):
                for _ in ATTACKS[name](client):
                    if ended.is_set():
                        break

    attackers = [threading.Thread(target=attack) for _ in range(8)]
    for each in attackers:
        each.start()
    waited = []
    try:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            waited.append(health(server))
            time.sleep(0.1)
    finally:
        ended.set()
        for each in attackers:
            each.join(30)
    assert max(waited) < 2


@pytest.mark.slow
def test_idle_connections_from_many_addresses_keep_nobody_out(tiny_captioner: Captioner) -> None:
    with (
        listening(tiny_captioner, max_connections=1000) as server,
        contextlib.ExitStack() as clients,
    ):
        for n in range(1300):
            source = (f"127.0.0.{2 + n % 10}", 0)
            client = socket.create_connection(address(server), timeout=30, source_address=source)
            clients.enter_context(client)
            if n % 3 == 0:
                client.sendall(GET)
        assert health(server) < 2
        assert len(server.server_state.connections) <= 1000


@pytest.mark.parametrize("allowed", [(), ("https://example.org",)])
def test_a_browser_asks_whether_a_page_may(
    tiny_captioner: Captioner, allowed: tuple[str, ...]
) -> None:
    with client_of(tiny_captioner, allow_origins=allowed) as client:
        for origin in ("https://example.org", "https://example.com"):
            asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            refused = client.options(
                "/v1/caption", headers={**asks, "Access-Control-Request-Method": "PUT"}
            )
            assert refused.status_code in (400, 403)
            assert "message" in refused.json()["error"]
            answer = client.options("/v1/caption", headers=asks)
            may = origin in allowed
            assert answer.is_success == may
            assert (answer.headers.get("access-control-allow-origin") == origin) == may
            if not may:
                assert answer.json()["error"]["type"] == "foreign_origin"
                assert len(answer.json()["error"]["message"].splitlines()) == 1
