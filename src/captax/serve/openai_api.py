"""OpenAI's interface: chat completions and the list of models, as far as a captioner has them.

The reference is https://platform.openai.com/docs/api-reference/chat.
"""

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Protocol

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from captax.generation.result import Alternative
from captax.pipelines.captioner import Captioner
from captax.serve.asking import (
    ANY_OBJECT,
    NOTE,
    Desk,
    Question,
    Said,
    Stop,
    as_line,
    asked_in,
    check_captioner,
    checked_schema,
    one_picture,
    options_of,
    reason,
    stops_of,
    unsupported,
)
from captax.serve.pictures import read_request
from captax.serve.refusals import Refused, repeated
from captax.serve.schemas import MOST_ROWS
from captax.serve.work import Answer
from captax.text import TextError

# Newer models call the system's messages the developer's.
SYSTEM = {"developer": "system"}
# What has no effect on an answer.
Ignored = Annotated[Any, Field(exclude=True)]


class Part(BaseModel):
    """A part of a request, in which unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TextPart(Part):
    """A text."""

    type: Literal["text"]
    text: Said


class ImageUrl(Part):
    """Where a picture is: a data URL or, where the server allows it, an http(s) URL."""

    url: str
    detail: Ignored = None


class ImagePart(Part):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl


class Message(Part):
    """What was said by one side: a text, or parts that are texts and pictures."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Said | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]] | None = None
    name: Ignored = None

    @property
    def said(self) -> str:
        """Its texts, one below the other."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or () if isinstance(part, TextPart))


class JsonSchema(Part):
    """A schema by its name."""

    name: str = ""
    description: Ignored = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: Ignored = None


class ResponseFormat(Part):
    """How the answer is written."""

    type: Literal["text", "json_schema", "json_object"]
    json_schema: JsonSchema | None = None


class StreamOptions(Part):
    """What a stream has beside the answer."""

    include_usage: bool = False
    include_obfuscation: Ignored = None


class Asked(Part):
    """What chat completions and responses have in common."""

    kinds: ClassVar[tuple[str, ...]] = ("application/json",)

    model: str = Field("", description="Any name: a server has one model.")
    temperature: float | None = Field(
        None,
        ge=0,
        le=2,
        description="0 is greedy search. By default, captions are decoded as the checkpoint says.",
    )
    top_p: float | None = Field(None, gt=0, le=1)
    stream: bool | None = None
    # What would change the answer, and is refused unless it has no effect.
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    top_logprobs: int | None = None
    # What has no effect.
    user: Ignored = None
    metadata: Ignored = None
    store: Ignored = None
    service_tier: Ignored = None
    parallel_tool_calls: Ignored = None
    prompt_cache_key: Ignored = None
    safety_identifier: Ignored = None

    def check_without_effect(self, values: Mapping[str, tuple[Any, ...]]) -> None:
        """Raise `Refused` for fields that have other values than those without an effect."""
        for name, known in {**_WITHOUT_EFFECT, **values}.items():
            if getattr(self, name) not in known:
                raise unsupported(name, "is not supported by this server; leave it out")


_WITHOUT_EFFECT = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "top_logprobs": (None, 0),
}


class ChatRequest(Asked):
    """A question about a picture."""

    messages: list[Message] = Field(min_length=1, max_length=64)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    top_k: int | None = Field(None, ge=0, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    seed: int | None = None
    stop: Stop | list[Stop] | None = None
    n: int | None = Field(None, ge=1, le=MOST_ROWS)
    logprobs: bool | None = None
    response_format: ResponseFormat | None = None
    stream_options: StreamOptions | None = None
    # What would change the answer, and is refused unless it has no effect.
    logit_bias: dict[str, float] | None = None
    functions: list[Any] | None = None
    modalities: list[str] | None = None
    # What has no effect.
    reasoning_effort: Ignored = None
    verbosity: Ignored = None

    def take_pictures(self) -> list[str]:
        """The pictures, which are no longer part of it."""
        taken = []
        for message in self.messages:
            if isinstance(message.content, list):
                shown = [part for part in message.content if isinstance(part, ImagePart)]
                taken += [part.image_url.url for part in shown]
                message.content = [part for part in message.content if part not in shown]
        return taken

    def question(self, model: Any) -> Question:
        """What is asked. Raises `Refused` for what this server cannot do."""
        self.check_without_effect(
            {"logit_bias": (None, {}), "functions": (None, []), "modalities": (None, ["text"])}
        )
        prompt, system = asked_in((SYSTEM.get(m.role, m.role), m.said) for m in self.messages)
        options = options_of(
            model,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            most=self.max_completion_tokens or self.max_tokens,
            count=self.n or 1,
            stop=stops_of(self.stop),
            schema=self._schema(),
        )
        return Question(prompt, system, options, self.seed)

    def _schema(self) -> str | None:
        how = self.response_format
        if how is None or how.type == "text":
            return None
        if how.type == "json_object":
            return ANY_OBJECT
        if how.json_schema is None:
            raise unsupported("response_format", "json_schema needs a schema; send it")
        return checked_schema(how.json_schema.schema_, "response_format")


class Writer(Protocol):
    """Writes the answer to one request."""

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The whole answer."""

    def events(self, part: str | Answer | Refused) -> str:
        """The events of a stream that a part of the answer makes."""


async def respond(
    desk: Desk, request: Request, schema: Any, writing: Callable[[Desk, Any, str], Writer]
) -> Response:
    """The answer to a request in OpenAI's form, or the stream of it. Raises `Refused`."""
    service = desk.service
    check_captioner(desk.model)
    asked, sent = await read_request(request, schema, service.settings, service.parsers)
    question, pictures = asked.question(desk.model), one_picture(sent)
    note = question.note(desk.model)
    headers = {} if note is None else {NOTE: note}
    writer = writing(desk, asked, request.state.request_id)
    if asked.stream:
        return await desk.stream(
            request, question, pictures, writer.events, "text/event-stream", headers
        )
    found = await desk.answer(request, question, pictures)
    return JSONResponse(writer.whole(found), headers=headers)


def add(app: FastAPI, desk: Desk) -> None:
    """Add the addresses."""
    settings = desk.service.settings
    started = int(time.time())

    @app.post("/v1/chat/completions", tags=["openai"], response_model=None)
    async def chat(request: Request) -> Response:
        """Answer a question about a picture, as OpenAI's chat completions do."""
        return await respond(desk, request, ChatRequest, _Writer)

    def model_record() -> dict[str, Any]:
        return {"id": settings.name, "object": "model", "created": started, "owned_by": "captax"}

    @app.get("/v1/models", tags=["openai"])
    async def models() -> dict[str, Any]:
        """The model that this server runs, as OpenAI lists models."""
        return {"object": "list", "data": [model_record()]}

    @app.get("/v1/models/{name:path}", tags=["openai"])
    async def model(name: str) -> dict[str, Any]:
        """The model that this server runs, by its name."""
        if name != settings.name:
            raise Refused(
                404,
                "model_not_found",
                f"there is no model {repeated(name)}; this server runs {settings.name}",
                param="model",
            )
        return model_record()


class _Writer:
    """Writes the answer to one request."""

    def __init__(self, desk: Desk, asked: ChatRequest, request_id: str):
        assert isinstance(desk.model, Captioner)
        self.model, self.asked, self.request_id = desk.model, asked, request_id
        self.usage_wanted = asked.stream_options is not None and asked.stream_options.include_usage
        self.begun = False
        self.about = {
            "id": f"chatcmpl-{request_id}",
            "created": int(time.time()),
            "model": desk.service.settings.name,
        }

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The whole answer."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text.text, "refusal": None},
                "logprobs": self._logprobs(text),
                "finish_reason": reason(self.model, answer, text),
            }
            for index, text in enumerate(answer.caption.alternatives)
        ]
        usage = self._usage(answer)
        return {**self.about, "object": "chat.completion", "choices": choices, "usage": usage}

    def events(self, part: str | Answer | Refused) -> str:
        """The events of a stream that a part of the answer makes."""
        if isinstance(part, Refused):
            return _event(part.body(self.request_id, "/v1/chat/"))
        several = (self.asked.n or 1) > 1
        events = []
        if not self.begun:
            self.begun = True
            first = {"role": "assistant", "content": ""}
            events += [self._chunk(self._delta(i, first)) for i in range(self.asked.n or 1)]
        if isinstance(part, str):
            if not several:
                events.append(self._chunk(self._delta(0, {"content": part})))
            return "".join(events)
        for index, text in enumerate(part.caption.alternatives):
            if several:
                events.append(self._chunk(self._delta(index, {"content": text.text})))
            last = self._delta(index, {}, reason(self.model, part, text))
            events.append(self._chunk({**last, "logprobs": self._logprobs(text)}))
        if self.usage_wanted:
            events.append(self._chunk(None, self._usage(part)))
        return "".join([*events, "data: [DONE]\n\n"])

    def _delta(self, index: int, delta: dict[str, Any], why: str | None = None) -> Any:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": why}

    def _chunk(self, choice: Any, usage: dict[str, Any] | None = None) -> str:
        record = {**self.about, "object": "chat.completion.chunk"}
        record["choices"] = [] if choice is None else [choice]
        return _event(record | ({"usage": usage} if self.usage_wanted else {}))

    def _usage(self, answer: Answer) -> dict[str, Any]:
        written = sum(len(text.tokens) for text in answer.caption.alternatives)
        read = answer.prompt_tokens
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        }

    def _logprobs(self, text: Alternative) -> dict[str, Any] | None:
        if not self.asked.logprobs:
            return None
        return {"content": logprobs_of(self.model, text), "refusal": None}


def logprobs_of(model: Captioner, text: Alternative) -> list[dict[str, Any]]:
    """The tokens of a text and their log-probabilities, without its end."""
    try:
        pieces = model.tokenizer.pieces
    except TextError:
        pieces = None
    told = []
    for token, logprob in zip(text.tokens, text.logprobs, strict=True):
        if token in model.generation.eos_ids:
            continue
        spelt = None if pieces is None else pieces[token]
        shown = model.tokenizer.token(token) if spelt is None else spelt.decode("utf-8", "replace")
        octets = [*shown.encode()] if spelt is None else [*spelt]
        told.append({"token": shown, "logprob": logprob, "bytes": octets, "top_logprobs": []})
    return told


def _event(record: dict[str, Any]) -> str:
    return f"data: {as_line(record)}\n\n"
