"""Ollama's interface: generate, chat, and what its clients ask about models.

The reference is https://github.com/ollama/ollama/blob/main/docs/api.md. As there, fields that are
not known are left alone; a header names those of the options.
"""

import datetime
import time
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from captax.checkpoints.state import parameters
from captax.models.quantised import Quantised
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
)
from captax.serve.pictures import read_request
from captax.serve.refusals import Refused, repeated
from captax.serve.work import Answer

# What curl says of a body, and what it is there; programs may say nothing.
KINDS = ("application/json", "application/x-www-form-urlencoded", "text/plain", "")


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class ModelOptions(_Body):
    """Decoding options by Ollama's names."""

    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = None
    stop: Stop | list[Stop] | None = None
    num_predict: int | None = None
    repeat_penalty: float | None = Field(None, ge=0.01, le=100)


class _Question(_Body):
    kinds: ClassVar[tuple[str, ...]] = KINDS

    model: str = Field("", description="Any name: a server has one model.")
    stream: bool | None = Field(True, description="Whether the answer comes as lines, as it grows.")
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: ModelOptions | None = None

    def asked(self, model: Any, messages: list[tuple[str, str]]) -> Question:
        """What texts of these roles ask. Raises `Refused` for what this server cannot do."""
        prompt, system = asked_in(messages)
        given = self.options or ModelOptions.model_validate({})
        options = options_of(
            model,
            temperature=given.temperature,
            top_p=given.top_p,
            top_k=given.top_k,
            min_p=given.min_p,
            repetition_penalty=given.repeat_penalty,
            most=given.num_predict if (given.num_predict or 0) > 0 else None,
            stop=stops_of(given.stop),
            schema=self._schema(),
        )
        return Question(prompt, system, options, given.seed)

    def _schema(self) -> str | None:
        if self.format == "json":
            return ANY_OBJECT
        return checked_schema(self.format, "format") if self.format else None

    @property
    def ignored(self) -> list[str]:
        """Options that have no effect."""
        return sorted((self.options and self.options.model_extra) or {})


class GenerateRequest(_Question):
    """A prompt about a picture."""

    prompt: Said | None = None
    system: Said | None = None
    images: list[str] | None = None

    def take_pictures(self) -> list[str]:
        """The pictures, which are no longer part of it."""
        images, self.images = self.images or [], None
        return images

    def question(self, model: Any) -> Question:
        """What is asked."""
        return self.asked(model, [("user", self.prompt or ""), ("system", self.system or "")])


class ChatMessage(_Body):
    """What was said by one side."""

    role: str
    content: Said | None = None
    images: list[str] | None = None


class ChatRequest(_Question):
    """A conversation about a picture, which is one question."""

    messages: list[ChatMessage] = Field(max_length=64)

    def take_pictures(self) -> list[str]:
        """The pictures, which are no longer part of it."""
        taken = []
        for message in self.messages:
            taken += message.images or []
            message.images = None
        return taken

    def question(self, model: Any) -> Question:
        """What is asked."""
        return self.asked(model, [(each.role, each.content or "") for each in self.messages])


class ShowRequest(_Body):
    """Which model to describe; both names mean the same."""

    kinds: ClassVar[tuple[str, ...]] = KINDS

    model: str = ""
    name: str = ""

    def take_pictures(self) -> list[str]:
        """It has none."""
        return []


def add(app: FastAPI, desk: Desk) -> None:
    """Add the addresses."""
    service, settings = desk.service, desk.service.settings
    started = _now()

    async def respond(
        request: Request, schema: Any, as_text: Callable[[str], dict[str, Any]]
    ) -> Response:
        check_captioner(desk.model)
        asked, sent = await read_request(request, schema, settings, service.parsers)
        writer = _Writer(desk, as_text)
        if not sent and not (getattr(asked, "prompt", None) or getattr(asked, "messages", None)):
            # Clients load a model by asking nothing of it.
            return JSONResponse(writer.record("", done=True, done_reason="load"))
        question, pictures = asked.question(desk.model), one_picture(sent)
        notes = [note] if (note := question.note(desk.model)) else []
        if asked.ignored:
            notes.append(f"these options have no effect: {repeated(', '.join(asked.ignored))}")
        headers = {NOTE: _header("; ".join(notes))} if notes else {}
        if asked.stream is not False:
            return await desk.stream(
                request, question, pictures, writer.line, "application/x-ndjson", headers
            )
        answer = await desk.answer(request, question, pictures)
        return JSONResponse(writer.whole(answer), headers=headers)

    @app.post("/api/generate", tags=["ollama"], response_model=None)
    async def generate(request: Request) -> Response:
        """Answer a prompt about a picture, as Ollama does."""
        return await respond(request, GenerateRequest, lambda text: {"response": text})

    @app.post("/api/chat", tags=["ollama"], response_model=None)
    async def chat(request: Request) -> Response:
        """Answer a question about a picture, as Ollama does."""
        return await respond(
            request, ChatRequest, lambda text: {"message": {"role": "assistant", "content": text}}
        )

    weights = parameters(desk.model.model).values()
    # Most of the numbers are in the largest matrix's type.
    numbers, largest = sum(each.size for each in weights), max(weights, key=lambda each: each.size)
    kind = f"int{largest.bits}" if isinstance(largest, Quantised) else str(largest.dtype)
    architecture = getattr(getattr(desk.model.model, "config", None), "model_type", "captax")
    details = {
        "parent_model": "",
        "format": "safetensors",
        "family": architecture,
        "families": [architecture],
        "parameter_size": f"{numbers / 1e6:.1f}M",
        "quantization_level": kind,
    }

    @app.get("/api/tags", tags=["ollama"])
    async def tags() -> dict[str, Any]:
        """The model that this server runs, as Ollama lists models."""
        record = {
            "name": settings.name,
            "model": settings.name,
            "modified_at": started,
            "size": sum(leaf.nbytes for leaf in jax.tree.leaves([*weights])),
            "digest": "",
            "details": details,
        }
        return {"models": [record]}

    @app.post("/api/show", tags=["ollama"], response_model=None)
    async def show(request: Request) -> dict[str, Any]:
        """What the model is that this server runs."""
        asked, _ = await read_request(request, ShowRequest, settings, service.parsers)
        wanted = asked.model or asked.name
        if wanted not in (settings.name, f"{settings.name}:latest"):
            raise Refused(
                404,
                "model_not_found",
                f"model '{repeated(wanted)}' not found; this server runs {settings.name}",
            )
        return {
            "modelfile": "",
            "parameters": "",
            "template": "",
            "details": details,
            "model_info": {
                "general.architecture": architecture,
                "general.parameter_count": numbers,
            },
            "capabilities": ["completion", "vision"] if isinstance(desk.model, Captioner) else [],
            "modified_at": started,
        }

    @app.get("/api/version", tags=["ollama"])
    async def version() -> dict[str, Any]:
        """The version of captax."""
        return {"version": app.version}


class _Writer:
    """Writes the answer to one request."""

    def __init__(self, desk: Desk, as_text: Callable[[str], dict[str, Any]]):
        self.model: Any = desk.model
        self.name, self.as_text = desk.service.settings.name, as_text
        self.started = time.perf_counter()

    def record(self, text: str, **more: Any) -> dict[str, Any]:
        """A part of the answer."""
        return {"model": self.name, "created_at": _now(), **self.as_text(text), **more}

    def whole(self, answer: Answer, text: str | None = None) -> dict[str, Any]:
        """The last part, with the whole text unless another is given."""
        [best, *_] = answer.caption.alternatives
        nanoseconds = int(1e9 * (time.perf_counter() - self.started))
        return self.record(
            best.text if text is None else text,
            done=True,
            done_reason=reason(self.model, answer, best),
            total_duration=nanoseconds,
            load_duration=0,
            prompt_eval_count=answer.prompt_tokens,
            prompt_eval_duration=0,
            eval_count=len(best.tokens),
            eval_duration=nanoseconds,
        )

    def line(self, part: str | Answer | Refused) -> str:
        """A line of a stream."""
        if isinstance(part, Refused):
            return as_line({"error": part.message}) + "\n"
        record = self.record(part, done=False) if isinstance(part, str) else self.whole(part, "")
        return as_line(record) + "\n"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")


def _header(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()
