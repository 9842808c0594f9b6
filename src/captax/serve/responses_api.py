"""OpenAI's newer interface: responses, as far as a captioner has them.

The reference is https://platform.openai.com/docs/api-reference/responses.
"""

import time
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import Field

from captax.pipelines.captioner import Captioner
from captax.serve.asking import (
    ANY_OBJECT,
    Desk,
    Question,
    Said,
    as_line,
    asked_in,
    checked_schema,
    options_of,
    reason,
    unsupported,
)
from captax.serve.openai_api import (
    SYSTEM,
    Asked,
    Ignored,
    Part,
    logprobs_of,
    respond,
)
from captax.serve.refusals import Refused
from captax.serve.work import Answer


class InputText(Part):
    """A text, also one of an earlier answer."""

    type: Literal["input_text", "output_text"]
    text: Said
    annotations: Ignored = None
    logprobs: Ignored = None


class InputImage(Part):
    """A picture: a data URL or, where the server allows it, an http(s) URL."""

    type: Literal["input_image"]
    image_url: str
    detail: Ignored = None


class InputMessage(Part):
    """What was said by one side: a text, or parts that are texts and pictures."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Said | list[Annotated[InputText | InputImage, Field(discriminator="type")]]
    id: Ignored = None
    status: Ignored = None

    @property
    def said(self) -> str:
        """Its texts, one below the other."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, InputText))


class TextFormat(Part):
    """How the answer is written."""

    type: Literal["text", "json_schema", "json_object"]
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    description: Ignored = None
    strict: Ignored = None


class TextOptions(Part):
    """How the answer is written, and how long; the latter has no effect."""

    format: TextFormat | None = None
    verbosity: Ignored = None


class ResponseRequest(Asked):
    """A question about a picture."""

    input: Said | Annotated[list[InputMessage], Field(min_length=1, max_length=64)]
    instructions: Said | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    text: TextOptions | None = None
    include: list[str] | None = None
    # What would change the answer, and is refused unless it has no effect.
    background: bool | None = None
    conversation: Any = None
    previous_response_id: str | None = None
    prompt: Any = None
    # What has no effect.
    max_tool_calls: Ignored = None
    reasoning: Ignored = None
    stream_options: Ignored = None
    truncation: Ignored = None

    def take_pictures(self) -> list[str]:
        """The pictures, which are no longer part of it."""
        taken = []
        for message in self.input:
            if isinstance(message, InputMessage) and isinstance(message.content, list):
                shown = [part for part in message.content if isinstance(part, InputImage)]
                taken += [part.image_url for part in shown]
                message.content = [part for part in message.content if part not in shown]
        return taken

    def question(self, model: Any) -> Question:
        """What is asked. Raises `Refused` for what this server cannot do."""
        self.check_without_effect(
            {
                "background": (None, False),
                "conversation": (None,),
                "previous_response_id": (None,),
                "prompt": (None,),
            }
        )
        said = (
            [("user", self.input)]
            if isinstance(self.input, str)
            else [(SYSTEM.get(each.role, each.role), each.said) for each in self.input]
        )
        prompt, system = asked_in([("system", self.instructions or ""), *said], "input")
        options = options_of(
            model,
            temperature=self.temperature,
            top_p=self.top_p,
            most=self.max_output_tokens,
            schema=self._schema(),
        )
        return Question(prompt, system, options)

    def _schema(self) -> str | None:
        how = self.text.format if self.text else None
        if how is None or how.type == "text":
            return None
        if how.type == "json_object":
            return ANY_OBJECT
        if how.schema_ is None:
            raise unsupported("text", "json_schema needs a schema; send it")
        return checked_schema(how.schema_, "text")


def add(app: FastAPI, desk: Desk) -> None:
    """Add the address."""

    @app.post("/v1/responses", tags=["openai"], response_model=None)
    async def responses(request: Request) -> Response:
        """Answer a question about a picture, as OpenAI's responses do. Nothing is stored."""
        return await respond(desk, request, ResponseRequest, _Writer)


class _Writer:
    """Writes the answer to one request."""

    def __init__(self, desk: Desk, asked: ResponseRequest, request_id: str):
        assert isinstance(desk.model, Captioner)
        self.model, self.asked, self.request_id = desk.model, asked, request_id
        self.number = 0  # of the next event
        text = asked.text.format if asked.text else None
        self.about = {
            "id": f"resp_{request_id}",
            "object": "response",
            "created_at": int(time.time()),
            "model": desk.service.settings.name,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "text": {
                "format": text.model_dump(by_alias=True, exclude_none=True)
                if text
                else {"type": "text"}
            },
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "metadata": {},
            "error": None,
        }

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The whole answer."""
        status = self._status(answer)
        why = None if status == "completed" else {"reason": "max_output_tokens"}
        read, written = answer.prompt_tokens, len(answer.caption.tokens)
        usage = {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": read + written,
        }
        output = [self._message(status, [self._part(answer)])]
        return self._response(status, output, usage, why)

    def events(self, part: str | Answer | Refused) -> str:
        """The events of a stream that a part of the answer makes."""
        if isinstance(part, Refused):
            error = part.body(self.request_id, "/v1/responses")["error"]
            return self._event("error", code=error["code"], message=error["message"], param=None)
        where = {"item_id": self._message("", [])["id"], "output_index": 0, "content_index": 0}
        item = {"output_index": 0}
        events = []
        if self.number == 0:
            begun = self._response("in_progress", [], None, None)
            empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            events += [
                self._event("response.created", response=begun),
                self._event("response.in_progress", response=begun),
                self._event(
                    "response.output_item.added", **item, item=self._message("in_progress", [])
                ),
                self._event("response.content_part.added", **where, part=empty),
            ]
        if isinstance(part, str):
            events.append(
                self._event("response.output_text.delta", **where, delta=part, logprobs=[])
            )
            return "".join(events)
        whole, said = self.whole(part), self._part(part)
        text = {"text": said["text"], "logprobs": said["logprobs"]}
        return "".join(
            [
                *events,
                self._event("response.output_text.done", **where, **text),
                self._event("response.content_part.done", **where, part=said),
                self._event("response.output_item.done", **item, item=whole["output"][0]),
                self._event(f"response.{whole['status']}", response=whole),
            ]
        )

    def _status(self, answer: Answer) -> str:
        ended = reason(self.model, answer, answer.caption.alternatives[0]) == "stop"
        return "completed" if ended else "incomplete"

    def _response(self, status: str, output: list[Any], usage: Any, why: Any) -> dict[str, Any]:
        told = {"status": status, "incomplete_details": why, "output": output, "usage": usage}
        return {**self.about, **told}

    def _message(self, status: str, content: list[Any]) -> dict[str, Any]:
        about = {"id": f"msg_{self.request_id}", "type": "message", "role": "assistant"}
        return {**about, "status": status, "content": content}

    def _part(self, answer: Answer) -> dict[str, Any]:
        wanted = "message.output_text.logprobs" in (self.asked.include or ())
        told = logprobs_of(self.model, answer.caption.alternatives[0]) if wanted else []
        return {
            "type": "output_text",
            "text": answer.caption.text,
            "annotations": [],
            "logprobs": told,
        }

    def _event(self, kind: str, **told: Any) -> str:
        record = {"type": kind, "sequence_number": self.number, **told}
        self.number += 1
        return f"event: {kind}\ndata: {as_line(record)}\n\n"
