"""A captioner that runs elsewhere: captions from any server with OpenAI's interface.

The reference is https://platform.openai.com/docs/api-reference/chat. Ollama, llama.cpp, vLLM,
LM Studio and `captax serve` answer it too.
"""

import base64
import contextlib
import dataclasses
import io
import json
import math
import random
import socket
import threading
import urllib.error
import urllib.request
import weakref
from collections.abc import Iterable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from captax.data.batches import map_ahead
from captax.errors import CaptaxError, OptionError, quoted
from captax.images import ImageError, ImageSource
from captax.images.decode import decode
from captax.pipelines.streaming import Placed
from captax.text.languages import in_sentence, language_of
from captax.text.preambles import without_preamble
from captax.text.styles import Styles, styles_of

# Seconds that an answer may take, and bytes that it may have.
SECONDS, MOST_BYTES = 600.0, 16 * 2**20
LONGEST = 100_000  # characters of a text
# How often a request is sent, and seconds between the first two times and at most.
TRIES, PAUSE, LONGEST_PAUSE = 5, 1.0, 60.0
# The server is there and may do it later, or something before it says that it is away.
_BUSY = (408, 409, 425, 429, 502, 503, 504)
# What no other picture would change: the key, the address or the model.
_HOPELESS = (401, 402, 403, 404, 405)
QUALITY = 90  # of JPEG
MAX_SIDE = 1024
STYLES = styles_of("general")
# Decoding options by the names that they have here and in requests.
NAMES = {
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "num_return_sequences": "n",
    "stop_strings": "stop",
    "seed": "seed",
}


class EndpointError(CaptaxError):
    """A server cannot be used: it is away, or refuses everything."""


class _Refused(Exception):
    """A server refuses one request."""


class _Live(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens connections that can be shut while somebody waits for their answer."""

    def __init__(self) -> None:
        super().__init__()
        self._open: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._kept(HTTPConnection), req)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._kept(HTTPSConnection), req)

    def _kept(self, kind: type[HTTPConnection]) -> Any:
        def connect(host: str, **how: Any) -> HTTPConnection:
            made = kind(host, **how)
            self._open.add(made)
            return made

        return connect

    def shut(self) -> None:
        """End all that is under way."""
        for each in list(self._open):
            with contextlib.suppress(OSError, AttributeError):  # it has no socket any more
                each.sock.shutdown(socket.SHUT_RDWR)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *given: Any) -> None:
        """None: a key is for one address alone, and a body is not sent twice."""


class Endpoint:
    """A server with OpenAI's interface at `url`, such as http://localhost:11434/v1.

    `key` is sent with every request and told nowhere. Errors are those of `CaptaxError`'s kind for
    what concerns every picture.
    """

    def __init__(self, url: str, key: str | None = None):
        parts = urlsplit(url)
        if set(url) & set("@?#"):
            raise EndpointError(
                "the address of an endpoint may only name a host and a path; give the key in an "
                "environment variable"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise EndpointError(
                f"{url}: is not an address; give one such as http://localhost:11434/v1"
            )
        if key is not None and not (key.isascii() and key.isprintable()):
            raise EndpointError("the API key holds characters that no header has; correct it")
        self.url = url.rstrip("/")
        self._key, self._left = key, threading.Event()
        self._live = _Live()
        self._open = urllib.request.build_opener(_NoRedirects, self._live).open

    def leave(self) -> None:
        """Wait for no answer any more: requests under way fail, and none is sent again."""
        self._left.set()
        self._live.shut()

    def models(self) -> list[str]:
        """The names of its models; none if it does not list them.

        Raises:
            EndpointError: no server answers there, or not with this key.
        """
        try:
            found = self._json("/models", None)
        except _Refused:
            return []
        listed = found.get("data") if isinstance(found, dict) else None
        listed = listed if isinstance(listed, list) else []
        names = [each.get("id") for each in listed if isinstance(each, dict)]
        return [name for name in names if isinstance(name, str)]

    def complete(self, body: Mapping[str, Any]) -> list[str]:
        """The texts that answer a chat. Raises `ImageError` if this request cannot be answered.

        Raises:
            EndpointError: the server is away, or refuses everything.
        """
        try:
            found = self._json("/chat/completions", json.dumps(body).encode())
        except _Refused as error:
            raise ImageError(f"the endpoint refuses it ({error})") from None
        try:
            texts = [choice["message"]["content"] for choice in found["choices"]]
        except (KeyError, TypeError):
            raise ImageError("the endpoint's answer is no chat completion") from None
        texts = [self._plain(text) for text in texts if isinstance(text, str)]
        texts = [text for text in texts if text]
        if not texts:
            raise ImageError("the endpoint's answer has no text")
        return texts

    def _plain(self, text: str) -> str:
        """A text without what controls terminals, what no file may hold, and the key."""
        if len(text) > LONGEST:
            raise ImageError(f"the endpoint's answer has more than {LONGEST:,} characters")
        text = text.replace(self._key, "...") if self._key else text
        kept = "".join(each if each.isprintable() or each == "\n" else " " for each in text)
        return kept.strip()

    def _json(self, path: str, body: bytes | None) -> Any:
        for last in range(TRIES):
            try:
                return self._once(path, body)
            except _Later as later:
                if last == TRIES - 1 or (body is None and later.away) or self._left.is_set():
                    raise EndpointError(f"{self.url}: {later}") from None
                pause = min(PAUSE * 2**last * random.uniform(0.75, 1.25), LONGEST_PAUSE)
                self._left.wait(max(pause, min(later.seconds, LONGEST_PAUSE)))
        raise AssertionError

    def _once(self, path: str, body: bytes | None) -> Any:
        headers = {"Accept": "application/json", "User-Agent": "captax"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url + path, body, headers)
        try:
            with self._open(request, timeout=SECONDS) as answer:
                content = answer.read(MOST_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                raise self._meaning(error, path) from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            why = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            raise _Later(f"no server answers ({why}); start it, or correct --endpoint") from None
        try:
            if len(content) > MOST_BYTES:
                raise ValueError
            return json.loads(content)
        except (ValueError, RecursionError):
            raise _Refused("its answer is no JSON") from None

    def _meaning(self, error: urllib.error.HTTPError, path: str) -> Exception:
        """What an answer with this status means."""
        try:
            content = json.loads(error.read(65_536))
            told = content.get("error", content.get("detail", ""))
            message = str((told.get("message") if isinstance(told, dict) else told) or "")
        except (OSError, HTTPException, ValueError, AttributeError, RecursionError):
            message = ""
        # A server may repeat the key in its message.
        message = message.replace(self._key, "...") if self._key else message
        said = f"status {error.code}" + (f": {quoted(message)}" if message else "")
        if error.code in _BUSY:
            wait = error.headers.get("Retry-After", "")
            return _Later(
                f"the server stays busy ({said}); try again later, or lower --concurrency",
                float(wait) if wait.isascii() and wait.isdigit() else 0.0,
                away=False,
            )
        if error.code // 100 == 3:
            return EndpointError(
                f"{self.url}: redirects to another address; give that as --endpoint"
            )
        if error.code in _HOPELESS and path != "/models":
            return EndpointError(
                f"{self.url}: the server refuses to answer ({said}); correct --endpoint, --model "
                "or the API key"
            )
        if error.code in (401, 403):
            return EndpointError(
                f"{self.url}: the server refuses the API key, or needs one ({said}); set the "
                "variable that --api-key-env names"
            )
        return _Refused(said)


class _Later(Exception):
    """It did not work, and may in so many seconds or more."""

    def __init__(self, message: str, seconds: float = 0.0, away: bool = True):
        super().__init__(message)
        self.seconds, self.away = seconds, away


@dataclasses.dataclass(frozen=True)
class Told:
    """What a server said of a picture; the first text counts.

    `removed` is the preamble that was before it, if none was wanted.
    """

    texts: tuple[str, ...]
    removed: str = ""


@dataclasses.dataclass(frozen=True)
class JpegProcessor:
    """Makes JPEG files of pictures, with sides of at most `max_side` pixels."""

    max_side: int = MAX_SIDE

    def decode(self, image: ImageSource) -> Image.Image:
        """A picture, upright and in RGB. Raises `ImageError`."""
        return decode(image)

    def prepare(self, picture: Image.Image | bytes) -> bytes:
        """The file."""
        if isinstance(picture, bytes):
            return picture
        scale = self.max_side / max(picture.size)
        if scale < 1:
            size = tuple(max(1, round(side * scale)) for side in picture.size)
            picture = picture.resize(size, Image.Resampling.LANCZOS)  # type: ignore[arg-type]
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=QUALITY)
        return file.getvalue()


class EndpointCaptioner:
    """Asks a server for captions, `concurrency` at a time."""

    # As of a captioner without one, which reads no videos and has one device.
    calibration = None
    frames = 0
    at_once = 1

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        *,
        concurrency: int = 4,
        max_side: int = MAX_SIDE,
    ) -> None:
        self.endpoint, self.name, self.concurrency = endpoint, model, concurrency
        self.processor = JpegProcessor(max_side)

    def identity(self) -> dict[str, Any]:
        """What captions depend on, besides what is asked."""
        return {"endpoint": self.endpoint.url, "max_side": self.processor.max_side}

    @property
    def styles(self) -> Styles:
        """Prompts by name, in words that any model understands."""
        return STYLES

    def prompt_in(self, language: str, prompt: str = "") -> str:
        """A prompt that asks for a language, as `Captioner.prompt_in`. Raises `OptionError`."""
        return in_sentence(prompt or STYLES.prompt("short"), language_of(language))

    def read(self, source: ImageSource) -> Image.Image:
        """A picture, decoded. Raises `ImageError`."""
        return self.processor.decode(source)

    def prepare(self, image: Image.Image | bytes) -> bytes:
        """A picture as it is sent."""
        return self.processor.prepare(image)

    def stream_pixels(
        self,
        pictures: Iterable[Any],
        *,
        prompt: str = "",
        system: str = "",
        batch_size: int = 0,
        preamble: bool = True,
        **options: Any,
    ) -> Iterator[Any]:
        """What the server says of the files that `Placed` carry, in order, or an `ImageError`.

        Anything else among `pictures` is passed on in its turn. A picture may carry a prompt of its
        own. Random draws depend on its place. Without `preamble`, a server's are removed.

        Raises:
            EndpointError: the server is away, or refuses everything.
            OptionError: an option is not one of the interface.
        """
        asked = body_of(self.name, **options)

        def answer(each: Any) -> Any:
            if not isinstance(each, Placed) or not isinstance(each.picture, bytes):
                return each
            own = prompt if each.prompt is None else each.prompt
            body = {**asked, "messages": messages(own, system, each.picture)}
            if "seed" in body:
                body["seed"] += each.place
            try:
                texts = self.endpoint.complete(body)
            except ImageError as error:
                return error
            if preamble:
                return Told(tuple(texts))
            cut = [without_preamble(text) for text in texts]
            return Told(tuple(text for text, _ in cut), cut[0][1])

        made, ahead = self.concurrency, 2 * self.concurrency
        return map_ahead(answer, pictures, made, ahead, leave=self.endpoint.leave)


def messages(prompt: str, system: str, picture: bytes) -> list[dict[str, Any]]:
    """What is said to the server about a picture, a JPEG file."""
    url = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
    asked = prompt or STYLES.prompt("short")
    content = [
        {"type": "text", "text": asked},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    told = [{"role": "system", "content": system}] if system else []
    return [*told, {"role": "user", "content": content}]


def body_of(model: str, **options: Any) -> dict[str, Any]:
    """The fields of a request for these decoding options, without its messages.

    Raises:
        OptionError: the interface has no such option.
    """
    body: dict[str, Any] = {"model": model}
    options = dict(options)
    sample = options.pop("do_sample", None)
    schema = options.pop("json_schema", None)
    for name, value in options.items():
        if name not in NAMES:
            raise OptionError(
                f"`{name}` is nothing that an endpoint can be asked for; leave it out"
            )
        body[NAMES[name]] = list(value) if isinstance(value, tuple) else value
    if sample is False:
        body["temperature"] = 0
    elif sample is True:
        body.setdefault("temperature", 1.0)
    if body.get("temperature") == 0:
        body.pop("seed", None)  # nothing is drawn
    if schema is not None:
        given = json.loads(schema) if isinstance(schema, str) else schema
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": given, "strict": True},
        }
    if any(isinstance(value, float) and not math.isfinite(value) for value in body.values()):
        raise OptionError("`temperature` and `top_p` are finite numbers; correct them")
    return body
