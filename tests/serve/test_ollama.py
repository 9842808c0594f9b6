"""Ollama's interface, and what programs send to it."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from captax.pipelines.captioner import Captioner
from serve.conftest import client_of, encoded, png

GREEDY = {"temperature": 0, "num_predict": 8}
PICTURE = encoded(png(1))


def lines(answer: Any) -> list[Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("path", ["generate", "chat"])
def test_streams_are_the_default_and_say_the_whole_answer(
    client: TestClient, tiny_captioner: Captioner, path: str
) -> None:
    [want] = tiny_captioner.caption([png(1)], num_beams=1, max_new_tokens=8)
    asked: dict[str, Any] = {"images": [PICTURE]}
    if path == "chat":
        asked = {"messages": [{"role": "user", "content": "", **asked}]}
    body = {"model": "any", "options": GREEDY, **asked}

    def said(record: dict[str, Any]) -> str:
        return record["response"] if path == "generate" else record["message"]["content"]

    *parts, last = lines(client.post(f"/api/{path}", json=body))
    assert "".join(map(said, parts)) == want.text and len(parts) > 2
    assert not any(part["done"] for part in parts)
    assert said(last) == "" and last["done"] and last["done_reason"] in ("stop", "length")
    whole = client.post(f"/api/{path}", json={**body, "stream": False}).json()
    assert said(whole) == want.text
    assert whole["eval_count"] == last["eval_count"] == len(want.tokens)
    assert whole["prompt_eval_count"] == 1 and whole["model"] == "tiny"


def test_what_curl_sends_is_read(client: TestClient) -> None:
    body = json.dumps({"images": [PICTURE], "stream": False, "options": GREEDY})
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post("/api/generate", content=body, headers=kind).status_code == 200


def test_what_has_no_effect_is_told(client: TestClient) -> None:
    options = {**GREEDY, "num_ctx": 4096, "mirostat": 1}
    body = {"images": [PICTURE], "prompt": "look", "stream": False, "options": options}
    note = client.post("/api/generate", json={**body, "keep_alive": "5m"}).headers["x-captax-note"]
    assert "no prompt was read" in note and note.endswith("no effect: mirostat, num_ctx")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"prompt": "hello"}, "no picture"),
        ({"images": [PICTURE] * 2}, "one picture"),
        ({"images": [PICTURE], "format": "json"}, "tokenizer"),
        ({"images": [PICTURE], "options": {"temperature": -1}}, "temperature"),
        ({"images": ["%"]}, "base64"),
    ],
)
def test_errors_are_texts(client: TestClient, body: dict[str, Any], word: str) -> None:
    answer = client.post("/api/generate", json=body)
    assert answer.status_code == 400
    assert word in answer.json()["error"]


def test_models_are_told_and_loaded(client: TestClient) -> None:
    [model] = client.get("/api/tags").json()["models"]
    assert model["name"] == "tiny" and model["size"] > 1000
    shown = client.post("/api/show", json={"model": "tiny"}).json()
    assert "vision" in shown["capabilities"]
    assert client.post("/api/show", json={"name": "other"}).status_code == 404
    assert client.get("/api/version").json()["version"]
    loaded = client.post("/api/generate", json={"model": "tiny"}).json()
    assert loaded["done_reason"] == "load" and loaded["done"]


def test_photoprism(client: TestClient, tiny_captioner: Captioner) -> None:
    """The request for a caption, and that for labels, of its engine `ollama`.

    https://github.com/photoprism/photoprism/blob/develop/internal/ai/vision/api_request.go
    """
    [want] = tiny_captioner.caption([png(1)])
    body = {
        "id": "b1a7bd41-5b0d-4ed0-b6ea-4ae4b6ab3ea0",
        "model": "gemma3:latest",
        "prompt": "Create a caption with exactly one sentence in the active voice that describes "
        "the main visual content.",
        "suffix": "",
        "options": {"repeat_penalty": 1.0, "num_ctx": 2048},
        "stream": False,
        "images": [PICTURE],
    }
    found = client.post("/api/generate", json=body).json()
    assert found["response"] == want.text and found["done"]


@pytest.mark.slow
def test_photoprism_gets_labels(spelling: Captioner) -> None:
    """It asks for JSON without a schema, and ends at an empty line."""
    labels = {
        "model": "gemma3:latest",
        "prompt": "Return a single JSON object that matches the format",
        "format": "json",
        "options": {"temperature": 0.1, "top_p": 0.9, "num_predict": 70},
        "stream": False,
        "images": [PICTURE],
    }
    with client_of(spelling) as client:
        answer = client.post("/api/generate", json=labels)
    assert answer.status_code == 200, answer.text
    assert isinstance(json.loads(answer.json()["response"]), dict)
