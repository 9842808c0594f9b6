"""What the API answers, and how it refuses."""

import io
import json
import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import captax
from captax.generation import Calibration
from captax.pipelines.captioner import Captioner
from serve.conftest import client_of, encoded, files, png, until


def problem(response: Any, status: int, kind: str) -> str:
    """The message of a refusal, whose shape is the same everywhere."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"type", "message", "request_id"}
    assert error["type"] == kind
    assert error["request_id"] == response.headers["x-request-id"]
    assert "\n" not in error["message"]
    return error["message"]


def test_captions_are_the_captioners_own(client: TestClient, tiny_captioner: Captioner) -> None:
    pictures = [png(0), png(1, (90, 40)), png(2)]
    expected = tiny_captioner.caption(pictures, num_return_sequences=2, batch_size=4)

    form = client.post("/v1/caption", files=files(*pictures), data={"num_return_sequences": 2})
    assert form.status_code == 200
    body = {"images": [encoded(each) for each in pictures], "num_return_sequences": 2}
    as_json = client.post("/v1/caption", json=body)
    body["images"][0] = "data:image/png;base64," + body["images"][0]
    as_data = client.post("/v1/caption", json=body)

    for answer in (form, as_json, as_data):
        assert answer.json()["model"] == "tiny"
        found = answer.json()["captions"]
        assert [each["caption"] for each in found] == [each.text for each in expected]
        for each, right in zip(found, expected, strict=True):
            assert each["score"] == pytest.approx(right.score, abs=1e-4)
            texts = [other["caption"] for other in each["alternatives"]]
            assert texts == [other.text for other in right.alternatives]
    assert [each["name"] for each in form.json()["captions"]] == ["0.png", "1.png", "2.png"]
    assert [each["name"] for each in as_json.json()["captions"]] == [None] * 3


def test_a_calibrated_captioner_answers_with_its_confidence(
    client: TestClient, tiny_captioner: Captioner
) -> None:
    assert client.get("/v1/model").json()["threshold"] is None
    answer = client.post("/v1/caption", files=files(png(0)))
    assert answer.json()["captions"][0]["confidence"] is None
    calibration = Calibration({"mean_logprob": 2.0, "evidence": 0.3}, 1.0, 0.7)
    tiny = tiny_captioner
    made = Captioner(tiny.model, tiny.processor, tiny.tokenizer, tiny.generation, calibration)
    [expected] = made.caption([png(0)], batch_size=4)
    with client_of(made) as calibrated:
        assert calibrated.get("/v1/model").json()["threshold"] == 0.7
        answer = calibrated.post("/v1/caption", files=files(png(0)))
        [found] = answer.json()["captions"]
        assert found["confidence"] == pytest.approx(expected.confidence, abs=1e-4)
        assert (found["caption"], found["score"]) == (
            expected.text,
            pytest.approx(expected.score, abs=1e-4),
        )


def test_options_and_prompt_reach_the_captioner(
    client: TestClient, tiny_captioner: Captioner
) -> None:
    options = {"num_beams": 1, "min_new_tokens": 4, "bad_words": ["red", "blue"], "prompt": "two"}
    (expected,) = tiny_captioner.caption([png(3)], **options)  # type: ignore[arg-type]
    form = client.post("/v1/caption", files=files(png(3)), data=options)
    as_json = client.post("/v1/caption", json={"images": [encoded(png(3))], **options})
    for answer in (form, as_json):
        assert answer.json()["captions"][0]["caption"] == expected.text
    assert expected.text != tiny_captioner.caption([png(3)])[0].text


@pytest.mark.slow
def test_what_is_drawn_depends_on_picture_and_seed_alone(
    client: TestClient, tiny_captioner: Captioner
) -> None:
    options = {"do_sample": True, "temperature": 2.0, "seed": 7}
    expected = [tiny_captioner.caption([png(i)], **options)[0].text for i in range(4)]  # type: ignore[arg-type]
    together = client.post("/v1/caption", files=files(*map(png, range(4))), data=options)
    turned = client.post("/v1/caption", files=files(*map(png, (3, 2, 1, 0))), data=options)
    texts = [each["caption"] for each in together.json()["captions"]]
    assert texts == expected
    assert [each["caption"] for each in turned.json()["captions"]] == expected[::-1]
    other = client.post(
        "/v1/caption", files=files(*map(png, range(4))), data={**options, "seed": 8}
    )
    assert [each["caption"] for each in other.json()["captions"]] != expected


def test_one_broken_picture_costs_one_record(client: TestClient) -> None:
    answer = client.post("/v1/caption", files=files(png(0), b"no picture", png(1)[:200]))
    assert answer.status_code == 200
    first, second, third = answer.json()["captions"]
    assert first["name"] == "0.png" and "caption" in first
    assert second["name"] == "1.png"
    for each in (second, third):
        assert set(each) == {"name", "error"}
        assert each["error"]["type"] == "unreadable_image"
        assert each["error"]["request_id"] == answer.headers["x-request-id"]
    assert "not a picture" in second["error"]["message"]


def test_a_request_without_a_readable_picture_is_refused(client: TestClient) -> None:
    message = problem(client.post("/v1/caption", files=files(b"no")), 422, "unreadable_image")
    assert "not a picture" in message
    message = problem(
        client.post("/v1/caption", files=files(b"no", b"nor this")), 422, "unreadable_image"
    )
    assert message.startswith("none of the 2 pictures can be read; the first error: ")
    problem(client.post("/v1/caption", json={"images": ["?"]}), 422, "unreadable_image")
    problem(
        client.post("/v1/caption", json={"images": ["data:text/plain,hello"]}),
        422,
        "unreadable_image",
    )


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"images": []}, "images"),
        ({}, "images"),
        ({"images": "x"}, "images"),
        ({"images": ["x"], "num_beams": 0}, "num_beams"),
        ({"images": ["x"], "num_beams": 10**6}, "num_beams"),
        ({"images": ["x"], "beams": 3}, "beams"),
        ({"images": ["x"], "temperature": "hot"}, "temperature"),
        ({"images": ["x"], "seed": -1}, "seed"),
        ({"images": ["x"], "bad_words": [""]}, "bad_words.0"),
        ([], "body"),
    ],
)
def test_requests_without_meaning_are_refused_by_name(
    client: TestClient, body: Any, where: str
) -> None:
    message = problem(client.post("/v1/caption", json=body), 422, "invalid_request")
    assert message.startswith(f"{where}: ") and "Value error" not in message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"do_sample": True, "num_beams": 3}, "num_beams"),
        ({"best_of": 2}, "do_sample"),
        ({"num_beams": 2, "num_beam_groups": 3}, "num_beam_groups"),
        ({"force_words": ["zebra"]}, "zebra"),
        ({"prompt": "zebra"}, "zebra"),
        ({"system": "Be brief."}, "`system` is for models that are asked"),
        ({"raw": True}, "`raw` is for models that are asked"),
        ({"max_length": 1}, "max_length"),
        ({"max_new_tokens": 200}, "200"),
        ({"suppress_tokens": [99_999]}, "99999"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    client: TestClient, options: dict[str, Any], said: str
) -> None:
    body = {"images": [encoded(png(0))], **options}
    assert said in problem(client.post("/v1/caption", json=body), 422, "invalid_request")


def test_bodies_that_cannot_be_read_are_refused(client: TestClient) -> None:
    send = client.post
    problem(send("/v1/caption", content=b"{"), 415, "unsupported_media_type")
    as_json = {"content-type": "application/json"}
    problem(send("/v1/caption", content=b"{", headers=as_json), 422, "invalid_request")
    problem(send("/v1/caption", content=b"\xff\xfe", headers=as_json), 422, "invalid_request")
    form = {"content-type": "multipart/form-data"}
    problem(send("/v1/caption", content=b"x", headers=form), 422, "invalid_request")
    form = {"content-type": "multipart/form-data; boundary=b"}
    problem(send("/v1/caption", content=b"nonsense", headers=form), 422, "invalid_request")
    other = [("picture", ("a.png", png(0)))]
    assert "'images'" in problem(send("/v1/caption", files=other), 422, "invalid_request")
    twice = {"num_beams": ["1", "2"]}
    said = problem(send("/v1/caption", files=files(png(0)), data=twice), 422, "invalid_request")
    assert "more than once" in said


def test_limits(client: TestClient) -> None:
    said = problem(client.post("/v1/caption", files=files(*[png(0)] * 7)), 413, "too_many_images")
    assert said == "the request has 7 pictures; send at most 6"
    said = problem(client.post("/v1/caption", files=files(bytes(300_000))), 413, "too_large")
    assert said == "the body is too large; send at most 200,000 bytes"

    def drops() -> Any:  # no length is declared
        for _ in range(300):
            yield bytes(1000)

    form = {"content-type": "multipart/form-data; boundary=b"}
    problem(client.post("/v1/caption", content=drops(), headers=form), 413, "too_large")
    as_json = {"content-type": "application/json"}
    problem(client.post("/v1/caption", content=drops(), headers=as_json), 413, "too_large")
    # And all is well afterwards.
    assert client.post("/v1/caption", files=files(png(0))).status_code == 200


def bomb() -> bytes:
    """A PNG of a few kilobytes that says it has 40,000 x 40,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data)


def test_pictures_of_too_many_pixels_are_refused(tiny_captioner: Captioner) -> None:
    with client_of(tiny_captioner, max_pixels=64 * 64) as client:
        assert client.post("/v1/caption", files=files(png(0))).status_code == 200
        said = problem(
            client.post("/v1/caption", files=files(png(0, (65, 64)))), 422, "too_many_pixels"
        )
        assert "65x64" in said
        problem(client.post("/v1/caption", files=files(bomb())), 422, "too_many_pixels")


def test_urls_are_not_fetched_unless_allowed(client: TestClient) -> None:
    body = {"images": ["http://127.0.0.1:1/cat.png"]}
    problem(client.post("/v1/caption", json=body), 422, "urls_not_allowed")


def test_urls_of_this_machine_are_not_fetched_even_if_allowed(tiny_captioner: Captioner) -> None:
    with client_of(tiny_captioner, allow_urls=True) as client:
        body = {"images": ["http://localhost:1/cat.png", encoded(png(0))]}
        answer = client.post("/v1/caption", json=body)
        assert answer.status_code == 200
        error = answer.json()["captions"][0]["error"]
        assert error["type"] == "url_not_fetched"
        assert "not on the public internet" in error["message"]


def test_words_that_the_model_does_not_know_are_named(client: TestClient) -> None:
    captions = ["a zebras red zoo zebras", "a red square"]
    answer = client.post("/v1/score", files=files(png(0)), data={"captions": captions})
    unknown = [each["unknown_words"] for each in answer.json()["scores"]]
    assert unknown == [["zebras", "zoo"], []]
    answer = client.post("/v1/explain", files=files(png(0)), data={"caption": captions[0]})
    assert answer.json()["unknown_words"] == ["zebras", "zoo"]
    assert client.post("/v1/explain", files=files(png(0))).json()["unknown_words"] == []


def test_scores(client: TestClient, tiny_captioner: Captioner) -> None:
    captions = ["a red square", "three green stripes on a black wall"]
    right = tiny_captioner.score([png(0), png(0)], captions, batch_size=4)
    answer = client.post("/v1/score", files=files(png(0)), data={"captions": captions})
    found = answer.json()["scores"]
    assert [each["score"] for each in found] == pytest.approx(right, abs=1e-4)
    assert [each["caption"] for each in found] == captions

    right = tiny_captioner.score([png(0), png(1)], captions, batch_size=4)
    answer = client.post("/v1/score", files=files(png(0), png(1)), data={"captions": captions})
    assert [each["score"] for each in answer.json()["scores"]] == pytest.approx(right, abs=1e-4)

    answer = client.post("/v1/score", files=files(b"no", png(1)), data={"captions": captions})
    first, second = answer.json()["scores"]
    assert first["error"]["type"] == "unreadable_image"
    assert second["score"] == pytest.approx(right[1], abs=1e-4)

    said = problem(
        client.post("/v1/score", files=files(png(0), png(1)), data={"captions": ["a"] * 3}),
        422,
        "invalid_request",
    )
    assert "there are 3 captions for 2 pictures; send one caption for each picture" in said
    problem(
        client.post("/v1/score", files=files(png(0)), data={"captions": ["a"] * 7}),
        413,
        "too_many_captions",
    )


def test_a_caption_too_long_to_score_fails_alone(client: TestClient) -> None:
    data = {"captions": ["a red square", "a " * 100]}
    said = problem(client.post("/v1/score", files=files(png(0)), data=data), 422, "invalid_request")
    assert "tokens" in said


def test_explanations_lie_on_the_picture(client: TestClient) -> None:
    answer = client.post("/v1/explain", files=files(png(0)))
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert " ".join(word["text"] for word in found["words"]) == found["caption"]
    rows, columns = found["grid"]
    for word in found["words"]:
        weights = np.array(word["map"])
        assert weights.shape == (rows, columns)
        assert weights.sum() == pytest.approx(1, abs=1e-3)
        assert word["logprob"] <= 0
    for step in found["steps"]:
        assert 0 < sum(token["probability"] for token in step) <= 1.0001
    assert found["seen"] == [0, 0, 1, 1]

    given = client.post("/v1/explain", files=files(png(0)), data={"caption": "two blue squares"})
    assert [word["text"] for word in given.json()["words"]] == ["two", "blue", "squares"]
    assert given.json()["caption"] == "two blue squares"


def test_explain_refuses_what_it_cannot(client: TestClient) -> None:
    send = client.post
    problem(send("/v1/explain", files=files(png(0), png(1))), 422, "invalid_request")
    said = problem(
        send("/v1/explain", files=files(png(0)), data={"method": "tea leaves"}),
        422,
        "invalid_request",
    )
    assert said.startswith("method: is not a method; give one of attention, ")
    for data in ({"layer": 99}, {"head": 99, "layer": 0}):
        problem(send("/v1/explain", files=files(png(0)), data=data), 422, "invalid_request")


def test_a_classifier_classifies_only(checkpoint: Any) -> None:
    classifier = captax.load(checkpoint("vit-classifier"))
    with client_of(classifier) as client:
        right = classifier.classify([png(0), png(1)], top=2)
        answer = client.post("/v1/classify", files=files(png(0), b"no", png(1)), data={"top": 2})
        found = answer.json()["labels"]
        assert found[1]["error"]["type"] == "unreadable_image"
        for each, expected in zip(found[::2], right, strict=True):
            assert each["label"] == expected.label
            assert each["probability"] == pytest.approx(expected.probability, abs=1e-5)
            labels = [other["label"] for other in each["alternatives"]]
            assert labels == [other.label for other in expected.alternatives]
        said = problem(client.post("/v1/caption", files=files(png(0))), 404, "wrong_model")
        assert "/v1/classify" in said
        assert client.get("/v1/model").json()["kind"] == "classifier"


def test_a_captioner_does_not_classify(client: TestClient) -> None:
    said = problem(client.post("/v1/classify", files=files(png(0))), 404, "wrong_model")
    assert "/v1/caption" in said


def test_the_key_is_asked_for_where_it_matters(tiny_captioner: Captioner) -> None:
    with client_of(tiny_captioner, api_key="s3cret") as client:
        for path in ("/v1/model", "/metrics"):
            problem(client.get(path), 401, "unauthorized")
        for given in ("s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Basic s3cret"):
            answer = client.post(
                "/v1/caption", files=files(png(0)), headers={"authorization": given}
            )
            problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        key = {"authorization": "Bearer s3cret"}
        assert client.post("/v1/caption", files=files(png(0)), headers=key).status_code == 200
        assert client.get("/metrics", headers=key).status_code == 200
        for path in ("/", "/page/page.js", "/health", "/openapi.json"):
            assert client.get(path).status_code == 200
        assert "s3cret" not in client.get("/openapi.json").text


def test_request_ids(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "captax.serve"):
        kept = client.get("/health", headers={"x-request-id": "a-1.B_2"})
        for bad in ("a b", "x" * 129, "a\tb", ""):
            made = client.get("/health", headers={"x-request-id": bad})
            assert len(made.headers["x-request-id"]) == 32
        problem(client.post("/v1/caption", content=b"", headers={"x-request-id": "broken"}), 415,
                "unsupported_media_type")  # fmt: skip
    assert kept.headers["x-request-id"] == "a-1.B_2"
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("a-1.B_2 GET /health 200") for line in lines)
    assert any(line.startswith("broken POST /v1/caption 415") for line in lines)


def test_addresses_that_there_are_not(client: TestClient) -> None:
    problem(client.get("/v1/nothing"), 404, "not_found")
    problem(client.get("/page/../settings.py"), 404, "not_found")
    problem(client.get("/page/%2e%2e/settings.py"), 404, "not_found")
    answer = client.get("/v1/caption")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_what_goes_wrong_inside_is_told_without_its_secrets(
    tiny_captioner: Captioner, caplog: pytest.LogCaptureFixture
) -> None:
    with client_of(tiny_captioner) as client:
        service = client.app.state.service  # type: ignore[attr-defined]

        def broken(work: Any, inputs: Any) -> Any:
            raise RuntimeError("the password is 1234")

        service.batcher._compute = broken
        answer = client.post("/v1/caption", files=files(png(0)))
        assert "1234" not in problem(answer, 500, "internal")
        assert "1234" in caplog.text
        assert service.batcher.depth == 0


def test_metrics(tiny_captioner: Captioner) -> None:
    with client_of(tiny_captioner) as client:
        client.post("/v1/caption", files=files(png(0), png(1)))
        client.post("/v1/caption", content=b"")
        # The model's thread counts a batch after it has given it back.
        until(lambda: "captax_batch_pictures_sum 2.0" in client.get("/metrics").text)
        lines = client.get("/metrics").text.splitlines()
        assert 'captax_requests_total{method="POST",route="/v1/caption",status="200"} 1.0' in lines
        assert 'captax_rejected_total{type="unsupported_media_type"} 1.0' in lines
        assert "captax_queue_pictures 0.0" in lines
        assert 'captax_request_seconds_count{route="/v1/caption"} 2.0' in lines


def test_nothing_is_taken_before_the_model_is_warm(
    tiny_captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    from captax.serve.app import create_app
    from captax.serve.work import Worker
    from serve.conftest import SETTINGS

    cold = threading.Event()
    monkeypatch.setattr(Worker, "warm_up", lambda self: cold.wait(30) and {1: 1.0, 4: 1.0})
    with TestClient(create_app(tiny_captioner, SETTINGS)) as client:
        assert client.get("/health/live").status_code == 200
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "warming up")
        answer = client.post("/v1/caption", files=files(png(0)))
        problem(answer, 503, "warming_up")
        assert int(answer.headers["retry-after"]) > 0
        cold.set()
        until(lambda: client.get("/health/ready").status_code == 200)
        assert client.post("/v1/caption", files=files(png(0))).status_code == 200


def test_the_document_says_what_is_taken_and_its_examples_work(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path in ("/v1/caption", "/v1/explain", "/v1/score"):
        operation = document["paths"][path]["post"]
        content = operation["requestBody"]["content"]
        assert set(content) == {"application/json", "multipart/form-data"}
        example = content["application/json"]["example"]
        example.pop("caption", None)
        example["captions"] = ["a red square"] if "captions" in example else None
        answer = client.post(path, json={k: v for k, v in example.items() if v is not None})
        assert answer.status_code == 200, answer.text
        assert {"403", "408", "413", "415", "421", "422", "429"} <= set(operation["responses"])
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "')[1:]}:
        name = reference.removeprefix("#/components/schemas/")
        assert name in document["components"]["schemas"]


def test_the_page_is_served_whole_and_asks_nobody_else(client: TestClient) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    folder = Path(captax.__file__).parent / "serve" / "page"
    for part in folder.iterdir():
        assert "://" not in part.read_text().replace("http://www.w3.org/2000/svg", "")
        if part.name != "index.html":
            assert client.get(f"/page/{part.name}").text == part.read_text()


def test_turned_jpegs_are_seen_upright(client: TestClient, tiny_captioner: Captioner) -> None:
    picture = Image.open(io.BytesIO(png(5, (80, 40))))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    picture.save(file, "JPEG", exif=exif, quality=95)
    answer = client.post("/v1/caption", files=files(file.getvalue()))
    right = tiny_captioner.caption([file.getvalue()])[0].text
    assert answer.json()["captions"][0]["caption"] == right


@pytest.mark.parametrize("member", [b"1,", b'"",', b"[],", b'{"a":1},', b'"\\"",'])
def test_json_of_very_many_values_is_refused_before_it_is_parsed(
    client: TestClient, member: bytes
) -> None:
    body = b'{"images": [' + member * 20_000 + b"1]}"
    as_json = {"content-type": "application/json"}
    answer = client.post("/v1/caption", content=body, headers=as_json)
    problem(answer, 413, "too_many_values")


def test_messages_repeat_little_of_what_was_sent(client: TestClient) -> None:
    body = {"images": ["x"], "a\n" * 50_000: 1}
    said = problem(client.post("/v1/caption", json=body), 422, "invalid_request")
    assert len(said) < 2000
    problem(client.get("/a%0Ab"), 404, "not_found")
    for name in (b"content-type", b"content-encoding"):
        odd = {b"content-type": b"application/json", name: b"a\x83" + b"b" * 5000}
        said = problem(
            client.post("/v1/caption", content=b"{}", headers=odd), 415, "unsupported_media_type"
        )
        assert said.isprintable() and len(said) < 500


def test_foreign_pages_and_names_are_refused(tiny_captioner: Captioner) -> None:
    with client_of(
        tiny_captioner, local=True, allow_hosts=("testserver",), allow_origins=("https://ours.org",)
    ) as client:
        host = {"host": "localhost:8000"}
        problem(client.get("/v1/model", headers={"host": "evil.org"}), 421, "foreign_host")
        for told in (
            {"origin": "https://evil.org"},
            {"origin": "null"},
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
            {"sec-fetch-site": "same-site", "origin": "http://localhost:3000"},
        ):
            problem(client.get("/v1/model", headers=host | told), 403, "foreign_origin")
            answer = client.post("/v1/caption", files=files(png(0)), headers=host | told)
            problem(answer, 403, "foreign_origin")
            assert client.get("/", headers=host | told).status_code == 200
        for told in ({}, {"origin": "http://localhost:8000"}, {"sec-fetch-site": "same-origin"}):
            answer = client.post("/v1/caption", files=files(png(0)), headers=host | told)
            assert answer.status_code == 200
        told = host | {"origin": "https://ours.org", "sec-fetch-site": "cross-site"}
        answer = client.post("/v1/caption", files=files(png(0)), headers=told)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://ours.org"
