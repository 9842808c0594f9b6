"""The server of votes: it answers its own page, and nobody else."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from captax.compare.comparison import Comparison
from captax.compare.votes import Booth, read_votes
from captax.compare.voting import create_app

JSON = {"content-type": "application/json"}


@pytest.fixture
def booth(compared: tuple[Path, Comparison]) -> Iterator[Booth]:
    booth = Booth(*compared, "me")
    yield booth
    booth.close()


@pytest.fixture
def client(booth: Booth, compared: tuple[Path, Comparison]) -> Iterator[TestClient]:
    app = create_app(booth, compared[0])
    with TestClient(app, "http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        yield client


def votes(compared: tuple[Path, Comparison]) -> int:
    return len(read_votes(compared[0] / "votes.jsonl"))


def test_a_question_names_nobody(
    client: TestClient, booth: Booth, compared: tuple[Path, Comparison]
) -> None:
    told = client.get("/state").json()
    ballot = booth.ballot(told["question"])
    shown = compared[1].pictures[ballot.picture]
    assert told["left"] == shown.said[ballot.left].caption
    assert told["right"] == shown.said[ballot.right].caption
    everything = json.dumps(told) + client.get("/").text
    for captioner in compared[1].captioners:
        assert f"{captioner.name}.jsonl" not in everything
        assert captioner.name not in told.values()
    picture = client.get(told["picture"])
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.content == (compared[0] / "thumbnails" / str(shown.thumbnail)).read_bytes()


def test_votes_and_undo(client: TestClient, compared: tuple[Path, Comparison]) -> None:
    first = client.get("/state").json()
    second = client.post("/votes", json={"question": first["question"], "choice": "left"}).json()
    assert second["done"] == 1 and second["question"] != first["question"]
    again = client.post("/votes", json={"question": first["question"], "choice": "right"})
    assert again.status_code == 409
    assert client.get(first["picture"]).status_code == 404  # not the current question's
    undone = client.post("/undo", json={}).json()
    assert (undone["done"], undone["question"]) == (0, first["question"])
    assert client.post("/undo", json={}).json()["done"] == 0
    while (state := client.get("/state").json())["question"] is not None:
        asked = {"question": state["question"], "choice": "tie"}
        assert client.post("/votes", json=asked).status_code == 200
    assert state["done"] == state["total"] == 11 and state["same"] == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:8001"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:9"},
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:8000"},
    ],
)
def test_an_unrelated_page_cannot_vote_nor_read(
    headers: dict[str, str], client: TestClient, compared: tuple[Path, Comparison]
) -> None:
    question = client.get("/state").json()["question"]
    body = json.dumps({"question": question, "choice": "left"})
    for path, sent in (("/votes", body), ("/undo", "{}")):
        answer = client.post(path, content=sent, headers={**JSON, **headers})
        assert answer.status_code in (403, 421), path
        told = answer.json()["error"]["message"]
        assert "open the address that it printed" in told and "--" not in told
    assert client.get("/state", headers=headers).status_code in (403, 421)
    assert client.get(f"/pictures/{question}", headers=headers).status_code in (403, 421)
    assert votes(compared) == 0


def test_its_own_page_and_programs_may_vote(
    client: TestClient, compared: tuple[Path, Comparison]
) -> None:
    own = {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
    for headers in (own, {"origin": "http://127.0.0.1:8000"}, {}):
        question = client.get("/state", headers=headers).json()["question"]
        body = json.dumps({"question": question, "choice": "tie"})
        answer = client.post("/votes", content=body, headers={**JSON, **headers})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ('{"question": 0, "choice": "left"}', {"content-type": "text/plain"}, 415),
        ("question=0&choice=left", {"content-type": "application/x-www-form-urlencoded"}, 415),
        ("", JSON, 422),
        ("[]", JSON, 422),
        ("[" * 4000, JSON, 422),
        ('{"question": true, "choice": "left"}', JSON, 422),
        ('{"question": "0", "choice": "left"}', JSON, 422),
        ('{"question": 0, "choice": ["left"]}', JSON, 422),
        ('{"question": 0, "choice": "same"}', JSON, 422),
        ('{"question": 0, "choice": "undo"}', JSON, 422),
        ('{"question": 1000000, "choice": "left"}', JSON, 409),
        (" " * 5000, JSON, 413),
    ],
)
def test_what_is_no_vote_is_refused(
    body: str,
    headers: dict[str, str],
    status: int,
    client: TestClient,
    compared: tuple[Path, Comparison],
) -> None:
    answer = client.post("/votes", content=body, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert votes(compared) == 0


@pytest.mark.parametrize(
    "path",
    [
        "/vote/..%2fvotes.py",
        "/vote/%2e%2e/votes.py",
        "/page/%2e%2e/app.py",
        "/pictures/..%2f..%2fcomparison.json",
        "/pictures/-1",
        "/thumbnails/",
        "/comparison.json",
        "/votes.jsonl",
    ],
)
def test_nothing_else_is_served(path: str, client: TestClient) -> None:
    assert client.get(path).status_code == 404
    assert client.get("/votes").status_code == 405


def test_a_link_in_the_place_of_a_picture_is_not_followed(
    client: TestClient, booth: Booth, compared: tuple[Path, Comparison]
) -> None:
    state = client.get("/state").json()
    shown = compared[1].pictures[booth.ballot(state["question"]).picture]
    picture = compared[0] / "thumbnails" / str(shown.thumbnail)
    picture.unlink()
    picture.symlink_to(compared[0].parent / "cats.jsonl")
    assert client.get(state["picture"]).status_code == 404


def test_answers_have_the_headers_of_the_server(client: TestClient) -> None:
    for path in ("/", "/state", "/absent"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_a_full_disk_is_told(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, compared: tuple[Path, Comparison]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    question = client.get("/state").json()["question"]
    monkeypatch.setattr("captax.compare.votes.os.fsync", full)
    answer = client.post("/votes", json={"question": question, "choice": "left"})
    assert answer.status_code == 507 and "No space left" in answer.json()["error"]["message"]
    assert votes(compared) == 0
