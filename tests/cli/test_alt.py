"""`captax alt` on a small site."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captax.alt import RULES, alt_text
from captax.alt.site import Document
from captax.files import OutputError
from captax.pipelines.captioner import Captioner

Run = Callable[..., Any]

PAGE = b'<h1>Us</h1>\r\n<img src="p.png"> <img src=/img/q.png><img src="p.png" alt="">\r\n'


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `site` in the current one: a page and notes, two pictures, one shown twice."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "site"
    rng = np.random.default_rng(0)
    for name in ("p.png", "img/q.png"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(folder / name)
    (folder / "page.html").write_bytes(PAGE)
    (folder / "notes.md").write_text("![](p.png)\n\n![](nowhere.png)")
    return folder


@pytest.fixture
def alts(site: Path, tiny_captioner: Captioner) -> list[str]:
    found = tiny_captioner.caption([site / "p.png", site / "img/q.png"])
    return [alt_text(caption.text) for caption in found]


@pytest.fixture
def dogs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A captioner that sees a dog in every picture, and the alt texts of both."""
    monkeypatch.setattr(
        "captax.cli.alt._captions",
        lambda pictures, **_: dict.fromkeys(pictures, ("a photo of a dog .", -0.5)),
    )
    return ["A dog", "A dog"]


def changed(site: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(site.glob("*.*[ml]*"))}


def expected(alts: list[str]) -> dict[str, bytes]:
    p, q = (alt.encode() for alt in alts)
    page = PAGE.replace(b'"p.png">', b'"p.png" alt="' + p + b'">')
    page = page.replace(b"q.png>", b'q.png alt="' + q + b'">')
    return {
        "notes.md": b"![" + p + b"](p.png)\n\n![](nowhere.png)",
        "page.html": page,
    }


def test_the_patch_applies_and_then_there_is_nothing_to_propose(
    run: Run, model: Path, site: Path, alts: list[str]
) -> None:
    before = changed(site)
    result = run("alt", "site", "--model", model)
    assert result.code == 0 and changed(site) == before
    subprocess.run(["git", "apply", "-"], input=result.out.encode(), check=True)
    assert changed(site) == expected(alts)
    summary, *reasons = result.err.splitlines()
    assert summary == (
        "captax: 2 documents show 5 images; 3 alt texts are proposed, 2 images are left alone"
    )
    assert [line.split()[:2] for line in reasons] == [["1", "decorative"], ["1", "missing"]]
    again = run("alt", "site", "--model", "never-loaded")
    assert (again.code, again.out) == (0, "") and "0 alt texts are proposed" in again.err


def test_write_changes_the_files(run: Run, model: Path, site: Path, alts: list[str]) -> None:
    result = run("alt", "site", "--write", "--model", model)
    assert (result.code, result.out) == (0, "") and "captax: wrote 3 alt texts" in result.err
    assert changed(site) == expected(alts)


def test_a_document_that_cannot_be_written_does_not_keep_others_from_it(
    run: Run, site: Path, dogs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Document.write

    def refuse(document: Document, edits: Any) -> None:
        if document.path.name == "notes.md":
            raise OutputError("site/notes.md: cannot be written (Permission denied)")
        write(document, edits)

    monkeypatch.setattr(Document, "write", refuse)
    result = run("alt", "site", "--write")
    assert result.code == 1 and "captax: site/notes.md: cannot be written" in result.err
    assert "captax: wrote 2 alt texts" in result.err and dogs[0] in (site / "page.html").read_text()


def test_each_picture_is_captioned_once(
    run: Run, model: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    stream = Captioner.stream

    def watched(self: Captioner, pictures: Any, **options: Any) -> Any:
        asked.extend(pictures)
        return stream(self, pictures, **options)

    monkeypatch.setattr(Captioner, "stream", watched)
    run("alt", "site", "site/page.html", "--model", model)
    assert sorted(path.name for path in asked) == ["p.png", "q.png"]


def test_a_picture_that_cannot_be_read_is_named_once(run: Run, model: Path, site: Path) -> None:
    (site / "q.png").write_bytes(b"")
    (site / "notes.md").write_text("![](q.png)\n\n![](q.png)")
    result = run("alt", "site", "--model", model)
    assert result.code == 1
    [line] = [each for each in result.err.splitlines() if "q.png" in each]
    assert line == f"captax: {Path('site/q.png').absolute()}: is empty (0 bytes)"
    (site / "notes.md").write_text("![](p.png)")
    result = run("alt", "site/notes.md", "--write", "--model", model)
    assert "captax: 1 document shows 1 image; 1 alt text is proposed, 0 images are" in result.err
    assert "captax: wrote 1 alt text\n" in result.err


def test_the_report_names_every_image(run: Run, site: Path, dogs: list[str]) -> None:
    files = {"--report": "r.jsonl", "--out": "a.patch", "--sheet": "r.html"}
    options = [part for pair in files.items() for part in pair]
    result = run("alt", "site", *options, "--verbose", "--min-score", 0)
    assert (result.code, Path("a.patch").read_bytes()) == (0, b"")
    records = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [(each["document"], each["line"], each["rule"], each["alt"]) for each in records] == [
        ("site/notes.md", 1, "low-score", dogs[0]),
        ("site/notes.md", 3, "missing", None),
        ("site/page.html", 2, "low-score", dogs[0]),
        ("site/page.html", 2, "low-score", dogs[1]),
        ("site/page.html", 2, "decorative", None),
    ]
    assert records[2]["context"] == {"heading": "Us"}
    assert "site/notes.md:3: nowhere.png: there is no such file" in result.err
    page = Path("r.html").read_text()
    assert page.count('<p class="caption"') == 2 and "under “Us”" in page
    assert re.search(r"site/page.html:2.*not proposed: its caption scored below", page)


def test_a_patch_for_elsewhere_says_where(
    run: Run, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dogs: list[str]
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    result = run("alt", site / "page.html", "--out", "a.patch")
    [hint] = re.findall(r"`(patch .*)`", result.err)
    subprocess.run(hint, shell=True, check=True)
    assert b'p.png" alt="' in (site / "page.html").read_bytes()


def test_what_cannot_be_read_is_said_and_the_rest_done(
    run: Run, site: Path, dogs: list[str]
) -> None:
    (site / "bad.ipynb").write_text("{")
    (site / "wide.htm").write_bytes("<img src=p.png>".encode("utf-16"))
    result = run("alt", "site", "--write")
    assert result.code == 1
    first, second = result.err.splitlines()[:2]
    assert first.startswith("captax: site/bad.ipynb: is not JSON")
    assert second.startswith(
        "captax: site/wide.htm: is in UTF-16 or ISO-2022, or is not text; save it"
    )
    assert changed(site)["page.html"] == expected(dogs)["page.html"]


def test_the_rules_are_listed(run: Run) -> None:
    lines = run("alt", "--rules").out.splitlines()
    assert [line.split()[0] for line in lines] == list(RULES)
    guide = Path(__file__).parents[2] / "docs" / "alt.md"
    assert re.findall(r"^\| `([\w-]+)` \|", guide.read_text(), re.MULTILINE) == list(RULES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: there is no such file or folder"),
        (
            ["site", "--include", "svg"],
            "--include svg: is not such a rule; give icon, small or graphic",
        ),
        (["site/page.html", "--root", "site/img"], "is not in the folder that --root names"),
    ],
)
def test_wrong_use_is_a_line(run: Run, site: Path, arguments: list[str], message: str) -> None:
    result = run("alt", *arguments)
    assert result.code in (1, 2) and result.out == "" and message in result.err.splitlines()[0]
