"""Errors in place of answers: one shape for requests and for pictures."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse


class Refused(Exception):
    """A request that gets an error in place of its answer.

    `kind` is for programs; `message` tells people what was wrong and what to do.
    """

    def __init__(
        self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
    ):
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message
        self.headers = dict(headers or {})

    def response(self, request_id: str) -> JSONResponse:
        """The answer with this error."""
        body = {"error": error_record(self.kind, self.message, request_id)}
        return JSONResponse(body, self.status, self.headers)


def error_record(kind: str, message: str, request_id: str) -> dict[str, Any]:
    """An error in the form that every answer has."""
    return {"type": kind, "message": message, "request_id": request_id}


def repeated(text: str) -> str:
    """What a client sent, as a message may repeat it: short, in one line, and writable."""
    plain = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:200]
    )
    return plain if len(text) <= 200 else f"{plain}…"
