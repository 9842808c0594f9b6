"""`captax tag`: tags go wherever captions can go."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captax
import tagger_files

Run = Callable[..., Any]
ALL = ("--general", 0, "--character", 0)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tagger_files.write(tmp_path_factory.mktemp("tagger") / "wd")


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two good pictures and a broken one, in a folder of the current one."""
    monkeypatch.chdir(tmp_path)
    folder = Path("pictures")
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "c.jpg"):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(folder / name)
    (folder / "b.png").write_text("broken")
    return folder


def test_tags_are_printed_and_a_broken_picture_is_named(
    run: Run, tagger: Path, pictures: Path
) -> None:
    result = run("tag", pictures, "--model", tagger, *ALL)
    found = captax.load(tagger).tag([pictures / "a.png", pictures / "c.jpg"], general=0.0)
    assert result.code == 1 and "pictures/b.png: not a picture" in result.err
    for line, name, each in zip(result.out.splitlines(), "ac", found, strict=True):
        assert line.startswith(f"pictures/{name}.") and f": {each}" in line


def test_sidecars_hold_the_tags_as_trainers_read_them(
    run: Run, tagger: Path, pictures: Path
) -> None:
    options = (*ALL, "--format", "sidecar", "--rating", "--escape-parentheses", "--prefix", "me, ")
    excluded = ("--exclude", "long hair", "--exclude", "nobody")
    assert run("tag", pictures, "--model", tagger, *options, *excluded).code == 1
    text = (pictures / "a.txt").read_text()
    assert text.startswith(("me, rating:general, ", "me, rating:sensitive, "))
    assert set(text.strip().split(", ")[2:]) == {
        *("1girl", ">_<", r"cup \(object\)", r"reimu \(touhou\)")
    }
    assert not (pictures / "b.txt").exists()
    again = run("tag", pictures, "--model", tagger, *options, *excluded)
    assert "2 tagged before" in again.err and (pictures / "a.txt").read_text() == text


def test_tags_are_added_to_a_text_that_is_there(run: Run, tagger: Path, pictures: Path) -> None:
    (pictures / "a.txt").write_text("ohwx\n")
    options = ("--general", 1, "--character", 0, "--keep-underscores", "--exclude", "nobody")
    written = ("--format", "sidecar", "--on-exists", "append")
    run("tag", pictures / "a.png", "--model", tagger, *options, *written)
    assert (pictures / "a.txt").read_text() == "ohwx, reimu_(touhou)\n"


def test_records_hold_each_tag_with_its_category_and_probability(
    run: Run, tagger: Path, pictures: Path
) -> None:
    assert run("tag", pictures, "--model", tagger, *ALL, "--rating", "--out", "t.jsonl").code == 1
    first, second, third = map(json.loads, Path("t.jsonl").read_text().splitlines())
    assert second == {"path": "pictures/b.png", "error": second["error"]}
    assert third["path"] == "pictures/c.jpg"
    tags = first["tags"]
    assert [set(each) for each in tags] == [{"tag", "category", "probability"}] * 7
    assert [each["category"] for each in tags] == ["rating", *["general"] * 4, *["character"] * 2]
    assert first["caption"] == f"rating:{tags[0]['tag']}, " + ", ".join(
        each["tag"] for each in tags[1:]
    )
    assert first["score"] == pytest.approx(np.mean([each["probability"] for each in tags[1:]]))

    # A second run takes them from the journal, and another format from another run of the model.
    before = Path("t.jsonl").read_bytes()
    assert "tagged before" in run("tag", pictures, "--model", tagger, *ALL, "--rating",
                                     "--out", "t.jsonl").err  # fmt: skip
    assert Path("t.jsonl").read_bytes() == before
    run("tag", pictures, "--model", tagger, *ALL, "--rating", "--out", "t.csv")
    rows = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
    assert [row["caption"] for row in rows] == [first["caption"], "", third["caption"]]


def test_other_thresholds_are_other_settings(run: Run, tagger: Path, pictures: Path) -> None:
    run("tag", pictures, "--model", tagger, *ALL, "--out", "t.jsonl")
    result = run("tag", pictures, "--model", tagger, "--general", 0.5, "--out", "t.jsonl")
    assert result.code == 2 and "general was 0" in result.err


def test_a_picture_without_tags_has_an_empty_caption(
    run: Run, tagger: Path, pictures: Path
) -> None:
    none = ("--general", 1, "--character", 1)
    run("tag", pictures / "a.png", "--model", tagger, *none, "--out", "t.jsonl")
    [record] = map(json.loads, Path("t.jsonl").read_text().splitlines())
    assert (record["caption"], record["score"], record["tags"]) == ("", 0, [])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--exclude", "nosuch"), "--exclude names 'nosuch', which is no tag of this model"),
        (("--separator", "; "), "--separator only applies to"),
        (("--general", "2"), "general"),
    ],
)
def test_wrong_options_are_told_in_a_line(
    run: Run, tagger: Path, pictures: Path, options: tuple[str, ...], told: str
) -> None:
    result = run("tag", pictures / "a.png", "--model", tagger, *options)
    assert result.code == 2 and told in result.err and len(result.err.splitlines()) == 1


def test_what_is_no_tagger_cannot_tag(run: Run, model: Path, pictures: Path) -> None:
    result = run("tag", pictures, "--model", model)
    assert result.code == 2 and "holds a Captioner, which cannot tag" in result.err
