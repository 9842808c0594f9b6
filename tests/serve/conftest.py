"""Small servers: in this process behind a client, or listening on a port of loopback."""

import asyncio
import base64
import contextlib
import dataclasses
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import captax
import vision_language_files
from captax.generation import GenerationConfig
from captax.images import ImageProcessor
from captax.pipelines.captioner import Captioner
from captax.pipelines.vision_language import VisionLanguageCaptioner
from captax.serve.app import create_app
from captax.serve.server import make_server
from captax.serve.settings import Settings
from tokenizer_kinds import byte_level

SETTINGS = Settings(name="tiny", max_batch=4, queue=16, max_images=6, max_bytes=200_000, wait=0.02)


def png(seed: int, size: tuple[int, int] = (64, 64)) -> bytes:
    """A picture of noise, another for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def encoded(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def files(*pictures: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    """A form's files, named 0.png, 1.png, …"""
    return [("images", (f"{i}.png", picture)) for i, picture in enumerate(pictures)]


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    """Wait for what is bound to happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def share_programs(service: Any, model: Any) -> None:
    """What one captioner has compiled serves another of the same model: tests need not wait."""
    if isinstance(model, Captioner):
        service.worker.model._programs = model._programs
        service.worker.model.__dict__["_reader"] = model._reader


@contextlib.contextmanager
def client_of(model: Any, **settings: Any) -> Iterator[TestClient]:
    """A client of a server that is ready."""
    app = create_app(model, dataclasses.replace(SETTINGS, **settings))
    share_programs(app.state.service, model)
    with TestClient(app, raise_server_exceptions=False) as client:
        until(lambda: client.get("/health/ready").status_code == 200)
        yield client


@pytest.fixture(scope="session")
def client(tiny_captioner: Captioner) -> Iterator[TestClient]:
    """A client of a tiny captioner's server, for tests that leave it as it was."""
    with client_of(tiny_captioner) as client:
        yield client


@pytest.fixture(scope="session")
def smolvlm(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageCaptioner:
    """A tiny vision-language model."""
    folder = vision_language_files.write("smolvlm", tmp_path_factory.mktemp("smolvlm"))
    return captax.load(folder, image_splitting=False)


@pytest.fixture(scope="session")
def spelling(make_model: Callable[..., Any], tiny_encoder: dict[str, Any]) -> Captioner:
    """A tiny captioner that can spell, so that its texts can be held to a form."""
    tokenizer = byte_level()
    decoder = {
        "model_type": "captax-transformer",
        "vocab_size": tokenizer.vocab_size,
        "width": 16,
        "layers": 1,
        "heads": 2,
        "mlp_width": 32,
        "max_positions": 96,
        "features_width": 1280,
        "grid": [2, 2],
    }
    config = {"model_type": "captax-encoder-decoder", "encoder": tiny_encoder, "decoder": decoder}
    return Captioner(
        make_model(config, 24),
        ImageProcessor(size=(64, 64)),
        tokenizer,
        GenerationConfig(num_beams=1, max_new_tokens=80),
    )


async def asking(app: Any, path: str, body: dict[str, Any], *, parts: int = 2) -> None:
    """A client that hangs up after so many parts of the answer."""
    sent = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    heard = 0
    enough = asyncio.Event()

    async def receive() -> Any:
        if sent:
            return sent.pop()
        await enough.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal heard
        heard += message["type"] == "http.response.body"
        if heard == parts:
            enough.set()
            await asyncio.sleep(0)

    headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": "POST",
             "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers,
             "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1),
             "server": ("localhost", 80), "root_path": ""}  # fmt: skip
    await app(scope, receive, send)


@contextlib.contextmanager
def listening(model: Any, port: int = 0, host: str = "127.0.0.1", **settings: Any) -> Iterator[Any]:
    """A server that listens, in a thread; `should_exit` does what SIGTERM does."""
    made = dataclasses.replace(SETTINGS, **settings)
    server = make_server(model, made, host=host, port=port)
    share_programs(server.service, model)
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started and server.service.state == "ready")
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


def address(server: Any) -> tuple[str, int]:
    """Where it listens."""
    return server.servers[0].sockets[0].getsockname()[:2]


@contextlib.contextmanager
def served(*arguments: str, devices: int = 1) -> Iterator[tuple[int, int]]:
    """`captax serve` with these arguments in a process of its own: its id and port.

    It sees so many devices.
    """
    command = [sys.executable, "-m", "captax", "serve", "--port", "0", *arguments]
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        lines: list[str] = []

        threading.Thread(
            target=lambda: [lines.append(line) for line in process.stderr or ()]
        ).start()
        try:
            end = time.monotonic() + 180
            port = 0
            while not port or _status(port) != 200:
                assert time.monotonic() < end and process.poll() is None, "".join(lines)
                if found := re.search(r"http://127\.0\.0\.1:(\d+)", "".join(lines)):
                    port = int(found[1])
                time.sleep(0.1)
            yield process.pid, port
        finally:
            process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            process.wait(60)
            assert time.monotonic() - started < 45
    assert not [line for line in lines if "Traceback" in line], "".join(lines)


def _status(port: int) -> int:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return send(port, "GET", "/health/ready", b"", "text/plain")[0]
    return 0


def send(port: int, method: str, path: str, body: bytes, kind: str) -> tuple[int, bytes]:
    """The status and the body of the answer of a server on loopback."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
    try:
        connection.request(method, path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
