"""OpenAI's interface, asked as it is documented, and the refusals of what a captioner cannot do."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from captax.pipelines.captioner import Captioner
from captax.pipelines.vision_language import VisionLanguageCaptioner
from captax.serve.schemas import MOST_TOKENS
from serve.conftest import asking, client_of, encoded, png, until

CHAT = "/v1/chat/completions"
GREEDY = {"temperature": 0, "max_tokens": 8}
SAMPLED = {"temperature": 1.0, "seed": 5, "max_tokens": 8}


def data_url(seed: int) -> str:
    return f"data:image/png;base64,{encoded(png(seed))}"


def shown(*seeds: int) -> list[dict[str, Any]]:
    return [{"type": "image_url", "image_url": {"url": data_url(seed)}} for seed in seeds]


def user(text: str, *seeds: int) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}, *shown(*seeds)]}


def ask(client: TestClient, text: str = "", picture: int = 1, **more: Any) -> Any:
    return client.post(CHAT, json={"model": "any", "messages": [user(text, picture)], **more})


def events(answer: Any) -> list[Any]:
    """What a stream holds, without its last event."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def text_of(chunks: list[Any], index: int = 0) -> str:
    deltas = [
        each["delta"] for chunk in chunks for each in chunk["choices"] if each["index"] == index
    ]
    return "".join(delta.get("content", "") for delta in deltas)


def test_a_captioner_that_is_not_asked_answers_with_its_caption(
    client: TestClient, tiny_captioner: Captioner
) -> None:
    [want] = tiny_captioner.caption([png(1)])
    answer = ask(client, "What is it?")
    assert "is not asked" in answer.headers["x-captax-note"]
    body = answer.json()
    assert body["object"] == "chat.completion" and body["model"] == "tiny"
    [choice] = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": want.text, "refusal": None}
    assert body["usage"]["completion_tokens"] == len(want.tokens)
    assert "x-captax-note" not in ask(client).headers


@pytest.mark.parametrize("options", [{}, GREEDY, SAMPLED], ids=["beams", "greedy", "sampled"])
def test_a_stream_says_what_the_whole_answer_says(
    client: TestClient, options: dict[str, Any]
) -> None:
    whole = ask(client, **options).json()
    answer = ask(client, stream=True, stream_options={"include_usage": True}, **options)
    *chunks, last = events(answer)
    assert text_of(chunks) == whole["choices"][0]["message"]["content"]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert len({(chunk["id"], chunk["object"]) for chunk in chunks}) == 1
    if options:
        assert len([c for c in chunks if c["choices"][0]["delta"].get("content")]) > 1


def test_several_answers(client: TestClient) -> None:
    body = {"n": 3, **SAMPLED}
    texts = [each["message"]["content"] for each in ask(client, **body).json()["choices"]]
    assert len(texts) == 3
    chunks = events(ask(client, stream=True, **body))
    assert [text_of(chunks, index) for index in range(3)] == texts


def test_draws_differ_unless_there_is_a_seed(client: TestClient) -> None:
    body = {**SAMPLED, "temperature": 2}
    assert len({ask(client, **body).text.split('"choices"')[1] for _ in range(3)}) == 1
    del body["seed"]
    assert len({ask(client, **body).text.split('"choices"')[1] for _ in range(8)}) > 1


def test_logprobs_and_the_reason_of_the_end(client: TestClient, tiny_captioner: Captioner) -> None:
    options = {"max_new_tokens": 3, "num_beams": 1}
    [want] = tiny_captioner.caption([png(1)], **options)
    [choice] = ask(client, temperature=0, max_tokens=3, logprobs=True).json()["choices"]
    content = choice["logprobs"]["content"]
    eos = tiny_captioner.tokenizer.eos_id
    said = [(token, p) for token, p in zip(want.tokens, want.logprobs, strict=True) if token != eos]
    assert [each["token"] for each in content] == [
        tiny_captioner.tokenizer.token(token) for token, _ in said
    ]
    assert [each["logprob"] for each in content] == pytest.approx([p for _, p in said], abs=1e-4)
    assert choice["finish_reason"] == ("stop" if eos in want.tokens else "length")
    # What comes before a text to end at is whole, whatever the limit is.
    last = want.text.split()[-1]
    [choice] = ask(client, temperature=0, max_tokens=3, stop=[last]).json()["choices"]
    assert last not in choice["message"]["content"] and choice["finish_reason"] == "stop"


def test_upper_limits_above_what_is_possible_are_no_error(client: TestClient) -> None:
    answer = ask(client, temperature=0, max_completion_tokens=100_000)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] <= MOST_TOKENS


@pytest.mark.parametrize(
    ("body", "status", "param", "word"),
    [
        ({"messages": []}, 400, "messages", "at least 1"),
        ({"messages": [{"role": "user", "content": "hello"}]}, 400, None, "has no picture"),
        ({"messages": [user("", 1, 2)]}, 400, None, "one picture"),
        ({"messages": [user("", 1), {"role": "tool"}]}, 400, "messages", "role"),
        ({"tools": [{"type": "function"}]}, 400, "tools", "leave it out"),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format", "send it"),
        ({"response_format": {"type": "json_object"}}, 400, None, "tokenizer"),
        ({"top_logprobs": 3, "logprobs": True}, 400, "top_logprobs", "leave it out"),
        ({"n": 17}, 400, "n", "16"),
        ({"temprature": 1}, 400, "temprature", "did you mean"),
        ({"stop": ["a"] * 5}, 400, "stop", "at most 4"),
        ({"stop": ["\U0001f600" * 9] * 2}, 400, "stop", "72 bytes"),
        ({"messages": [user("a" * 5000, 0)] * 1 + [{"role": "system", "content": "b" * 4000}]},
         400, "messages", "9,000 characters"),
        ({"temperature": -1}, 400, "temperature", "greater"),
    ],
)  # fmt: skip
def test_refusals_have_the_form_of_the_standard(
    client: TestClient, body: dict[str, Any], status: int, param: str | None, word: str
) -> None:
    answer = client.post(CHAT, json={"model": "any", "messages": [user("", 0)], **body})
    error = answer.json()["error"]
    assert answer.status_code == status, answer.text
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error" and error["param"] == param
    assert word in error["message"]


def test_refusals_of_pictures_keys_and_sizes(tiny_captioner: Captioner) -> None:
    with client_of(tiny_captioner, api_key="k", max_pixels=1000, max_bytes=50_000) as client:
        refused = ask(client)
        assert refused.status_code == 401
        assert refused.json()["error"]["type"] == "authentication_error"
        assert client.get("/v1/models").status_code == 401
        client.headers["authorization"] = "Bearer k"
        assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
        assert client.get("/v1/models/tiny").json()["object"] == "model"
        assert client.get("/v1/models/other").json()["error"]["code"] == "model_not_found"
        assert ask(client).json()["error"]["code"] == "too_many_pixels"
        large = client.post(
            CHAT, content=b" " * 60_000, headers={"content-type": "application/json"}
        )
        assert large.status_code == 413 and "param" in large.json()["error"]
        for url, code in (("http://localhost/a.png", "urls_not_allowed"), ("data:,", "unreadable")):
            body = {"messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": url}}]}]}  # fmt: skip
            assert code in client.post(CHAT, json=body).json()["error"]["code"]


def test_a_refusal_comes_before_a_stream(client: TestClient) -> None:
    answer = ask(client, stream=True, response_format={
        "type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "boolean"}}
    })  # fmt: skip
    assert answer.status_code == 400
    assert "tokenizer" in answer.json()["error"]["message"]


def test_nobody_is_told_when_the_client_hangs_up(client: TestClient) -> None:
    service = client.app.state.service  # type: ignore[attr-defined]
    steps = []
    whole = service.worker.model._told

    def told(*given: Any) -> str:
        steps.append(given)
        return whole(*given)

    service.worker.model._told = told
    try:
        asyncio.run(asking(client.app, CHAT, {"messages": [user("", 1)], "stream": True,
                                              "max_tokens": 8, "temperature": 0}))  # fmt: skip
        until(lambda: service.working == 0 and service.batcher.depth == 0)
    finally:
        del service.worker.model._told
    assert len(steps) < 8


@pytest.fixture(scope="module")
def asked(smolvlm: VisionLanguageCaptioner) -> Iterator[TestClient]:
    with client_of(smolvlm, max_batch=2) as client:
        yield client


@pytest.mark.slow
def test_system_and_user_become_the_prompt(
    asked: TestClient, smolvlm: VisionLanguageCaptioner
) -> None:
    said = {"prompt": "look\n\nred", "system": "square\n\nblue"}
    [want] = smolvlm.caption([png(1)], num_beams=1, max_new_tokens=6, **said)
    messages = [
        {"role": "system", "content": "square"},
        {"role": "user", "content": "look"},
        {"role": "developer", "content": [{"type": "text", "text": "blue"}]},
        user("red", 1),
    ]
    body = {"messages": messages, "temperature": 0, "max_tokens": 6, "logprobs": True}
    answer = asked.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    assert "x-captax-note" not in answer.headers
    found = answer.json()
    assert found["choices"][0]["message"]["content"] == want.text
    eos = smolvlm.tokenizer.eos_id
    want_logprobs = [p for t, p in zip(want.tokens, want.logprobs, strict=True) if t != eos]
    logprobs = [each["logprob"] for each in found["choices"][0]["logprobs"]["content"]]
    assert logprobs == pytest.approx(want_logprobs, abs=1e-3)
    shown = smolvlm.processor.prepare(smolvlm.processor.decode(png(1)))
    assert found["usage"]["prompt_tokens"] == smolvlm.prompt_length(shown, **said)
    special = ask(asked, "look <image>").json()["error"]
    assert "meaning of its own" in special["message"]
