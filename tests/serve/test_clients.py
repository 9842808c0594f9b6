"""What clients in the wild send, and what they may ask."""

import base64
import gzip
import json
from typing import Any
from urllib.parse import urljoin

import pytest
from starlette.testclient import TestClient

from .conftest import encoded, files, png

PICTURE = png(0) + b"+/" * 5
CODE = encoded(PICTURE)
URL = "data:image/png;base64,"


@pytest.mark.parametrize(
    "text",
    [
        CODE.rstrip("="),
        base64.encodebytes(PICTURE).decode(),
        base64.urlsafe_b64encode(PICTURE).decode(),
        URL + CODE.rstrip("="),
        URL + CODE.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        URL.upper() + CODE,
        "data:," + "".join(f"%{byte:02X}" for byte in PICTURE),
    ],
    ids=["unpadded", "wrapped", "url-safe", "data unpadded", "data escaped", "DATA", "no base64"],
)
def test_base64_is_read_in_every_form(client: TestClient, text: str) -> None:
    plain = client.post("/v1/caption", json={"images": [CODE]}).json()
    assert client.post("/v1/caption", json={"images": [text]}).json() == plain


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ("name=\"images\"; filename*=utf-8''%E7%8C%AB.jpg", "猫.jpg"),
        ("name=images; FILENAME*=UTF-8'de'%C3%A4.jpg", "ä.jpg"),
        ('name="images"; filename="a.jpg"; filename*=utf-8\'\'b.jpg', "a.jpg"),
    ],
)
def test_a_part_with_a_name_of_any_kind_is_a_file(
    client: TestClient, disposition: str, name: str
) -> None:
    assert _send(client, disposition).json()["captions"][0]["name"] == name


def test_a_name_within_quotes_is_no_file_name(client: TestClient) -> None:
    answer = _send(client, "name=\"a; filename*=utf-8''b\"")
    assert answer.status_code == 422 and "images: List should" in answer.text


def _send(client: TestClient, disposition: str) -> Any:
    head = f"--XX\r\nContent-Disposition: form-data; {disposition}\r\n\r\n"
    body = head.encode() + png(0) + b"\r\n--XX--\r\n"
    kind = {"content-type": "multipart/form-data; boundary=XX"}
    return client.post("/v1/caption", content=body, headers=kind)


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/health", "/health/live", "/health/ready", "/v1/model", "/openapi.json"),
        *("/page/page.js", "/metrics", "/none", "/v1/caption"),
    ],
)
def test_head_is_answered_wherever_get_is(client: TestClient, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert head.status_code == got.status_code and head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]
    if path != "/metrics":  # whose length is another each time
        assert "content-length" in head.headers


@pytest.mark.parametrize("path", ["/v1/caption/", "/v1/model/?a=b", "/health/"])
def test_redirects_are_relative(client: TestClient, path: str) -> None:
    answer = client.get(path, headers={"host": "testserver"}, follow_redirects=False)
    if answer.status_code != 404:
        to = answer.headers["location"]
        assert answer.status_code == 307 and to.startswith("../")
        proxied = urljoin(f"https://example.org/prefix{path}", to)
        assert proxied == f"https://example.org/prefix{path.replace('/?', '?').rstrip('/')}"


def test_null_is_not_given_for_every_field(client: TestClient) -> None:
    from captax.serve import schemas

    body = {"images": [encoded(png(0))]}
    for path, schema in (
        ("/v1/caption", schemas.CaptionRequest),
        ("/v1/explain", schemas.ExplainRequest),
    ):
        nulls = dict.fromkeys(schema.model_fields)
        assert (
            client.post(path, json={**nulls, **body}).json() == client.post(path, json=body).json()
        )
        missing = client.post(path, json=nulls)
        assert missing.json()["error"]["message"] == "images: is missing; send it"
    nulls = dict.fromkeys(schemas.ScoreRequest.model_fields)
    score = {**nulls, **body, "captions": ["a red square"]}
    assert client.post("/v1/score", json=score).status_code == 200
    assert schemas.ClassifyRequest.model_validate({"images": ["x"], "top": None}).top == 5


def test_a_gzip_body_is_415(client: TestClient) -> None:
    body = gzip.compress(json.dumps({"images": [encoded(png(0))]}).encode())
    for headers in ({}, {"content-encoding": "gzip"}):
        answer = client.post(
            "/v1/caption", content=body, headers={"content-type": "application/json", **headers}
        )
        assert answer.status_code == 415 and "send it as it is" in answer.text


def test_an_unknown_field_is_answered_with_the_nearest(client: TestClient) -> None:
    body = {"images": [encoded(png(0))], "num_beam": 3}
    as_json = client.post("/v1/caption", json=body)
    as_form = client.post("/v1/caption", files=files(png(0)), data={"num_beam": 3})
    for answer in (as_json, as_form):
        assert answer.status_code == 422
        assert "num_beam: is not a field of this request; did you mean num_beams?" in answer.text
