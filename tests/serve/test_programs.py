"""The clients that programs are made with, against a server that listens.

What works with which program is told in docs/serving.md.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import captax
from captax.pipelines.captioner import Captioner
from serve.conftest import address, encoded, listening, png

pytestmark = [
    pytest.mark.slow,
    # What the clients' own libraries warn of.
    pytest.mark.filterwarnings("default"),
]
PICTURE = png(1)
URL = f"data:image/png;base64,{encoded(PICTURE)}"
MESSAGES: list[Any] = [
    {"role": "system", "content": "square"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "look red"},
            {"type": "image_url", "image_url": {"url": URL, "detail": "low"}},
        ],
    },
]
SAID = {"prompt": "look red", "system": "square"}


@pytest.fixture(scope="module", params=["smolvlm", "built-in"])
def model(request: pytest.FixtureRequest) -> Captioner:
    if request.param == "smolvlm":
        return request.getfixturevalue("smolvlm")
    return captax.load()


@pytest.fixture(scope="module")
def server(model: Captioner) -> Iterator[str]:
    with listening(model, api_key="k", max_batch=1) as server:
        yield "http://{}:{}".format(*address(server))


@pytest.fixture(scope="module")
def want(model: Captioner) -> str:
    asked = SAID if hasattr(model, "prompt_format") else {}
    options = {"num_beams": 1, "max_new_tokens": 8}
    return model.caption([PICTURE], batch_size=1, **options, **asked)[0].text


def test_openai(server: str, model: Captioner, want: str) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="k", max_retries=0)
    [listed] = client.models.list().data
    body = {"model": listed.id, "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
    raw = client.chat.completions.with_raw_response.create(**body)
    assert ("x-captax-note" in raw.headers) is not hasattr(model, "prompt_format")
    whole = raw.parse()
    assert whole.choices[0].message.content == want
    stream = client.chat.completions.create(
        **body, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    parts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(part or "" for part in parts) == want
    assert len([part for part in parts if part]) > 1
    assert chunks[-1].usage == whole.usage
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**body, tools=[{"type": "function", "function": {}}])
    assert refused.value.param == "tools" and refused.value.code == "unsupported_value"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server}/v1", api_key="x", max_retries=0).models.list()
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_openai_responses(server: str, want: str) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="k", max_retries=0)
    content = [
        {"type": "input_text", "text": "look red"},
        {"type": "input_image", "image_url": URL, "detail": "low"},
    ]
    body: dict[str, Any] = {
        "model": "any",
        "instructions": "square",
        "input": [{"role": "user", "content": content}],
        "max_output_tokens": 8,
        "temperature": 0,
    }
    whole = client.responses.create(**body)
    assert whole.output_text == want and whole.usage.output_tokens <= 8
    events = list(client.responses.create(**body, stream=True))
    assert [each.sequence_number for each in events] == [*range(len(events))]
    parts = [each.delta for each in events if each.type == "response.output_text.delta"]
    assert "".join(parts) == want and len(parts) > 1
    last = events[-1]
    assert last.type == f"response.{whole.status}" and last.response.output_text == want
    assert last.response.usage == whole.usage
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**body, previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"


def test_ollama(server: str, want: str, tmp_path: Path) -> None:
    ollama = pytest.importorskip("ollama")
    client = ollama.Client(server, headers={"Authorization": "Bearer k"})
    [listed] = client.list().models
    assert client.show(listed.model).capabilities == ["completion", "vision"]
    options = {"temperature": 0, "num_predict": 8}
    asked = {"prompt": "look red", "system": "square", "images": [PICTURE], "options": options}
    assert client.generate(listed.model, **asked).response == want
    parts = list(client.generate(listed.model, **asked, stream=True))
    assert "".join(part.response for part in parts) == want and parts[-1].done
    path = tmp_path / "a.png"
    path.write_bytes(PICTURE)
    messages = [
        {"role": "system", "content": "square"},
        {"role": "user", "content": "look red", "images": [str(path)]},
    ]
    assert client.chat(listed.model, messages, options=options).message.content == want
    streamed = list(client.chat(listed.model, messages, options=options, stream=True))
    assert "".join(part.message.content for part in streamed) == want
    with pytest.raises(ollama.ResponseError, match="no picture") as refused:
        client.generate(listed.model, prompt="look")
    assert refused.value.status_code == 400


@pytest.mark.parity
def test_litellm(server: str, want: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would ask GitHub
    litellm = pytest.importorskip("litellm")
    options = {"messages": MESSAGES, "max_tokens": 8, "temperature": 0, "api_key": "k"}
    asked = {"model": "openai/any", "api_base": f"{server}/v1", **options}
    assert litellm.completion(**asked).choices[0].message.content == want
    parts = [chunk.choices[0].delta.content for chunk in litellm.completion(**asked, stream=True)]
    assert "".join(part or "" for part in parts) == want
    native = {"model": "ollama_chat/any", "api_base": server, **options}
    assert litellm.completion(**native).choices[0].message.content == want


def test_taggui(server: str, model: Captioner) -> None:
    """The file that gives taggui a model behind OpenAI's interface.

    Its own model `remote` asks KoboldCpp's, which is another.
    https://github.com/jhc13/taggui/issues/360
    """
    requests = pytest.importorskip("requests")
    body = {
        "model": "local-model",
        "messages": [MESSAGES[0], MESSAGES[1]],
        "max_tokens": 100,
        "temperature": 1.0,
        "top_p": 1.0,
        "stream": False,
    }
    key = {"Authorization": "Bearer k"}
    answer = requests.post(f"{server}/v1/chat/completions", json=body, headers=key, timeout=300)
    assert answer.status_code == 200, answer.text
    assert isinstance(answer.json()["choices"][0]["message"]["content"], str)
    other = requests.post(f"{server}/api/v1/generate", json={}, headers=key, timeout=300)
    assert other.status_code == 404
