"""The server that a user starts, attacked in every known way at once, by clients on loopback."""

import contextlib
import http.client
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from images.test_structure import many_scans, noise, saved, slow_ppm, tiff
from images.test_structure import png as long_png
from serve.conftest import encoded, send, served

MIB = 2**20
SECONDS = 40
TESTS = Path(__file__).parents[1]
EXAMPLE = TESTS.parent / "examples" / "cat.jpg"
MAX_BYTES, MAX_PIXELS = 32 * MIB, 50_000_000

Answer = tuple[int, bytes]


def body_of(picture: bytes, **options: object) -> bytes:
    return json.dumps({"images": [encoded(picture)], **options}).encode()


def post(port: int, body: bytes) -> Answer:
    return send(port, "POST", "/v1/caption", body, "application/json")


def memory(process: int) -> int:
    """Bytes that a process and its children have."""
    children: list[str] = []
    for task in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            children += (task / "children").read_text().split()
    found = 0
    for each in (process, *map(int, children)):
        with contextlib.suppress(OSError, IndexError):
            text = Path(f"/proc/{each}/status").read_text()
            found += 1024 * int(text.partition("VmRSS:")[2].split()[0])
    return found


def attacks(port: int) -> list[Callable[[int], object]]:
    """What each hostile client does, again and again; the argument counts."""
    tiles = tiff((322, 40_000), (323, 50_000))
    high = long_png(1, 50_000_000)
    many, most = many_scans(5000), many_scans(100, (4000, 4000))
    slow = slow_ppm(2500)
    ones = b'{"images": [' + b"1," * (16 * MIB - 20) + b"1]}"
    empty = b'{"images": [' + b'"",' * (4 * MIB // 3) + b'""]}'
    large, small = saved(noise(6000, 6000), "JPEG"), EXAMPLE.read_bytes()

    def silent(_: int) -> None:
        head = b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        sockets = []
        with contextlib.suppress(OSError):
            for number in range(200):
                each = socket.create_connection(("127.0.0.1", port), timeout=10)
                sockets.append(each)
                if number % 2:
                    each.sendall(head + b"Content-Length: 33000000\r\n\r\n")
            time.sleep(5)
        for each in sockets:
            each.close()

    def options(number: int) -> Answer:
        picture = large if number % 5 == 0 else small
        return post(
            port,
            body_of(
                picture,
                num_beams=2 + number % 15,
                max_new_tokens=1 + number % 12,
                length_penalty=number / 100,
                no_repeat_ngram_size=number % 4,
            ),
        )

    def sends(body: bytes) -> Callable[[int], Answer]:
        return lambda _: post(port, body)

    bodies = [ones, empty, *map(body_of, (tiles, high, many, most, slow))]
    return [*map(sends, bodies), silent, options, options]


def besiege(port: int, seconds: float, found: Path) -> None:
    """Attack for so long, in a process of its own; write the statuses of the answers."""
    os.nice(19)  # clients elsewhere would not take the server's processors
    statuses: list[int] = []
    acts, end = attacks(port), time.monotonic() + seconds

    def attack(act: Callable[[int], object]) -> None:
        for number in itertools.count():
            if time.monotonic() > end:
                return
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = act(number)
                if isinstance(answer, tuple):
                    statuses.append(answer[0])

    with ThreadPoolExecutor(len(acts)) as clients:
        for running in [clients.submit(attack, act) for act in acts]:
            running.result()
    found.write_text(json.dumps(statuses))


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
def test_an_honest_client_is_answered_while_all_attacks_go_on(tmp_path: Path) -> None:
    with served() as (process, port):
        honest = body_of(EXAMPLE.read_bytes())
        code, wanted = post(port, honest)
        assert code == 200
        start = memory(process)
        found = tmp_path / "statuses"
        command = [sys.executable, __file__, str(port), str(SECONDS), str(found)]
        siege = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(TESTS)})
        slowest, grown, asked = 0.0, 0, 0
        while siege.poll() is None:
            began = time.monotonic()
            answer = post(port, honest)
            slowest, asked = max(slowest, time.monotonic() - began), asked + 1
            assert answer == (200, wanted)
            grown = max(grown, memory(process) - start)
            time.sleep(0.1)
    statuses = json.loads(found.read_text())
    print(
        f"{asked} answers, the slowest after {slowest:.2f} s; {start / MIB:,.0f} MiB before the "
        f"attacks, up to {grown / MIB:,.0f} MiB more while they went on"
    )
    assert set(statuses) <= {200, 408, 413, 422, 429}
    assert len(statuses) > 20
    assert slowest < 2
    # What docs/security.md says: bodies, decoding, programs, and answers that are not read.
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    decoding = max(1024 * MIB, physical // 4, 26 * MAX_PIXELS + 64 * MIB) + 4 * 128 * MIB
    assert grown < 26 * MAX_BYTES + decoding + 16 * 40 * MIB + 128 * MIB


if __name__ == "__main__":
    besiege(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]))
