"""`captax caption` with facts in the prompt, in a language, in few words and without preambles."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captax
from cli.test_endpoint import Fake, serving
from vision_language_files import write

Run = Callable[..., Any]
SHORT = ("--max-new-tokens", 6, "--min-new-tokens", 6, "--no-image-splitting")
FACTS = "look {csv.note} at {exif.camera|nothing}[ in {exif.year}]"


@pytest.fixture(scope="module")
def asked(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("smolvlm")


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures, of which the first has a date and a camera, and notes on the others."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Path("pictures").mkdir()
    for name in ("a", "b", "c"):
        exif = Image.Exif()
        if name == "a":
            exif[0x0110], exif[0x0132] = "red square", "2021:05:03 14:32:10"
        picture = Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8))
        picture.save(f"pictures/{name}.jpg", exif=exif)
    rows = "file,note\na.jpg,blue\nb.jpg,<image> you {exif.camera}\n"
    Path("notes.csv").write_text(rows)
    return Path("pictures")


def test_each_picture_is_asked_with_its_own_facts(run: Run, asked: Path, pictures: Path) -> None:
    options = ("--model", asked, "--prompt", FACTS, "--facts", "notes.csv", *SHORT)
    result = run("caption", pictures, *options, "--out", "x.jsonl", "--sheet", "x.html")
    assert result.code == 0
    lacking = "pictures that lack a fact of the prompt: csv.note 1, exif.camera 2, exif.year 2"
    assert lacking in result.err
    wholes = (
        "look blue at red square in 2021",
        "look (image) you (exif.camera) at nothing",
        "look at nothing",
    )
    facts = (
        {"csv.note": "blue", "exif.camera": "red square", "exif.year": "2021"},
        {"csv.note": "(image) you (exif.camera)", "exif.camera": None, "exif.year": None},
        {"csv.note": None, "exif.camera": None, "exif.year": None},
    )
    captioner = captax.load(asked, image_splitting=False)
    length = {"max_new_tokens": 6, "min_new_tokens": 6}
    records = [json.loads(line) for line in Path("x.jsonl").read_text().splitlines()]
    for record, whole, told in zip(records, wholes, facts, strict=True):
        [want] = captioner.caption(record["path"], prompt=whole, **length)
        assert record["caption"] == want.text and record["facts"] == told
        assert record["score"] == pytest.approx(want.score, abs=1e-4)
    assert "exif.year: 2021" in Path("x.html").read_text()
    again = ("caption", pictures, *options, "--out", "x.jsonl")
    result = run(*again)
    assert result.code == 0 and "other settings" not in result.err
    Path("notes.csv").write_text("file,note\na.jpg,green\n")
    refused = run(*again)
    assert refused.code == 2 and "begun with other settings (facts was" in refused.err


def test_copies_have_the_facts_of_what_was_asked(run: Run, asked: Path, pictures: Path) -> None:
    Path("pictures/b.jpg").write_bytes(Path("pictures/a.jpg").read_bytes())
    options = ("--model", asked, "--prompt", "look {exif.year}", "--dedupe", 0, *SHORT)
    assert run("caption", pictures, *options, "--out", "x.jsonl").code == 0
    first, second, _ = map(json.loads, Path("x.jsonl").read_text().splitlines())
    assert second["copy_of"] == first["path"] and second["facts"] == {"exif.year": "2021"}


def test_styles_and_hints_have_facts(run: Run, asked: Path, pictures: Path) -> None:
    Path("own.yaml").write_text("when: look {exif.year} {tags}\n")
    Path("tags").mkdir()
    for name in ("a", "b", "c"):
        Path(f"tags/{name}.txt").write_text("{exif.camera}")
    options = ("--model", asked, "--styles", "own.yaml", "--style", "when", "--hints", "tags")
    assert run("caption", pictures, *options, *SHORT, "--out", "x.jsonl").code == 0
    record = json.loads(Path("x.jsonl").read_text().splitlines()[0])
    assert record["facts"] == {"exif.year": "2021"}


@pytest.mark.parametrize(
    ("prompt", "language", "whole"),
    [("look", "French", "look. Answer in French."), ("", "fr", None)],
)
def test_a_model_is_asked_for_a_language(
    run: Run, asked: Path, pictures: Path, prompt: str, language: str, whole: str | None
) -> None:
    options = ("--model", asked, "--language", language, "--prompt", prompt, *SHORT)
    assert run("caption", "pictures/a.jpg", *options, "--out", "x.jsonl").code == 0
    record = json.loads(Path("x.jsonl").read_text())
    captioner = captax.load(asked, image_splitting=False)
    whole = whole or "Can you describe this image? Answer in French."
    assert captioner.prompt_in(language, prompt) == whole
    [want] = captioner.caption("pictures/a.jpg", prompt=whole, max_new_tokens=6, min_new_tokens=6)
    assert record["language"] == "fr" and record["caption"] == want.text
    assert record["score"] == pytest.approx(want.score, abs=1e-4)


def test_families_are_asked_for_a_language_in_their_own_way(
    run: Run, model: Path, pictures: Path, tmp_path: Path
) -> None:
    paligemma = captax.load(write("paligemma", tmp_path / "paligemma"))
    assert paligemma.prompt_in("French") == "caption fr"
    assert paligemma.prompt_in("de", paligemma.styles.prompt("detailed")) == "describe de"
    florence = write("florence2", tmp_path / "florence2")
    for captioner in (florence, model):
        result = run("caption", pictures, "--model", captioner, "--language", "fr")
        assert result.code == 2 and "--language is for vision-language models" in result.err
        result = run("caption", pictures, "--model", captioner, "--prompt", "look {exif.year}")
        assert (result.code == 2) == (captioner == model)
    assert "a fact is for models that answer a prompt" in result.err
    result = run("caption", pictures, "--model", florence, "--prompt", "<CAPTION>{exif.year}")
    assert result.code == 2 and "a fact cannot be added to a task" in result.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--prompt", "{exif.dat}"), "no such fact; did you mean exif.date"),
        (("--prompt", "{csv.a}"), "the prompt has {csv.a}; add --facts FILE.csv"),
        (("--facts", "notes.csv"), "--facts only applies to prompts with {csv.COLUMN}"),
        (("--language", "Klingon"), "--language is 'Klingon', which is not known"),
        (("--language", "fr", "--raw"), "--raw says what is asked; leave it out"),
        (("--language", "fr", "--task", "od"), "--task says what is asked"),
        (("--prompt", "{csv.note}", "--facts", "x.csv", "--out", "x.csv"), "x.csv"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    run: Run, pictures: Path, options: tuple[str, ...], told: str
) -> None:
    Path("x.csv").write_text("file,note\n")
    result = run("caption", pictures, "--model", "nowhere", *options)
    assert result.code == 2 and told in result.err and result.err.count("\n") == 1
    assert Path("x.csv").read_text() == "file,note\n"


def test_servers_elsewhere_are_asked_the_same(run: Run, pictures: Path) -> None:
    fake = Fake()
    said = {"choices": [{"message": {"content": "Sure! This image shows a dog."}}]}
    fake.trouble = lambda count, body: (200, said)
    with serving(fake) as url:
        options = ("--endpoint", url, "--prompt", "look {exif.year}", "--language", "de")
        result = run("caption", pictures, *options, "--no-preamble", "--out", "x.jsonl")
        refused = run("caption", pictures, "--endpoint", url, "--max-words", 3)
    assert result.code == 0 and "captions whose preamble was removed: 3" in result.err
    records = [json.loads(line) for line in Path("x.jsonl").read_text().splitlines()]
    for record in records:
        assert record["caption"] == "A dog." and record["language"] == "de"
        assert record["removed"] == "Sure! This image shows"
    asked = {body["messages"][0]["content"][0]["text"] for body in fake.bodies}
    assert asked == {"look 2021. Answer in German.", "look. Answer in German."}
    assert refused.code == 2 and "--max-words is nothing that an endpoint" in refused.err


def test_captions_have_few_words(run: Run, model: Path, pictures: Path) -> None:
    options = ("--model", model, "--max-words", 2, "--no-preamble", "--out", "x.jsonl")
    assert run("caption", pictures, *options).code == 0
    for line in Path("x.jsonl").read_text().splitlines():
        assert 0 < len(json.loads(line)["caption"].split()) <= 2
