"""A server that listens: many clients at once, clients that hang up, and its end."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import requests

import captax
from captax.errors import CaptaxError
from captax.pipelines.captioner import Captioner
from captax.serve.server import refuse_taken, with_descriptors
from captax.serve.settings import Settings
from captax.serve.work import Worker
from serve import conftest
from serve.conftest import address, client_of, encoded, listening, png, until


class Held:
    """Keeps the model busy with what comes, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.entered, self.open = threading.Event(), threading.Event()
        self.open.set()
        self.seen = 0
        run = Worker.__call__

        def slow(worker: Worker, work: Any, inputs: Any) -> Any:
            self.entered.set()
            assert self.open.wait(30)
            self.seen += len(inputs)
            return run(worker, work, inputs)

        monkeypatch.setattr(Worker, "__call__", slow)

    def hold(self) -> None:
        self.seen = 0
        self.entered.clear()
        self.open.clear()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


def ask(server: Any, picture: bytes, **options: Any) -> tuple[int, dict[str, str], Any]:
    connection = HTTPConnection(*address(server), timeout=60)
    try:
        return send(connection, picture, **options)
    finally:
        connection.close()


def send(
    connection: HTTPConnection, picture: bytes, **options: Any
) -> tuple[int, dict[str, str], Any]:
    body = json.dumps({"images": [encoded(picture)], **options})
    connection.request("POST", "/v1/caption", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    return answer.status, headers, json.loads(answer.read())


@pytest.mark.slow
def test_several_devices_answer_as_one(checkpoint: Callable[[str], Path]) -> None:
    name = checkpoint("vit-gpt2")
    pictures = [png(i) for i in range(12)]
    want = [each.text for each in captax.load(name).caption(pictures)]

    def asked(picture: bytes) -> str:
        body = json.dumps({"images": [encoded(picture)]}).encode()
        code, answer = conftest.send(port, "POST", "/v1/caption", body, "application/json")
        assert code == 200, answer
        return json.loads(answer)["captions"][0]["caption"]

    arguments = ("--devices", "4", "--tensor-parallel", "2", "--max-batch", "2")
    server = conftest.served("--model", str(name), *arguments, devices=4)
    with server as (_, port), ThreadPoolExecutor(8) as clients:
        assert list(clients.map(asked, pictures)) == want


@pytest.mark.slow
def test_everybody_gets_the_caption_of_their_own_picture(tiny_captioner: Captioner) -> None:
    pictures = [png(i) for i in range(24)]
    options = {"do_sample": True, "temperature": 1.5, "seed": 3}
    plain = [each.text for each in tiny_captioner.caption(pictures, batch_size=4)]
    drawn = [tiny_captioner.caption([p], **options)[0].text for p in pictures]  # type: ignore[arg-type]
    assert len(set(plain)) > 3
    sizes: list[int] = []
    with (
        listening(tiny_captioner, queue=100) as server,
        ThreadPoolExecutor(16) as clients,
    ):
        watch = server.service.batcher._watch
        server.service.batcher._watch = lambda size, s: (sizes.append(size), watch(size, s))
        found = list(clients.map(lambda picture: ask(server, picture), pictures))
        sampled = list(clients.map(lambda picture: ask(server, picture, **options), pictures))
    assert [body["captions"][0]["caption"] for _, _, body in found] == plain
    assert [body["captions"][0]["caption"] for _, _, body in sampled] == drawn
    assert max(sizes) > 1
    assert sum(sizes) == 48


@pytest.mark.parametrize("host", ["::", "0:0::0"])
def test_all_interfaces_are_those_of_both_kinds_of_addresses(
    tiny_captioner: Captioner, host: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    refuse_taken(host, port)
    with listening(tiny_captioner, host=host, port=port):
        for client in ("127.0.0.1", "[::1]", "localhost"):
            assert requests.get(f"http://{client}:{port}/v1/model").status_code == 200
        with pytest.raises(CaptaxError, match="cannot be listened on"):
            refuse_taken(host, port)
    refuse_taken(host, port)  # it is free again


def test_loopback_answers_to_its_names(tiny_captioner: Captioner) -> None:
    with listening(tiny_captioner, host="::1") as server:
        url = f"http://[::1]:{address(server)[1]}/v1/model"
        for name in ("[::1]", "[::1]:80", "localhost", "[::ffff:127.0.0.1]", "127.0.0.1"):
            assert requests.get(url, headers={"Host": name}).status_code == 200, name


def test_a_full_queue_refuses_and_says_when(tiny_captioner: Captioner, held: Held) -> None:
    with (
        listening(tiny_captioner, queue=3, max_images=3) as server,
        ThreadPoolExecutor(8) as clients,
    ):
        held.hold()
        taken = [clients.submit(ask, server, png(i)) for i in range(3)]
        until(lambda: server.service.batcher.full)
        status, headers, body = ask(server, png(9))
        assert status == 429
        assert 1 <= int(headers["retry-after"]) <= 60
        assert body["error"]["type"] == "queue_full"
        held.open.set()
        assert [each.result()[0] for each in taken] == [200] * 3
        assert ask(server, png(9))[0] == 200
        assert server.service.batcher.depth == server.service.working == 0


def test_bodies_in_memory_are_bounded_together(tiny_captioner: Captioner, held: Held) -> None:
    with (
        listening(tiny_captioner, max_bytes=20_000, queue=100) as server,
        ThreadPoolExecutor(16) as clients,
    ):
        held.hold()
        body = json.dumps({"images": [encoded(png(0))]})
        server.service.room.most = 3 * len(body)
        taken = [clients.submit(ask, server, png(0)) for _ in range(3)]
        until(lambda: server.service.batcher.depth == 3)
        status, headers, answer = ask(server, png(0))
        assert (status, answer["error"]["type"]) == (429, "queue_full")
        assert "retry-after" in headers
        held.open.set()
        assert [each.result()[0] for each in taken] == [200] * 3
        assert ask(server, png(0))[0] == 200
        assert server.service.room.taken == 0


def silent(server: Any, sent: bytes, count: int) -> list[socket.socket]:
    """Connections that send so much of a body of 20,000 bytes, and then nothing."""
    head = b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    slow = [socket.create_connection(address(server)) for _ in range(count)]
    for each in slow:
        each.sendall(head + b"Content-Length: 20000\r\n\r\n" + sent)
    return slow


@pytest.mark.parametrize("sent", [b"", b" " * 19_000])
def test_who_sends_nothing_keeps_nobody_out(tiny_captioner: Captioner, sent: bytes) -> None:
    with listening(tiny_captioner, max_bytes=20_000) as server:
        slow = silent(server, sent, 20)
        until(lambda: server.service.working >= 16)
        assert ask(server, png(0))[0] == 200
        for each in slow:
            each.close()
        until(lambda: server.service.working == 0)
        assert server.service.room.taken == 0


def test_a_silent_body_and_a_silent_head_are_ended(tiny_captioner: Captioner) -> None:
    with listening(tiny_captioner, header_timeout=0.3) as server:
        (body,) = silent(server, b"{", 1)
        head = socket.create_connection(address(server))
        head.sendall(b"GET / HTTP/1.1\r\n")
        body.settimeout(30)
        head.settimeout(30)
        assert b"408" in body.recv(4096).split(b"\r\n")[0]
        with contextlib.suppress(ConnectionResetError):
            assert head.recv(10) == b""
        body.close()
        head.close()


def test_idle_connections_give_way_to_new_ones(tiny_captioner: Captioner) -> None:
    with listening(tiny_captioner, max_connections=8) as server:
        idle = [socket.create_connection(address(server)) for _ in range(30)]
        assert ask(server, png(0))[0] == 200
        until(lambda: len(server.server_state.connections) <= 8)
        for each in idle:
            each.close()


WAIT = Path("/proc/sys/net/core/somaxconn")


@pytest.mark.skipif(
    not WAIT.is_file() or int(WAIT.read_text()) < 400, reason="this system lets fewer wait"
)
def test_a_crowd_that_comes_at_once_is_let_in(
    tiny_captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who finds no room to wait in would try again only after a second, and after three."""
    blocked, go_on = threading.Event(), threading.Event()

    async def block(counter: int) -> bool:
        blocked.set()
        go_on.wait(30)
        return False

    with listening(tiny_captioner) as server, contextlib.ExitStack() as clients:
        with monkeypatch.context() as patch:
            patch.setattr(server, "on_tick", block)
            assert blocked.wait(30)
            for _ in range(400):
                clients.enter_context(socket.create_connection(address(server), timeout=10))
            go_on.set()
        assert ask(server, png(0))[0] == 200


def test_there_are_no_more_connections_than_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(max_connections=1000)
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "setrlimit", lambda *limit: None)
    for limit, most in ((20_000, 1000), (resource.RLIM_INFINITY, 1000), (512, 256), (64, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, limit=limit: (limit, limit))
        caplog.clear()
        assert with_descriptors(settings).max_connections == most
        assert (f"at most {most} connections" in caplog.text) == (most < 1000)


def test_pictures_of_clients_that_hung_up_never_reach_the_model(
    tiny_captioner: Captioner, held: Held
) -> None:
    with listening(tiny_captioner) as server, ThreadPoolExecutor(2) as clients:
        held.hold()
        first = clients.submit(ask, server, png(0))
        assert held.entered.wait(30)
        body = json.dumps({"images": [encoded(png(1))]}).encode()
        head = f"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: application/json\r\n\r\n"
        gone = [socket.create_connection(address(server)) for _ in range(4)]
        for each in gone:
            each.sendall(head.encode() + body)
        half = socket.create_connection(address(server))
        half.sendall(head.encode() + body[:50])  # hangs up while it still sends
        until(lambda: server.service.working == 6 and server.service.batcher.depth == 5)
        for each in (*gone, half):
            each.close()
        until(lambda: server.service.working == 1)
        assert server.service.batcher.depth == 1
        held.open.set()
        assert first.result()[0] == 200
        assert ask(server, png(2))[0] == 200
        assert held.seen == 2
        assert "captax_dropped_pictures_total 4.0" in server.service.metrics.text().decode()


def test_the_end_finishes_what_was_taken_and_refuses_the_rest(
    tiny_captioner: Captioner, held: Held
) -> None:
    with listening(tiny_captioner) as server, ThreadPoolExecutor(8) as clients:
        kept = HTTPConnection(*address(server), timeout=60)
        assert send(kept, png(0))[0] == 200
        held.hold()
        taken = [clients.submit(ask, server, png(i)) for i in range(5)]
        until(lambda: server.service.working == 5)
        server.should_exit = True
        until(lambda: server.service.state == "shutting down")
        for connection in (kept, HTTPConnection(*address(server), timeout=60)):
            status, headers, body = send(connection, png(9))
            assert (status, body["error"]["type"]) == (503, "shutting_down")
            assert headers["connection"] == "close"
            assert int(headers["retry-after"]) > 0
            connection.close()
        held.open.set()
        assert [each.result()[0] for each in taken] == [200] * 5
        until(lambda: not server.servers[0].sockets)


def test_a_body_that_is_too_large_is_answered_and_not_cut_off(tiny_captioner: Captioner) -> None:
    with listening(tiny_captioner) as server:
        connection = HTTPConnection(*address(server), timeout=60)
        body = bytes(350_000)
        connection.request("POST", "/v1/caption", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 413
        assert json.loads(answer.read())["error"]["type"] == "too_large"
        connection.close()


@pytest.fixture
def command(tiny_captioner: Captioner, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """`command(*options)`: the command in a process of its own."""
    tiny_captioner.save(tmp_path / "tiny")
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        arguments = ["serve", "--model", str(tmp_path / "tiny"), "--port", "0", *options]
        environment = {**os.environ, "CAPTAX_CACHE": str(tmp_path / "cache")}
        process = subprocess.Popen(
            [sys.executable, "-m", "captax", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_stop(command: Callable[..., Any]) -> None:
    process = command("--max-batch", "2", "--api-key", "s3cret")
    lines: list[str] = []
    while not lines or not lines[-1].endswith("ready\n"):
        lines.append(process.stderr.readline())
        assert lines[-1]
    assert [line.split(" INFO ")[1].split(" ")[0] for line in lines[:1]] == ["loading"]
    [line] = [line for line in lines if "listening on http://127.0.0.1:" in line]
    port = int(line.rsplit(":", 1)[1])
    assert sum("warming up: tracing the usual programs" in line for line in lines) == 1
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"images": [encoded(png(0))]})
    headers = {"Content-Type": "application/json", "Authorization": "Bearer s3cret"}
    connection.request("POST", "/v1/caption", body, headers)
    answer = connection.getresponse()
    assert answer.status == 200
    assert json.loads(answer.read())["model"] == "tiny"
    connection.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) in (0, -signal.SIGTERM)
    rest = process.stderr.read()
    assert "s3cret" not in rest and "s3cret" not in "".join(lines)
    assert " stopping; " in rest and rest.endswith(" stopped\n")


def resident() -> float:
    """Bytes of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux's /proc")
def test_ever_new_options_hold_up_nobody_else(tiny_captioner: Captioner) -> None:
    """What is new is compiled beside the model, a few programs at a time, and few are kept."""
    with listening(tiny_captioner, queue=64) as server, ThreadPoolExecutor(4) as clients:
        assert ask(server, png(0))[0] == 200
        before, end = resident(), time.monotonic() + 30
        statuses: list[int] = []

        def attack(client: int) -> None:
            number = client
            while time.monotonic() < end:
                number += 4
                options = {
                    "num_beams": 2 + number % 15,
                    "max_new_tokens": 1 + number % 12,
                    "length_penalty": number / 100,
                    "suppress_tokens": [4 + number % 5] * (number % 2),
                    "no_repeat_ngram_size": number % 4,
                }
                statuses.append(ask(server, png(number), **options)[0])

        attacks = [clients.submit(attack, number) for number in range(4)]
        slowest = most = 0.0
        while time.monotonic() < end:
            started = time.monotonic()
            assert ask(server, png(1))[0] == 200
            slowest = max(slowest, time.monotonic() - started)
            most = max(most, resident() - before)
            time.sleep(0.05)
        for each in attacks:
            each.result()
    assert set(statuses) <= {200, 429} and 200 in statuses
    assert slowest < 2
    assert most < 1_000_000_000


def caption_url(server: Any) -> str:
    host, port = address(server)
    return f"http://{host}:{port}/v1/caption"


def slow_picture(side: int = 3000) -> bytes:
    """Numbers of a maximum that Pillow scales in Python, one at a time: a minute of work."""
    return b"P6\n%d %d\n77\n" % (side, side) + bytes(3 * side * side)


@pytest.mark.slow
def test_slow_pictures_hold_up_nobody_and_no_shutdown(tiny_captioner: Captioner) -> None:
    limits = {"max_bytes": 40_000_000, "decode_seconds": 60.0, "grace": 30.0}
    with listening(tiny_captioner, **limits) as server:
        answers: list[int] = []

        def send() -> None:
            form = {"images": ("slow.ppm", slow_picture())}
            answers.append(requests.post(caption_url(server), files=form).status_code)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: server.service._slow_ones == 4)
        for seed in range(3):
            started = time.monotonic()
            form = {"images": ("a.png", png(seed))}
            assert requests.post(caption_url(server), files=form).status_code == 200
            assert time.monotonic() - started < 5
        started = time.monotonic()
        server.should_exit = True
        for thread in threads:
            thread.join()
        assert time.monotonic() - started < 15
        assert set(answers) == {422}


@pytest.mark.slow
def test_a_slow_picture_is_given_up_when_its_client_hangs_up(tiny_captioner: Captioner) -> None:
    limits = {"max_bytes": 40_000_000, "decode_seconds": 300.0}
    with listening(tiny_captioner, **limits) as server:
        form = {"images": ("slow.ppm", slow_picture())}
        with pytest.raises(requests.exceptions.ReadTimeout):
            requests.post(caption_url(server), files=form, timeout=(5, 3))
        until(lambda: server.service._slow_ones == 0 and server.service.working == 0, 15)


def test_a_picture_that_takes_too_long_is_refused(tiny_captioner: Captioner) -> None:
    with client_of(tiny_captioner, max_bytes=40_000_000, decode_seconds=0.5) as client:
        answer = client.post("/v1/caption", files={"images": ("slow.ppm", slow_picture())})
        assert answer.status_code == 422
        assert "took more than 0.5 s" in answer.json()["error"]["message"]
