"""Checks and counts of every request: its key, its size and the time it took."""

import hashlib
import hmac
import logging
import re
import time
import uuid
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from captax.serve.refusals import Refused
from captax.serve.service import Service

logger = logging.getLogger("captax.serve")

WORK = "/v1/"
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


class Gate:
    """Middleware around the application: ids, the key, limits of bodies, counts and the log."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service

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
                if self.service.state == "shutting down":
                    extra["connection"] = "close"
                message["headers"] = [
                    *((n, v) for n, v in message["headers"] if n.decode().lower() not in extra),
                    *((name.encode(), value.encode()) for name, value in extra.items()),
                ]
            await send(message)

        body = _Body(receive, self.service.settings.max_bytes)
        try:
            await self._admit(scope, headers, body, answer)
        except Refused as refused:
            scope["state"]["refused"] = refused.kind
            if (
                b"expect" not in headers
            ):  # a client that waits to be asked for the body has not sent it
                await body.discard()
            await refused.response(request_id)(scope, receive, answer)
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
                await broken.response(request_id)(scope, receive, answer)
        finally:
            self._count(scope, request_id, status, time.perf_counter() - started)

    async def _admit(
        self, scope: Scope, headers: dict[bytes, bytes], body: "_Body", answer: Send
    ) -> None:
        path = scope["path"]
        if path.startswith(WORK) or path == "/metrics":
            self._check_key(headers)
        declared = headers.get(b"content-length", b"")
        size = int(declared) if declared.isdigit() else body.most
        if size > body.most:
            raise body.too_large()
        if path.startswith(WORK) and scope["method"] == "POST":
            with self.service.admitted(size):
                await self.app(scope, body.receive, answer)
        else:
            await self.app(scope, body.receive, answer)

    def _check_key(self, headers: dict[bytes, bytes]) -> None:
        key = self.service.settings.api_key
        if key is None:
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
        logger.info(
            "%s %s %s %s %.0f ms%s",
            request_id,
            scope["method"],
            scope["path"].encode("unicode_escape").decode()[:200],
            status or "gone",
            1000 * seconds,
            f" {refused}" if refused else "",
        )


class _Body:
    """A request's body, from which at most `most` bytes are read."""

    def __init__(self, receive: Receive, most: int):
        self._receive, self.most = receive, most
        self._taken, self._ended = 0, False

    async def receive(self) -> Message:
        message = await self._next()
        if self._taken > self.most:
            raise self.too_large()
        return message

    async def _next(self) -> Message:
        message: dict[str, Any] = dict(await self._receive())
        if message["type"] == "http.request":
            self._taken += len(message.get("body", b""))
            self._ended = not message.get("more_body", False)
        else:
            self._ended = True
        return message

    async def discard(self) -> None:
        """Read to the end, within limits: many clients read no answer until they have sent all."""
        while not self._ended and self._taken <= 2 * self.most:
            await self._next()

    def too_large(self) -> Refused:
        return Refused(413, "too_large", f"the body is too large; send at most {self.most:,} bytes")
