"""Pictures of a request: read from its body and resized for the model."""

import asyncio
import base64
import binascii
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from captax.errors import plain
from captax.images import ImageError, ImageProcessor, Prepared
from captax.images.budget import NotWanted, never
from captax.images.decode import NotQuick, TooManyPixels
from captax.serve.refusals import Refused
from captax.serve.settings import Settings
from captax.serve.urls import UrlError, fetch

Asked = TypeVar("Asked", bound=BaseModel)

FILES = "images"
# Most errors in one answer; a body can hold thousands.
MOST_ERRORS = 5
# What pydantic says in words of its own classes.
_MESSAGES = {
    "missing": "is missing; send it",
    "extra_forbidden": "is not a field of this request; leave it out",
}


class Unreadable(Exception):
    """A picture of a request cannot be used; others may be."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind, self.message = kind, message


@dataclasses.dataclass(frozen=True)
class Sent:
    """A picture as it was sent: the bytes of a file, or base64, or a URL."""

    source: bytes | str
    name: str | None = None

    def read(
        self,
        processor: ImageProcessor,
        settings: Settings,
        *,
        quick: bool = False,
        gone: Callable[[], bool] = never,
    ) -> Prepared:
        """Decode and resize the picture, which is slow.

        With `quick`, `NotQuick` is raised for a picture that takes long. Once `gone` is true,
        nobody waits for the picture, and decoding ends with `NotWanted`. Raises `Unreadable`.
        """
        if gone():
            raise NotWanted("nobody waits for this picture any more")
        data = self.source if isinstance(self.source, bytes) else _bytes(self.source, settings)
        limits = {"seconds": settings.decode_seconds, "quick": quick, "gone": gone}
        try:
            picture = processor.decode(data, max_pixels=settings.max_pixels, **limits)
            return processor.prepare(picture)
        except NotQuick:
            raise
        except TooManyPixels as error:
            raise Unreadable("too_many_pixels", str(error)) from None
        except ImageError as error:
            raise Unreadable("unreadable_image", str(error)) from None


async def read_request(
    request: Request, schema: type[Asked], settings: Settings
) -> tuple[Asked, list[Sent]]:
    """The fields of a request, and its pictures. Raises `Refused`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        body = await request.body()
        asked = await asyncio.to_thread(_validated, schema, body)
        sent = [Sent(text) for text in asked.images]  # type: ignore[attr-defined]
    elif kind == "multipart/form-data":
        fields, sent = await _form(request)
        asked = _validated(schema, {**_gathered(schema, fields), FILES: [""] * len(sent)})
    else:
        raise Refused(
            415,
            "unsupported_media_type",
            f"the content type is {kind or 'missing'}; "
            "send multipart/form-data or application/json",
        )
    if len(sent) > settings.max_images:
        raise Refused(
            413,
            "too_many_images",
            f"the request has {len(sent)} pictures; send at most {settings.max_images}",
        )
    return asked, sent


async def _form(request: Request) -> tuple[list[tuple[str, str]], list[Sent]]:
    fields, sent = [], []
    try:
        async with request.form() as form:
            for name, value in form.multi_items():
                if not isinstance(value, UploadFile):
                    fields.append((name, value))
                elif name == FILES:
                    sent.append(Sent(await value.read(), value.filename or None))
                else:
                    raise Refused(
                        422,
                        "invalid_request",
                        f"{name[:100]}: is not a field for files; send pictures as {FILES!r}",
                    )
    except HTTPException as error:  # starlette raises it for what is not a form
        message = f"the form cannot be read: {error.detail}"
        raise Refused(422, "invalid_request", message) from None
    except (UnicodeDecodeError, KeyError) as error:
        raise Refused(422, "invalid_request", f"the form cannot be read: {error}") from None
    return fields, sent


def _gathered(schema: type[BaseModel], fields: list[tuple[str, str]]) -> dict[str, Any]:
    """The fields of a form by name; a field that is a list in the schema may be repeated."""
    gathered: dict[str, Any] = {}
    for name, value in fields:
        field = schema.model_fields.get(name)
        if name == FILES:
            raise Refused(
                422, "invalid_request", f"{FILES}: is text in this form; send pictures as files"
            )
        if field is not None and "list[" in str(field.annotation):
            gathered.setdefault(name, []).append(value)
        elif name in gathered:
            raise Refused(422, "invalid_request", f"{name}: is given more than once; send it once")
        else:
            gathered[name] = value
    return gathered


def _validated(schema: type[Asked], given: bytes | Mapping[str, Any]) -> Asked:
    try:
        if isinstance(given, bytes):
            return schema.model_validate_json(given)
        return schema.model_validate(given)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        parts = []
        for each in found[:MOST_ERRORS]:
            where = ".".join(map(str, each["loc"])) or "body"
            message = _MESSAGES.get(each["type"], plain(each["msg"]))
            parts.append(f"{where}: {message}")
        if len(found) > MOST_ERRORS:
            parts.append(f"there are {len(found) - MOST_ERRORS} more errors")
        raise Refused(422, "invalid_request", "; ".join(parts)) from None


def _bytes(text: str, settings: Settings) -> bytes:
    if text.startswith(("http://", "https://")):
        if not settings.allow_urls:
            raise Unreadable(
                "urls_not_allowed", "this server does not fetch URLs; send the picture itself"
            )
        try:
            return fetch(text, max_bytes=settings.max_bytes)
        except UrlError as error:
            raise Unreadable("url_not_fetched", f"{text[:200]}: {error}") from None
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise Unreadable(
                "unreadable_image", "the data: URL is not base64; encode the picture in base64"
            )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unreadable(
            "unreadable_image", f"the text is not base64 ({error}); encode the picture in base64"
        ) from None
