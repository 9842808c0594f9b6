"""`captax caption --hints`: the tags of each picture inside its prompt."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captax
from vision_language_files import write

Run = Callable[..., Any]
SHORT = ("--max-new-tokens", 6, "--min-new-tokens", 6, "--no-image-splitting")


@pytest.fixture(scope="module")
def asked(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("smolvlm")


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures, and tags of all but the last, in folders of the current one."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        path = Path("pictures", f"{name}.png")
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    for name, tags in (("a", "red, a square\n"), ("b", "two blue stripes")):
        file = Path("tags", f"{name}.txt")
        file.parent.mkdir(exist_ok=True)
        file.write_text(tags)
    return Path("pictures")


@pytest.mark.parametrize(
    ("prompt", "whole"),
    [
        ("the {tags} wall", "the {tags} wall"),
        ("the wall", "the wall The picture's tags: {tags}."),
    ],
)
def test_each_picture_is_asked_with_its_own_tags(
    run: Run, asked: Path, pictures: Path, prompt: str, whole: str
) -> None:
    options = ("--model", asked, "--hints", "tags", "--prompt", prompt, *SHORT)
    result = run("caption", pictures, *options, "--out", "x.jsonl")
    assert result.code == 1
    first, second, third = map(json.loads, Path("x.jsonl").read_text().splitlines())
    assert "tags/c.txt: its tags cannot be read (No such file" in third["error"]
    captioner = captax.load(asked, image_splitting=False)
    length = {"max_new_tokens": 6, "min_new_tokens": 6}
    for record, tags in ((first, "red, a square"), (second, "two blue stripes")):
        [want] = captioner.caption(record["path"], prompt=whole.format(tags=tags), **length)
        [other] = captioner.caption(record["path"], prompt=prompt, **length)
        assert record["caption"] == want.text
        assert record["score"] == pytest.approx(want.score, abs=1e-4)
        assert want.score != pytest.approx(other.score, abs=1e-4)


def test_tags_that_are_no_text_or_far_too_many_cost_their_picture(
    run: Run, asked: Path, pictures: Path
) -> None:
    Path("tags/b.txt").write_text("a <image> b")
    Path("tags/c.txt").write_text("red " * 5000)
    options = ("--model", asked, "--hints", "tags", "--prompt", "the wall", *SHORT)
    result = run("caption", pictures, *options)
    assert result.code == 1 and len(result.out.splitlines()) == 1
    assert "b.png: the prompt contains a token that has a meaning of its own" in result.err
    assert "c.png: tags/c.txt: its tags have more than 4,000 characters" in result.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--hints", "tags"), "--hints only applies to prompts; add --prompt"),
        (("--hints", "none", "--prompt", "a"), "none: no such folder"),
    ],
)
def test_hints_that_cannot_be_given_are_refused(
    run: Run, asked: Path, pictures: Path, options: tuple[str, ...], told: str
) -> None:
    result = run("caption", pictures, "--model", asked, *options)
    assert result.code == 2 and told in result.err


def test_a_task_takes_no_hints(run: Run, pictures: Path, tmp_path: Path) -> None:
    model = write("florence2", tmp_path / "florence2")
    for asked in (("--style", "short"), ("--prompt", "<CAPTION>")):
        result = run("caption", pictures, "--model", model, "--hints", "tags", *asked)
        assert result.code == 2 and "--hints cannot be added to a task" in result.err


def test_a_captioner_that_continues_its_prompt_takes_no_hints(
    run: Run, model: Path, pictures: Path
) -> None:
    result = run("caption", pictures, "--model", model, "--hints", "tags", "--prompt", "a")
    assert result.code == 2 and "--hints is for models that answer" in result.err
