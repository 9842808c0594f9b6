"""A server of a vision-language model, which is asked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import captax
from captax.pipelines.vision_language import VisionLanguageCaptioner
from serve.conftest import client_of, encoded, files, png
from vision_language_files import write


@pytest.fixture(scope="module")
def asked(smolvlm: VisionLanguageCaptioner) -> Iterator[TestClient]:
    with client_of(smolvlm, max_batch=2) as client:
        yield client


@pytest.mark.slow
@pytest.mark.parametrize(
    "said",
    [
        {"prompt": "look red"},
        {"prompt": "look", "system": "red square"},
        {"prompt": "look red", "raw": True},
    ],
)
def test_prompt_system_and_raw_reach_the_model(
    asked: TestClient, smolvlm: VisionLanguageCaptioner, said: dict[str, Any]
) -> None:
    length = {"min_new_tokens": 6, "max_new_tokens": 6}
    [plain] = smolvlm.caption([png(1)], **length)
    [want] = smolvlm.caption([png(1)], **length, **said)
    assert want.score != plain.score
    form = asked.post("/v1/caption", files=files(png(1)), data={**length, **said})
    body = {"images": [encoded(png(1))]}
    as_json = asked.post("/v1/caption", json={**body, **length, **said})
    for answer in (form, as_json):
        [got] = answer.json()["captions"]
        assert got["caption"] == want.text
        assert got["score"] == pytest.approx(want.score, abs=1e-4)
    scored = asked.post("/v1/score", json={**body, "captions": ["red square"], **said})
    [score] = smolvlm.score([png(1)], ["red square"], **said)
    assert scored.json()["scores"][0]["score"] == pytest.approx(score, abs=1e-4)


@pytest.mark.slow
def test_pictures_of_several_sizes_are_answered(tmp_path: Path) -> None:
    qwen = captax.load(write("qwen3-vl", tmp_path), max_pixels=4096)
    length = {"min_new_tokens": 6, "max_new_tokens": 6}
    pictures = [png(1, (90, 50)), png(2, (40, 96))]
    want = qwen.caption(pictures, prompt="look", **length)
    with client_of(qwen, max_batch=2) as client:
        form = {**length, "prompt": "look"}
        answer = client.post("/v1/caption", files=files(*pictures), data=form)
    for got, each in zip(answer.json()["captions"], want, strict=True):
        assert got["caption"] == each.text
        assert got["score"] == pytest.approx(each.score, abs=1e-4)
