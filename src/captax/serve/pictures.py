"""Pictures of a request: read from its body and resized for the model."""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from captax.data.inline import from_base64, from_data_url, is_data_url
from captax.errors import nearest, plain
from captax.images import AnyProcessor, ImageError, Prepared
from captax.images.budget import NotWanted, never
from captax.images.decode import NotQuick, TooManyPixels
from captax.serve.bodies import MOST_VALUES, check_json, read_form, too_many_images
from captax.serve.refusals import Refused, repeated
from captax.serve.settings import Settings
from captax.serve.urls import UrlError, fetch

Asked = TypeVar("Asked", bound=BaseModel)

FILES = "images"
_GZIP = b"\x1f\x8b"  # what a file of gzip begins with
# Most errors in one answer; a body can hold thousands.
MOST_ERRORS = 5
# Characters of a URL, and of a file's name, that are kept.
_MOST_URL = 2048
_MOST_NAME = 1000
# What pydantic says in words of its own classes.
_MESSAGES = {
    "missing": "is missing; send it",
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
        processor: AnyProcessor,
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
    request: Request, schema: type[Asked], settings: Settings, parsers: Executor
) -> tuple[Asked, list[Sent]]:
    """The fields of a request, and its pictures, parsed by a thread. Raises `Refused`.

    `schema.kinds` are the content types that it may have, and `schema.take_pictures` takes the
    pictures that are text out of it.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    kinds: tuple[str, ...] = schema.kinds  # type: ignore[attr-defined]
    if kind not in kinds:
        known = " or ".join(each for each in kinds if each in _PARSERS)
        raise _unsupported(f"the content type is {repeated(kind) or 'missing'}; send {known}")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise _unsupported(f"the body is encoded as {repeated(coding)}; send it as it is")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
    if body.startswith(_GZIP):
        raise _unsupported("the body is compressed by gzip; send it as it is")
    parse = asyncio.get_running_loop().run_in_executor(
        parsers, _PARSERS.get(kind, _of_json), content_type, body, schema, settings
    )
    # What is parsed is all that stays: `body` is not kept here or by the request.
    del body
    asked, sent = await parse
    if len(sent) > settings.max_images:
        raise too_many_images(len(sent), settings.max_images)
    return asked, sent


def _unsupported(message: str) -> Refused:
    return Refused(415, "unsupported_media_type", message)


def _most_values(settings: Settings) -> int:
    return MOST_VALUES + 4 * settings.max_images


def _of_json(
    content_type: str, body: bytearray, schema: type[Asked], settings: Settings
) -> tuple[Asked, list[Sent]]:
    check_json(body, _most_values(settings))
    asked = _validated(schema, body)
    # Base64 is ASCII. Other characters make a text up to four times as large in memory, and the
    # beginning of such a text is enough to say that it is no picture.
    images: list[str] = asked.take_pictures()  # type: ignore[attr-defined]
    return asked, [Sent(text if text.isascii() else text[:_MOST_URL]) for text in images]


def _of_form(
    content_type: str, body: bytearray, schema: type[Asked], settings: Settings
) -> tuple[Asked, list[Sent]]:
    most = _most_values(settings)
    fields, sent = [], []
    for part in read_form(content_type, body, files=settings.max_images, fields=most):
        if part.filename is None:
            fields.append((part.name, part.data.decode("utf-8", "surrogateescape")))
        elif part.name == FILES:
            sent.append(Sent(bytes(part.data), part.filename[:_MOST_NAME] or None))
            part.data.clear()
        else:
            raise Refused(
                422,
                "invalid_request",
                f"{repeated(part.name)}: is not a field for files; send pictures as {FILES!r}",
            )
    asked = _validated(schema, {**_gathered(schema, fields), FILES: [""] * len(sent)})
    return asked, sent


_PARSERS = {"multipart/form-data": _of_form, "application/json": _of_json}


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
            raise Refused(
                422, "invalid_request", f"{repeated(name)}: is given more than once; send it once"
            )
        else:
            gathered[name] = value
    return gathered


def _validated(schema: type[Asked], given: bytearray | Mapping[str, Any]) -> Asked:
    try:
        if isinstance(given, bytearray):
            return schema.model_validate_json(given)
        return schema.model_validate(given)
    except ValidationError as error:
        found = _of_what_was_meant(
            error.errors(include_url=False, include_context=False, include_input=False)
        )
        parts = []
        for each in found[:MOST_ERRORS]:
            where = repeated(".".join(map(str, _fields(each)))) or "body"
            message = _MESSAGES.get(each["type"], repeated(plain(each["msg"])))
            if each["type"] == "extra_forbidden":
                near = nearest(str(each["loc"][-1])[:100], [*schema.model_fields])
                told = near if near.startswith("; did you mean") else "; leave it out"
                message = f"is not a field of this request{told}"
            parts.append(f"{where}: {message}")
        if len(found) > MOST_ERRORS:
            parts.append(f"there are {len(found) - MOST_ERRORS} more errors")
        param = parts[0].partition(": ")[0]
        raise Refused(422, "invalid_request", "; ".join(parts), param=param) from None


def _fields(error: Any) -> tuple[str | int, ...]:
    """Where an error is, without the types that pydantic names where there are several."""
    return tuple(
        each
        for each in error["loc"]
        if isinstance(each, int) or (each.isidentifier() and each.islower() and each != "str")
    )


def _of_what_was_meant(errors: list[Any]) -> list[Any]:
    """The errors without those of types that were not meant: a list with a mistake is no text."""
    places = [_fields(each) for each in errors]
    # A body can have as many errors as bytes: each is looked at once.
    above = {where[:length] for where in {*places} for length in range(len(where))}
    other = {
        where
        for where, each in zip(places, errors, strict=True)
        if not each["type"].endswith("_type")
    }
    return [
        each
        for where, each in zip(places, errors, strict=True)
        if where not in above and not (each["type"].endswith("_type") and where in other)
    ]


def _bytes(text: str, settings: Settings) -> bytes:
    if text[:8].lower().startswith(("http://", "https://")):
        if not settings.allow_urls:
            raise Unreadable(
                "urls_not_allowed", "this server does not fetch URLs; send the picture itself"
            )
        try:
            return fetch(text, max_bytes=settings.max_bytes)
        except UrlError as error:
            raise Unreadable("url_not_fetched", f"{repeated(text)}: {error}") from None
    try:
        return from_data_url(text) if is_data_url(text) else from_base64(text)
    except ValueError as error:
        what = "data: URL cannot be read" if is_data_url(text) else "text is not base64"
        raise Unreadable(
            "unreadable_image", f"the {what} ({error}); encode the picture in base64"
        ) from None
