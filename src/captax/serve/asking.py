"""One question about one picture, answered as a whole or while it is written.

It is what the interfaces of other programs have in common.
"""

import asyncio
import contextlib
import dataclasses
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import Field
from starlette.requests import Request
from starlette.responses import StreamingResponse

from captax.generation.automaton import schema_text
from captax.generation.decoding import GenerationError
from captax.generation.result import Alternative
from captax.pipelines.captioner import Captioner
from captax.pipelines.vision_language import VisionLanguageCaptioner
from captax.serve.pictures import Sent
from captax.serve.refusals import Refused, repeated
from captax.serve.schemas import MOST_TOKENS
from captax.serve.service import Service
from captax.serve.work import Answer, Work
from captax.text.growing import Growing

Given = TypeVar("Given")
# Characters of all that is said, and of a text to end at, how many of these there may be, and their
# bytes: each is a state of an automaton with a row for the whole vocabulary.
MOST_SAID, MOST_STOP, MOST_STOPS, MOST_STOP_BYTES = 8000, 32, 4, 64
MOST_SCHEMA = 20_000
Said = Annotated[str, Field(max_length=MOST_SAID)]
Stop = Annotated[str, Field(min_length=1, max_length=MOST_STOP)]
# Lower temperatures are greedy search.
LEAST_TEMPERATURE = 0.01
# Says what of a request had no effect, or what the server does instead.
NOTE = "x-captax-note"
_NOT_ASKED = "this captioner is not asked: the answer is its caption, and no prompt was read"
# Proxies must not wait for the whole answer.
_LIVE = {"cache-control": "no-cache", "x-accel-buffering": "no"}


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked about a picture; `options` are those of `Captioner.caption`."""

    prompt: str = ""
    system: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int | None = None

    def work(self, model: Any, kind: Any) -> Work:
        """It as work for the model, which is not asked unless it has a prompt format."""
        if not isinstance(model, VisionLanguageCaptioner):
            return Work.of(kind, self.options)
        options = {**self.options, "system": self.system} if self.system else self.options
        return Work.of(kind, options, self.prompt)

    def note(self, model: Any) -> str | None:
        """What a client should know of how it is answered."""
        asked = isinstance(model, VisionLanguageCaptioner)
        return None if asked or not (self.prompt or self.system) else _NOT_ASKED

    def ask(self, **more: Any) -> dict[str, Any]:
        """What goes with the picture. Without a seed, every request has draws of its own."""
        seed = secrets.randbits(31) if self.seed is None else self.seed
        return {"seed": seed & 0x7FFFFFFF, **more}


def options_of(
    model: Any,
    *,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    most: int | None = None,
    count: int = 1,
    stop: Sequence[str] = (),
    schema: str | None = None,
) -> dict[str, Any]:
    """Decoding options as other programs name them, as `Captioner.caption` takes them.

    Without a `temperature` or another filter, decoding is what the checkpoint says; a temperature
    of 0 is greedy search. `most` is an upper limit, and the server and the model have their own.
    """
    options: dict[str, Any] = {}
    given = {"top_p": top_p, "top_k": top_k, "min_p": min_p}
    filters = {name: value for name, value in given.items() if value is not None}
    narrow = any(filters.get(name, default) != default for name, default in _WIDE.items())
    if temperature is not None and temperature < LEAST_TEMPERATURE:
        options |= {"do_sample": False, "num_beams": count}
    elif temperature is not None or narrow:
        wide = {"top_k": 0, "top_p": 1.0}
        options |= {"do_sample": True, "temperature": temperature or 1.0, **wide, **filters}
    if count > 1:
        options["num_return_sequences"] = count
    if repetition_penalty is not None:
        options["repetition_penalty"] = repetition_penalty
    if most is not None:
        asked = isinstance(model, VisionLanguageCaptioner)
        room = MOST_TOKENS if asked else min(MOST_TOKENS, model.most_new_tokens)
        options["max_new_tokens"] = min(most, room)
    if schema is not None:
        options["json_schema"] = schema
    if stop:
        options["stop_strings"] = tuple(stop)
    return options


_WIDE = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}


def stops_of(stop: str | list[str] | None) -> list[str]:
    """The texts that an answer ends at. Raises `Refused` if they are too many."""
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > MOST_STOPS:
        raise unsupported("stop", f"has {len(stops)} texts; give at most {MOST_STOPS}")
    if (size := sum(len(each.encode(errors="replace")) for each in stops)) > MOST_STOP_BYTES:
        raise unsupported("stop", f"has {size} bytes in all; give at most {MOST_STOP_BYTES}")
    return stops


def asked_in(messages: Iterable[tuple[str, str]], param: str = "messages") -> tuple[str, str]:
    """The prompt and the system's text in messages, which are given by their roles and texts.

    Those of each kind stand one below the other. Raises `Refused` for other roles, or if all of it
    is too long; `param` is the field that they are in.
    """
    said: dict[str, list[str]] = {"user": [], "system": []}
    for role, text in messages:
        if role not in said:
            raise unsupported(
                param,
                f"there is a message of the role {repeated(role)}, and a captioner answers one "
                "question about one picture; send messages of system and user only",
            )
        said[role].append(text)
    prompt, system = ("\n\n".join(filter(None, each)) for each in said.values())
    if (size := len(prompt) + len(system)) > MOST_SAID:
        raise unsupported(param, f"has {size:,} characters of text; give at most {MOST_SAID:,}")
    return prompt, system


def _any_object() -> str:
    """A schema of objects of values, lists, objects, and lists of objects.

    JSON has objects in objects without end, and an automaton has not.
    """
    values = [{"type": each} for each in ("string", "number", "boolean", "null")]
    record = {"type": "object", "additionalProperties": {"anyOf": values}}
    several = {"type": "array", "items": {"anyOf": [*values, record]}}
    every = {"anyOf": [*values, several, record]}
    return schema_text({"type": "object", "additionalProperties": every})


# What is followed where JSON is asked for and no schema is given.
ANY_OBJECT = _any_object()


def checked_schema(schema: Any, param: str) -> str:
    """A schema as a text. Raises `Refused` if it is none."""
    try:
        text = schema_text(schema)
        if len(text) > MOST_SCHEMA:
            raise unsupported(param, f"the schema has more than {MOST_SCHEMA:,} characters")
        return text
    except GenerationError as error:
        raise Refused(422, "invalid_request", str(error), param=param) from None


def unsupported(param: str, why: str) -> Refused:
    """The refusal of a field that asks for what this server cannot do."""
    return Refused(422, "unsupported_value", f"{param}: {why}", param=param)


def check_captioner(model: Any) -> None:
    """Raise `Refused` if a server's model writes nothing."""
    if not isinstance(model, Captioner):
        raise Refused(404, "wrong_model", "this server runs a classifier; use /v1/classify")


def one_picture(sent: Sequence[Sent]) -> list[Sent]:
    """The picture of a request. Raises `Refused` if there is none, or several."""
    if not sent:
        raise Refused(422, "no_image", "the request has no picture; send one")
    if len(sent) > 1:
        raise Refused(
            422,
            "too_many_images",
            f"the request has {len(sent)} pictures, and a question is about one; send one picture",
        )
    return list(sent)


class Desk:
    """Asks the model of a server."""

    def __init__(self, service: Service):
        self.service = service
        self.model = service.worker.model

    async def answer(self, request: Request, question: Question, sent: list[Sent]) -> Answer:
        """The whole answer. Raises `Refused`."""
        work = question.work(self.model, "answer")
        asked = self.service.answer(work, sent, [(0, question.ask())])
        return _only(await unless_gone(request, asked))

    async def stream(
        self,
        request: Request,
        question: Question,
        sent: list[Sent],
        write: Callable[[str | Answer | Refused], str],
        media_type: str,
        headers: dict[str, str],
    ) -> StreamingResponse:
        """A response that is written as the answer grows.

        `write` gives the text for each part of the answer, for the answer at its end, or for a
        refusal after the first part. Raises `Refused` before it.
        """
        parts = self._parts(question, sent)
        try:
            first = await unless_gone(request, anext(parts))
        except BaseException:
            await parts.aclose()
            raise

        async def lines() -> AsyncIterator[str]:
            async with contextlib.aclosing(parts):
                yield write(first)
                try:
                    async for part in parts:
                        yield write(part)
                except Refused as refused:
                    request.scope["state"]["refused"] = refused.kind
                    yield write(refused)

        return StreamingResponse(lines(), media_type=media_type, headers={**_LIVE, **headers})

    async def _parts(self, question: Question, sent: list[Sent]) -> Any:
        """The parts of the answer as they come, and then the whole `Answer`."""
        loop = asyncio.get_running_loop()
        heard: asyncio.Queue[str | None] = asyncio.Queue()
        growing, gone = Growing(), False

        def listen(text: str) -> bool:  # in the model's thread
            if not gone and (new := growing.more(text)):
                loop.call_soon_threadsafe(heard.put_nowait, new)
            return not gone

        work = question.work(self.model, "tell")
        asks = [(0, question.ask(listener=listen))]
        working = asyncio.ensure_future(self.service.answer(work, sent, asks))
        working.add_done_callback(lambda _: heard.put_nowait(None))
        try:
            while (part := await heard.get()) is not None:
                yield part
            yield _only(working.result())
        finally:
            gone = True
            working.cancel()
            await asyncio.wait({working})


def _only(found: list[Any]) -> Answer:
    [(_, answer)] = found
    return answer


async def unless_gone(request: Request, work: Awaitable[Given]) -> Given:
    """The result of `work`, which is cancelled if the client hangs up first."""

    async def hang_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(hang_up())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Refused(499, "client_gone", "the client hung up")
        return working.result()
    finally:
        working.cancel()
        gone.cancel()
        # What the pictures took is given back before the request counts as ended.
        await asyncio.wait({working, gone})


def reason(model: Captioner, answer: Answer, text: Alternative) -> str:
    """Why a text ended, as both interfaces say it: `stop`, or `length` at its limit.

    It stops by itself, before a text to end at, or because it said the same again and again.
    """
    if answer.caption.looped or (text.tokens and text.tokens[-1] in model.generation.eos_ids):
        return "stop"
    [written] = model.decode([text.tokens])
    return "stop" if len(written.strip()) > len(text.text.strip()) else "length"


def as_line(record: Any) -> str:
    """JSON in one line, also for clients to whom U+2028 ends a line."""
    return json.dumps(record, separators=(",", ":"))
