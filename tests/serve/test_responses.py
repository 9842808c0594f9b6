"""OpenAI's responses, asked as they are documented."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from outlines_core.json_schema import build_regex_from_schema
from starlette.testclient import TestClient

from captax.pipelines.captioner import Captioner
from captax.serve.asking import ANY_OBJECT
from serve.conftest import client_of, encoded, png

URL = f"data:image/png;base64,{encoded(png(1))}"
GREEDY = {"temperature": 0, "max_output_tokens": 8}


def user(text: str, *urls: str) -> dict[str, Any]:
    shown = [{"type": "input_image", "image_url": url} for url in urls]
    return {"role": "user", "content": [{"type": "input_text", "text": text}, *shown]}


def ask(client: TestClient, **more: Any) -> Any:
    return client.post("/v1/responses", json={"model": "any", "input": [user("", URL)], **more})


def test_a_captioner_that_is_not_asked_answers_with_its_caption(
    client: TestClient, tiny_captioner: Captioner
) -> None:
    [want] = tiny_captioner.caption([png(1)], num_beams=1, max_new_tokens=8)
    answer = ask(client, instructions="Look.", **GREEDY, include=["message.output_text.logprobs"])
    assert "is not asked" in answer.headers["x-captax-note"]
    [message] = answer.json()["output"]
    [part] = message["content"]
    assert part["text"] == want.text
    eos = tiny_captioner.tokenizer.eos_id
    said = [p for token, p in zip(want.tokens, want.logprobs, strict=True) if token != eos]
    assert [each["logprob"] for each in part["logprobs"]] == pytest.approx(said, abs=1e-4)
    assert answer.json()["text"] == {"format": {"type": "text"}}
    plain = ask(client, text={"format": {"type": "text"}}, **GREEDY).json()
    assert plain["text"] == {"format": {"type": "text"}}
    cut = ask(client, temperature=0, max_output_tokens=1).json()
    assert cut["status"] == "incomplete"
    assert cut["incomplete_details"] == {"reason": "max_output_tokens"}


def test_a_stream_ends_with_the_whole_answer(client: TestClient) -> None:
    whole = ask(client, **GREEDY).json()
    answer = ask(client, stream=True, **GREEDY)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [each.split("\n", 1) for each in answer.text.removesuffix("\n\n").split("\n\n")]
    kinds = [name.removeprefix("event: ") for name, _ in events]
    told = [json.loads(data.removeprefix("data: ")) for _, data in events]
    assert kinds == [each["type"] for each in told]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    parts = [each["delta"] for each in told if each["type"] == "response.output_text.delta"]
    assert "".join(parts) == whole["output"][0]["content"][0]["text"]
    last = told[-1]["response"]
    same = ("status", "usage", "model", "temperature", "max_output_tokens", "text")
    assert {name: last[name] for name in same} == {name: whole[name] for name in same}


@pytest.mark.parametrize(
    ("body", "param", "word"),
    [
        ({"input": "hello"}, None, "has no picture"),
        ({"input": []}, "input", "at least 1"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "input.0.content.0.input_text.text",
            "send it",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "file"}]}]},
            "input.0.content.0",
            "input_image",
        ),
        ({"input": [user("", URL, URL)]}, None, "one picture"),
        (
            {"input": [user("", URL), {"role": "assistant", "content": "A cat."}]},
            "input",
            "role",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools", "leave it out"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "leave it out"),
        ({"background": True}, "background", "leave it out"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text", "send it"),
        ({"text": {"format": {"type": "json_object"}}}, None, "tokenizer"),
        ({"max_tokens": 5}, "max_tokens", "did you mean"),
    ],
)
def test_refusals_have_the_form_of_the_standard(
    client: TestClient, body: dict[str, Any], param: str | None, word: str
) -> None:
    answer = ask(client, **body)
    error = answer.json()["error"]
    assert answer.status_code == 400, answer.text
    assert error["param"] == param and word in error["message"]


@pytest.fixture(scope="module")
def writer(spelling: Captioner) -> Iterator[TestClient]:
    with client_of(spelling, max_batch=2) as client:
        yield client


def test_photoprism(writer: TestClient, spelling: Captioner) -> None:
    """The requests for a caption and for labels of its engine `openai`.

    https://github.com/photoprism/photoprism/tree/develop/internal/ai/vision/openai
    """
    prompt = {"type": "input_text", "text": "Describe the main visual content."}
    picture = {"type": "input_image", "image_url": URL, "detail": "low"}
    system = {"role": "system", "type": "message", "content": [prompt]}
    body = {
        "model": "gpt-5-mini",
        "input": [system, {"role": "user", "type": "message", "content": [prompt, picture]}],
        "reasoning": {"effort": "low"},
        "max_output_tokens": 8,
    }
    [want] = spelling.caption([png(1)], max_new_tokens=8)
    found = writer.post("/v1/responses", json=body).json()
    assert found["output"][0]["content"][0]["text"] == want.text

    number = {"type": "number"}
    label = {
        "type": "object",
        "properties": {"name": {"type": "string", "minLength": 1}, "confidence": number},
        "required": ["name", "confidence"],
        "additionalProperties": False,
    }
    labels = {
        "type": "object",
        "properties": {"labels": {"type": "array", "items": label, "default": []}},
        "required": ["labels"],
        "additionalProperties": False,
    }
    how = {"type": "json_schema", "name": "labels_v1", "schema": labels, "strict": True}
    more = {"text": {"format": how}, "max_output_tokens": 80}
    found = writer.post("/v1/responses", json=body | more).json()
    assert set(json.loads(found["output"][0]["content"][0]["text"])) == {"labels"}


def test_json_without_a_schema_is_an_object(writer: TestClient) -> None:
    for seed in range(3):
        how = {"text": {"format": {"type": "json_object"}}, "max_output_tokens": 40 + seed}
        found = ask(writer, temperature=1.5, **how).json()
        assert isinstance(json.loads(found["output"][0]["content"][0]["text"]), dict), found


def test_json_without_a_schema_may_hold_lists_of_objects() -> None:
    pattern = build_regex_from_schema(ANY_OBJECT)
    for text in ('{"labels": [{"name": "cat", "confidence": 0.9}]}', '{"a": {"b": null}}', "{}"):
        assert re.fullmatch(pattern, text)
    assert not re.fullmatch(pattern, "[1]")
