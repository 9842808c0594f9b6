"""Checks and counts of every request: who asks, its key, its size and the time it took."""

import hashlib
import hmac
import logging
import posixpath
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit, urlunsplit

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from captax.serve import origins
from captax.serve.arrival import Body
from captax.serve.refusals import Refused
from captax.serve.service import Service
from captax.serve.settings import Settings

logger = logging.getLogger("captax.serve")

Header = tuple[bytes, bytes]
WORK = ("/v1/", "/api/")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,128}")
# The page and its parts come from this server and talk to no other.
SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Door:
    """Middleware around an application: ids, who may ask, limits of bodies, and the log."""

    def __init__(self, app: ASGIApp, settings: Settings):
        self.app, self.settings = app, settings

    @property
    def closing(self) -> bool:
        """Whether connections end after their answer."""
        return False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = {"x-request-id": request_id, **SECURITY}
                if self.closing:
                    extra["connection"] = "close"
                elif not body.ended and _has_body(headers):
                    extra["connection"] = "close"  # nobody reads the rest
                message["headers"] = [
                    *(
                        (n, v)
                        for n, v in _relative(scope, message["headers"])
                        if n.decode().lower() not in extra
                    ),
                    *((name.encode(), value.encode()) for name, value in extra.items()),
                ]
            await send(message)

        body = Body(receive, self.settings)
        try:
            await self._admit(scope, headers, body, answer)
        except Refused as refused:
            scope["state"]["refused"] = refused.kind
            if (
                b"expect" not in headers
            ):  # a client that waits to be asked for the body has not sent it
                await body.discard()
            await refused.response(request_id, scope["path"])(scope, receive, answer)
        except ClientDisconnect:
            scope["state"]["refused"] = "client_gone"
        except Exception:
            logger.exception("%s failed", request_id)
            scope["state"]["refused"] = "internal"
            if not status:
                broken = Refused(
                    500,
                    "internal",
                    "the server failed; its log has the error under this request id",
                )
                await broken.response(request_id, scope["path"])(scope, receive, answer)
        finally:
            self._count(scope, request_id, status, time.perf_counter() - started)

    async def _admit(
        self, scope: Scope, headers: dict[bytes, bytes], body: Body, answer: Send
    ) -> None:
        origins.check(scope, self.settings)
        self._check_key(scope, headers)
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > body.most):
            raise body.too_large()
        if scope["method"] == "HEAD":  # the answer of GET, without its body
            await self.app({**scope, "method": "GET"}, body.receive, _without_body(answer))
        else:
            await self._enter(scope, body, answer)

    async def _enter(self, scope: Scope, body: Body, answer: Send) -> None:
        await self.app(scope, body.receive, answer)

    def _check_key(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Nothing is asked for."""

    def _count(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        refused = scope["state"].get("refused")
        logger.info(
            "%s %s %s %s %.0f ms%s",
            request_id,
            scope["method"][:20],
            scope["path"].encode("unicode_escape").decode()[:200],
            status or "gone",
            1000 * seconds,
            f" {refused}" if refused else "",
        )


class Gate(Door):
    """The door of a service: the key, room for work, and counts."""

    def __init__(self, app: ASGIApp, service: Service):
        super().__init__(app, service.settings)
        self.service = service

    @property
    def closing(self) -> bool:
        return self.service.state == "shutting down"

    async def _enter(self, scope: Scope, body: Body, answer: Send) -> None:
        if not (scope["path"].startswith(WORK) and scope["method"] == "POST"):
            await super()._enter(scope, body, answer)
            return
        with self.service.admitted(body):
            await super()._enter(scope, body, answer)

    def _check_key(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        key = self.settings.api_key
        if key is None or not (scope["path"].startswith(WORK) or scope["path"] == "/metrics"):
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        # Digests have one length, so the time to compare them says nothing about the key.
        digests = (hashlib.sha256(each).digest() for each in (given.strip(), key.encode()))
        if not hmac.compare_digest(*digests) or scheme.lower() != b"bearer":
            raise Refused(
                401,
                "unauthorized",
                "this server needs its API key; send the header 'Authorization: Bearer KEY'",
                {"WWW-Authenticate": "Bearer"},
            )

    def _count(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        # What was refused at the door has met no route yet.
        known = {getattr(route, "path", "") for route in scope["app"].routes}
        route = scope["path"] if scope["path"] in known else "other"
        refused = scope["state"].get("refused")
        metrics = self.service.metrics
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
        metrics.requests.labels(route, method, str(status or 499)).inc()
        metrics.latency.labels(route).observe(seconds)
        if refused:
            metrics.rejected.labels(refused).inc()
        super()._count(scope, request_id, status, seconds)


def _without_body(send: Send) -> Send:
    async def head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return head


def _relative(scope: Scope, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[Header]:
    """Headers whose Location is relative to the request: a proxy may use another name or prefix."""
    for name, value in headers:
        if name.lower() == b"location":
            to = urlsplit(value.decode("latin-1"))
            above, _, last = to.path.rstrip("/").rpartition("/")
            here = scope["path"].rpartition("/")[0]
            steps = posixpath.relpath(f"/{above.lstrip('/')}", f"/{here.lstrip('/')}")
            path = f"{steps}/{last}{'/' if to.path.endswith('/') else ''}"
            value = urlunsplit(("", "", path, to.query, "")).encode("latin-1")
        yield name, value


def _has_body(headers: dict[bytes, bytes]) -> bool:
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
