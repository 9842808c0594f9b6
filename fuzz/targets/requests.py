"""Requests to the server, as bytes on a connection: heads, paths, JSON and forms.

The whole server is here but for its sockets and its model: what the fuzzer writes goes through the
protocol, the gate and the handlers of `captax.serve`, and every answer is judged.
"""

import asyncio
import base64
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h11
import numpy as np
from PIL import Image
from starlette.types import Message, Receive, Scope, Send
from uvicorn.server import ServerState

from captax.generation import GenerationConfig
from captax.images import ImageProcessor
from captax.pipelines.captioner import Caption, Captioner
from captax.serve.server import make_server
from captax.serve.settings import Settings

WORK = ("caption", "explain", "score")
KINDS = (*(f"{name}.json" for name in WORK), "form", "wire")
SECONDS = 6.0  # the longest input holds hundreds of requests, and coverage is taken of each
BOUNDARY = b"abc"
WORDS = (
    *(b"GET ", b"POST ", b"HEAD ", b"OPTIONS ", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"Host: a\r\n"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"),
    *(b"Connection: close\r\n", b"Upgrade: websocket\r\n", b"Connection: upgrade\r\n", b"\r\n\r\n"),
    *(b"Content-Type: application/json\r\n", b"Content-Encoding: gzip\r\n", b"0\r\n\r\n", b"5\r\n"),
    *(b"Content-Type: multipart/form-data; boundary=abc\r\n", b"boundary", b"Range: bytes=0-5\r\n"),
    *(
        b"Origin: http://localhost\r\n",
        b"Sec-Fetch-Site: cross-site\r\n",
        b"Authorization: Bearer ",
    ),
    *(
        b"X-Forwarded-For: 1.2.3.4\r\n",
        b"X-Forwarded-Host: a\r\n",
        b"X-Request-Id: a\r\n",
        b"[::1]",
    ),
    *(b"Access-Control-Request-Method: POST\r\n", b"If-None-Match: a\r\n", b"localhost:80", b"*"),
    *(b"/v1/caption", b"/v1/explain", b"/v1/score", b"/v1/classify", b"/v1/model", b"/metrics"),
    *(b"/health", b"/health/live", b"/openapi.json", b"/page/", b"/page/../", b"%2e%2e/", b"%00"),
    *(b"--abc\r\n", b"--abc--\r\n", b"Content-Disposition: form-data; ", b'name="images"', b"; "),
    *(
        b'filename="a.png"',
        b"filename*=utf-8''a",
        b'"',
        b"\\",
        b"data:image/png;base64,",
        b"http://",
    ),
    *(
        b"images",
        b"num_beams",
        b"seed",
        b"prompt",
        b"captions",
        b"caption",
        b"method",
        b"bad_words",
    ),
    *(b"\\ud800", b"\\u0000", b"1e999", b"-0", b"NaN", b"[", b"{", b"null", b"\xff", b"\x00"),
)


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, "PNG")
    return file.getvalue()


PNG = _png()


def _head(path: str, content_type: bytes, length: int) -> bytes:
    return (
        b"POST /v1/%b HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    ) % (path.encode(), content_type, length)


def seeds() -> Iterator[tuple[str, bytes]]:
    """Requests that are answered, and some that are known to be hard."""
    text = base64.b64encode(PNG).decode()
    options = {"num_beams": 2, "seed": 3, "prompt": "a", "temperature": 0.5, "bad_words": ["a"]}
    yield "caption.json", json.dumps({"images": [text]}).encode()
    yield "caption.json", json.dumps({"images": [text, "AAAA", "http://a/"], **options}).encode()
    yield "caption.json", json.dumps({"images": [f"data:image/png;base64,{text}"]}).encode()
    yield "caption.json", b'{"images": [' + b'"",' * 1000 + b'""]}'
    yield "caption.json", b'{"images": ' + b"[" * 3000
    yield "caption.json", b'{"' + b'\\"' * 2000
    yield "explain.json", json.dumps({"images": [text], "caption": "a b", "layer": 0}).encode()
    yield "score.json", json.dumps({"images": [text], "captions": ["a", "b"], **options}).encode()
    disposition = b"--abc\r\nContent-Disposition: form-data; name="
    picture = disposition + b'"images"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n' + PNG
    field = b"\r\n" + disposition + b'"num_beams"\r\n\r\n2'
    yield "form", picture + field + b"\r\n--abc--\r\n"
    yield "form", picture + b"\r\n" + picture + b"\r\n--abc--\r\n"
    yield "form", disposition + b'"' + b"\\" * 3000 + b'"\r\n\r\n--abc--'
    yield "form", b"--abc\r\na: b\r\n\r\n" + b"\r\n--ab" * 700 + b"--abc--\r\n"
    end = b" HTTP/1.1\r\nHost: localhost:8000\r\n"
    for path in (b"/", b"/health", b"/metrics", b"/v1/model", b"/openapi.json", b"/page/page.css"):
        yield "wire", b"GET " + path + end + b"\r\n"
    yield "wire", (b"GET /no" + end + b"\r\n") * 20
    body = json.dumps({"images": [text]}).encode()
    json_type = b"Content-Type: application/json\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(body[i:][:99]), body[i:][:99])
                      for i in range(0, len(body), 99))  # fmt: skip
    chunked = b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    yield "wire", b"POST /v1/caption" + end + json_type + chunked
    yield "wire", _head("caption", b"application/json", len(body)) + body
    asks = b"Origin: http://a\r\nAccess-Control-Request-Method: POST\r\n\r\n"
    yield "wire", b"OPTIONS /v1/caption" + end + asks
    yield "wire", b"GET /health" + end + b"a:\r\n" * 1000 + b"\r\n"
    yield (
        "wire",
        b"POST /v1/score" + end + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 1200,
    )


class _Stub(Captioner):
    """A captioner that says the same of everything, and refuses options that mean nothing."""

    def __init__(self) -> None:
        self.processor = ImageProcessor(size=(4, 4))
        self.generation = GenerationConfig(max_new_tokens=4)
        self.calibration = None

    def keep_programs(self) -> None:
        """It compiles none."""

    def _check(self, options: dict[str, Any]) -> None:
        for name in ("seed", "batch_size", "prompt", "bad_words", "force_words", "methods"):
            options.pop(name, None)
        self.generation.replace(**options)

    def caption(self, images: Any, **options: Any) -> Any:
        self._check(options)
        return [Caption("a dog", -1.0, (), ()) for _ in images]

    def score(self, images: Any, captions: Any, **options: Any) -> Any:
        self._check(options)
        return [-1.0 for _ in captions]

    def explain(self, image: Any, caption: Any = None, **options: Any) -> Any:
        self._check(options)
        return SimpleNamespace(
            maps=lambda method, layer, head: np.full((1, 2, 2), 0.25),
            words=[SimpleNamespace(text="a", tokens=(0,), logprob=-1.0)],
            steps=[[("a", 0.5)]],
            grid=(2, 2),
            caption=caption or "a",
        )


class _Answers:
    """The application, whose answers are kept."""

    def __init__(self, app: Any):
        self.app = app
        self.seen: list[list[Message]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen: list[Message] = []
        self.seen.append(seen)

        async def keep(message: Message) -> None:
            seen.append(message)
            await send(message)

        await self.app(scope, receive, keep)


class _Transport(asyncio.Transport):
    """A client that reads everything at once."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 9), "sockname": ("127.0.0.1", 8)})
        self.written, self.closed = b"", False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


for _name in ("uvicorn", "python_multipart", "captax.serve"):
    logging.getLogger(_name).setLevel(logging.ERROR)  # which nothing that is sent may cause
_loop = asyncio.new_event_loop()
_server = make_server(
    _Stub(),
    Settings(max_bytes=100_000, max_pixels=10_000, allow_origins=("http://a",), wait=0),
    host="127.0.0.1",
    port=0,
)
_app: Any = _server.config.app
_answers = _Answers(_app)
_server.config.app = _answers  # type: ignore[assignment]
_server.config.load()
_life = _app.router.lifespan_context(_app)


def prepare(inputs: Path) -> None:
    """Start the server, which serves all inputs."""

    async def start() -> None:
        await _life.__aenter__()
        while _server.service.state != "ready":
            await asyncio.sleep(0.01)

    _loop.run_until_complete(start())


def finish(kind: str, content: bytes) -> bytes:
    """A body gets the head that it should have."""
    if kind == "wire":
        return content
    form = b"multipart/form-data; boundary=" + BOUNDARY
    name, content_type = ("caption", form) if kind == "form" else (kind[:-5], b"application/json")
    return _head(name, content_type, len(content)) + content


def read(path: Path) -> None:
    """Send the requests, and judge the answers."""
    answered, written = _loop.run_until_complete(_send(path.read_bytes()))
    assert path.name == "wire" or len(answered) == 1, "no answer"
    for answer in answered:
        _judge(answer)
    if not answered and written:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
        client.receive_data(written)
        client.receive_data(b"")
        response, data = client.next_event(), client.next_event()
        assert isinstance(response, h11.Response) and isinstance(data, h11.Data), written
        _judge_error(response.status_code, bytes(data.data))
    for group in (_server.service.working, _server.service.room.taken):
        assert group == 0, "what a request took was not given back"


async def _send(data: bytes) -> tuple[list[list[Message]], bytes]:
    _answers.seen = []
    state, transport = ServerState(), _Transport()
    connection: Any = _server.config.http_protocol_class(
        config=_server.config, server_state=state, app_state={}, _loop=_loop
    )
    connection.connection_made(transport)
    try:
        connection.data_received(data)
        while state.tasks:
            if connection.cycle.more_body and not connection.cycle.response_complete:
                connection.connection_lost(None)  # there is no more to come
            done, _ = await asyncio.wait([*state.tasks], return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
    finally:
        if connection in connection.crowd.open:
            connection.connection_lost(None)
    return [seen for seen in _answers.seen if seen], transport.written


def _judge(answer: list[Message]) -> None:
    status = answer[0]["status"]
    headers = dict(answer[0]["headers"])
    if status >= 400:
        assert headers[b"content-type"] == b"application/json", answer
        _judge_error(status, b"".join(each.get("body", b"") for each in answer[1:]))
    elif headers.get(b"content-type") == b"application/json" and answer[1].get("body"):
        json.loads(answer[1]["body"])


def _judge_error(status: int, body: bytes) -> None:
    assert 400 <= status != 500, body
    if not body:  # of HEAD
        return
    error = json.loads(body)["error"]
    assert set(error) == {"type", "message", "request_id"}, error
    message = error["message"]
    assert message and len(message.splitlines()) == 1 and message.isprintable(), error
    assert len(message) < 3000, error
