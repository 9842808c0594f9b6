"""Whatever is sent, by the document's own word or against it: never an answer of 500."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import strategies as st
from starlette.testclient import TestClient

from captax.pipelines.captioner import Captioner
from captax.serve import schemas
from serve.conftest import client_of, encoded, png

# Hypothesis warns where Python's own generator moves while it draws: schemathesis draws by it, and
# so may the server's threads.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning"),
]

KEY = "s3cret"
BOUNDED = hypothesis.settings(
    max_examples=100,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.fixture(scope="module")
def guarded(tiny_captioner: Captioner) -> Iterator[TestClient]:
    with client_of(tiny_captioner, api_key=KEY) as client:
        yield client


@pytest.fixture(scope="module")
def operations(guarded: TestClient) -> list[Any]:
    document = schemathesis.openapi.from_dict(guarded.get("/openapi.json").json())
    return [each.ok() for each in document.get_all_operations()]


@hypothesis.given(data=st.data())
@BOUNDED
def test_by_the_document(guarded: TestClient, operations: list[Any], data: st.DataObject) -> None:
    operation = data.draw(st.sampled_from(operations), label="operation")
    case = data.draw(operation.as_strategy(), label="case")
    sent = requests.Request(**case.as_transport_kwargs(base_url="http://testserver")).prepare()
    headers = {**sent.headers, "Authorization": f"Bearer {KEY}"}
    answer = guarded.request(sent.method, sent.url, content=sent.body, headers=headers)
    assert answer.status_code < 500, answer.text
    told = operation.definition.raw["responses"]
    assert str(answer.status_code) in told
    if answer.status_code >= 400:
        path, error = operation.path, answer.json()["error"]
        if path.startswith("/api/"):
            assert isinstance(error, str)
        elif path.startswith(("/v1/chat", "/v1/models", "/v1/responses")):
            assert set(error) == {"message", "type", "param", "code"}
        else:
            assert set(error) == {"type", "message", "request_id"}


OPTIONS = {
    name: st.none()
    | st.booleans()
    | st.integers(-2, 20)
    | st.floats(width=32)
    | st.text(max_size=5)
    for name in schemas.Options.model_fields
}


@hypothesis.given(options=st.fixed_dictionaries({}, optional=OPTIONS))
@BOUNDED
def test_any_options_with_a_good_picture(guarded: TestClient, options: dict[str, Any]) -> None:
    form = {"data": {name: str(value) for name, value in options.items()}}
    files = [("images", ("a.png", png(0)))]
    key = {"Authorization": f"Bearer {KEY}"}
    for path in ("caption", "explain"):
        answer = guarded.post(f"/v1/{path}", files=files, headers=key, **form)
        assert answer.status_code in (200, 422), answer.text


@hypothesis.given(st.fixed_dictionaries({}, optional={
    "num_beams": st.integers(1, 5), "num_beam_groups": st.integers(1, 5),
    "diversity_penalty": st.floats(0, 3), "num_return_sequences": st.integers(1, 5),
    "max_new_tokens": st.integers(1, 12), "min_new_tokens": st.integers(0, 12),
    "do_sample": st.booleans(), "temperature": st.floats(0.01, 100), "top_p": st.floats(0.01, 1),
    "top_k": st.integers(0, 2**31 - 1), "min_p": st.floats(0, 1), "best_of": st.integers(1, 5),
    "forced_bos_token_id": st.integers(0, 2**31 - 1), "length_penalty": st.floats(-10, 10),
    "forced_eos_token_id": st.integers(0, 2**31 - 1), "repetition_penalty": st.floats(0.01, 100),
    "no_repeat_ngram_size": st.integers(0, 256), "early_stopping": st.sampled_from([True, "never"]),
    "suppress_tokens": st.lists(st.integers(0, 30), max_size=3),
    "bad_words": st.lists(st.sampled_from(["red", "a", "zebra", "two blue"]), max_size=2),
    "force_words": st.lists(st.sampled_from(["red", "a", "two blue"]), max_size=2),
}))  # fmt: skip
@hypothesis.settings(BOUNDED, max_examples=25)  # most are programs of their own to compile
def test_options_each_of_which_could_be_meant(guarded: TestClient, options: dict[str, Any]) -> None:
    body = {"images": [encoded(png(0))], **options}
    answer = guarded.post("/v1/caption", json=body, headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code in (200, 422), answer.text
