"""One question about one picture, answered as a whole or while it is written.

It is what the interfaces of other programs have in common.
"""

import asyncio
import contextlib
import dataclasses
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse

from captax.generation.result import Alternative
from captax.pipelines.captioner import Captioner
from captax.pipelines.vision_language import VisionLanguageCaptioner
from captax.serve.pictures import Sent
from captax.serve.refusals import Refused
from captax.serve.schemas import MOST_TOKENS
from captax.serve.service import Service
from captax.serve.work import Answer, Work
from captax.text.growing import Growing

Given = TypeVar("Given")
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


def texts_of(answer: Answer) -> tuple[Alternative, ...]:
    """All texts that were asked for, best first."""
    return answer.caption.alternatives


def ended(model: Captioner, text: Alternative) -> bool:
    """Whether a text ended by itself or before a text to end at, and not at its limit."""
    if text.tokens and text.tokens[-1] in model.generation.eos_ids:
        return True
    [written] = model.decode([text.tokens])
    return len(written.strip()) > len(text.text.strip())


def as_line(record: Any) -> str:
    """JSON in one line, also for clients to whom U+2028 ends a line."""
    return json.dumps(record, separators=(",", ":"))
