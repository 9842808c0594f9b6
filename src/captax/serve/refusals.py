"""Errors in place of answers: one shape for requests and for pictures."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

# Where errors have the form of others' interfaces.
OPENAI = ("/v1/chat/", "/v1/models", "/v1/responses")
OLLAMA = ("/api/",)
# What OpenAI calls errors by their status; other statuses are the client's fault.
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refused(Exception):
    """A request that gets an error in place of its answer.

    `kind` is for programs; `message` tells people what was wrong and what to do. `param` is the
    field that was wrong, if it is one.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        param: str | None = None,
    ):
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message
        self.headers = dict(headers or {})
        self.param = param

    def response(self, request_id: str, path: str = "") -> JSONResponse:
        """The answer with this error, in the form of the address that was asked."""
        return JSONResponse(*self._shaped(request_id, path), self.headers)

    def body(self, request_id: str, path: str) -> dict[str, Any]:
        """What `response` holds."""
        return self._shaped(request_id, path)[0]

    def _shaped(self, request_id: str, path: str) -> tuple[dict[str, Any], int]:
        if path.startswith(OPENAI):
            kind = "server_error" if self.status >= 500 else "invalid_request_error"
            record = {
                "message": self.message,
                "type": _TYPES.get(self.status, kind),
                "param": self.param,
                "code": self.kind,
            }
            return {"error": record}, 400 if self.status == 422 else self.status
        if path.startswith(OLLAMA):
            return {"error": self.message}, 400 if self.status == 422 else self.status
        return {"error": error_record(self.kind, self.message, request_id)}, self.status


def error_record(kind: str, message: str, request_id: str) -> dict[str, Any]:
    """An error in the form that every answer has."""
    return {"type": kind, "message": message, "request_id": request_id}


def repeated(text: str) -> str:
    """What a client sent, as a message may repeat it: short, in one line, and writable."""
    plain = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:200]
    )
    return plain if len(text) <= 200 else f"{plain}…"
