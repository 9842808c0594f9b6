"""Sites on disk: which pictures are meant, what is left alone, how files are written back."""

import stat
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captax.alt import DocumentError, Proposal, make_patch, propose, survey
from captax.alt.rules import RULES, flatness
from captax.alt.site import read_document
from captax.files import OutputError


def picture(path: Path, width: int = 80, height: int = 60) -> Path:
    """Noise, which is no graphic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def look(root: Path, content: str | bytes, name: str = "page.html") -> list[Proposal]:
    """What is found in one document of a site."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = survey([root]).found
    return [each for each in found if each.document.path == path]


def caption(found: list[Proposal], text: str = "a dog", score: float = -1.0) -> list[Proposal]:
    return propose(found, {each.picture: (text, score) for each in found if each.picture})


@pytest.mark.parametrize(
    ("src", "where"),
    [
        ("p.png", "docs/p.png"),
        ("./x/../p.png?v=1#top", "docs/p.png"),
        ("../p.png", "p.png"),
        ("/img/p.png", "img/p.png"),
        ("a%20b%C3%A9.png", "docs/a bé.png"),
        ("a bé.png", "docs/a bé.png"),
        ("a&amp;b.png", "docs/a&b.png"),
        (" p.png\n", "docs/p.png"),
    ],
)
def test_addresses_are_those_a_browser_would_ask_for(tmp_path: Path, src: str, where: str) -> None:
    picture(tmp_path / where)
    [found] = look(tmp_path, f'<img src="{src}">', "docs/page.html")
    assert (found.rule, found.picture) == (None, tmp_path / where)


@pytest.mark.parametrize(
    ("src", "rule"),
    [
        ("http://x.org/a.png", "remote"),
        ("//x.org/a.png", "remote"),
        ("file:///etc/a.png", "remote"),
        ("http://[x/a.png", "unclear"),
        ("data:image/png;base64,AAAA", "embedded"),
        ("attachment:a.png", "embedded"),
        ("{{ url_for('a') }}", "template"),
        ("img/<?= $name ?>.png", "template"),
        ("", "no-src"),
        ("?v=1", "no-src"),
        ("a%00b.png", "no-src"),
        ("../a.png", "outside"),
        ("a.svg", "svg"),
        ("nowhere.png", "missing"),
        (".", "missing"),
        ("a" * 999 + ".png", "missing"),
        ("text.png", "unreadable"),
        ("site-logo.png", "icon"),
        ("icons/home.png", "icon"),
        ("HomeIcon.png", "icon"),
        ("low.png", "small"),
        ("plot.png", "graphic"),
    ],
)
def test_rules_leave_images_alone(tmp_path: Path, src: str, rule: str) -> None:
    for name in ("site-logo.png", "icons/home.png", "HomeIcon.png"):
        picture(tmp_path / name)
    picture(tmp_path / "low.png", 300, 30)
    Image.new("RGB", (90, 90)).save(tmp_path / "plot.png")
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "a.svg").write_text("<svg/>")
    [found] = look(tmp_path, f'<img src="{src}">')
    assert found.rule == rule and rule in RULES and found.edit is None


def test_the_size_that_the_markup_says_counts(tmp_path: Path) -> None:
    picture(tmp_path / "p.png")
    found = look(tmp_path, '<img src=p.png width="49"><img src=p.png width=50 height=60px>')
    assert [each.rule for each in found] == ["small", None]


def test_names_that_only_hold_an_icons_letters_are_none(tmp_path: Path) -> None:
    picture(tmp_path / "silicon/iconic-catalogo.png")
    [found] = look(tmp_path, "<img src=silicon/iconic-catalogo.png>")
    assert found.rule is None


def test_rules_of_judgement_can_be_waived(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "logo.png")
    (tmp_path / "page.md").write_text("![](logo.png)")
    rules = []
    for waived in ((), ("icon",), ("icon", "small"), ("icon", "small", "graphic")):
        [found] = survey([tmp_path], waived=frozenset(waived)).found
        rules.append(found.rule)
    assert rules == ["icon", "small", "graphic", None]


def test_flat_is_what_equals_its_neighbour() -> None:
    pixels = np.zeros((3, 5, 3), np.uint8)
    pixels[:, 2:] = 9  # 12 pixels have a neighbour in their row, and for 3 of them it differs
    assert flatness(Image.fromarray(pixels[:, :, :])) == 1.0  # down, all are equal
    pixels[1] = np.arange(5)[:, None]
    assert flatness(Image.fromarray(pixels)) == pytest.approx(6 / 12)


def test_flatness_of_a_large_picture_takes_little_memory() -> None:
    noise = np.random.default_rng(0).integers(0, 2, (2500, 1700, 1), np.uint8).repeat(3, axis=2)
    across, down = noise[:, 1:] == noise[:, :-1], noise[1:] == noise[:-1]
    want = max(same.all(axis=-1).mean() for same in (across, down))
    picture = Image.fromarray(noise)
    tracemalloc.start()
    assert flatness(picture) == pytest.approx(want, rel=1e-12)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 16 * 2**20  # the pixels alone are 13 MB, and as much for each comparison
    for shape in ((1, 5, 3), (5, 1, 3), (1, 1, 3)):
        assert flatness(Image.fromarray(np.zeros(shape, np.uint8))) == 1.0


def test_each_picture_is_wanted_once(tmp_path: Path) -> None:
    picture(tmp_path / "p.png")
    (tmp_path / "a.md").write_text("![](p.png) ![](./p.png)")
    (tmp_path / "b.html").write_text("<img src=/p.png>")
    (tmp_path / ".hidden.html").write_text("<img src=/p.png>")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/c.html").write_text("<img src=/p.png>")
    found = survey([tmp_path, tmp_path / "a.md"], root=tmp_path)
    assert found.pictures == [tmp_path / "p.png"]
    assert (len(found.found), found.documents) == (3, 2)


def test_texts_below_the_score_or_said_beside_stay_out(tmp_path: Path) -> None:
    picture(tmp_path / "p.png")
    found = look(tmp_path, "<figure><img src=p.png><figcaption>A dog!</figcaption></figure>")
    assert [each.rule for each in caption(found)] == ["repeats"]
    assert [each.rule for each in caption(found, "a cat")] == [None]
    assert [each.rule for each in caption(found, "a photo of")] == ["wordless"]
    low = propose(found, {tmp_path / "p.png": ("a cat", -2.0)}, min_score=-1.0)
    assert [(each.rule, each.alt, each.edit) for each in low] == [("low-score", "A cat", None)]


def test_a_caption_of_a_graphic_stays_out_unless_graphics_are_wanted(tmp_path: Path) -> None:
    picture(tmp_path / "p.png")
    found = look(tmp_path, "<img src=p.png>")
    [left] = caption(found, "a bar chart with five columns")
    assert (left.rule, left.detail, left.edit) == ("graphic", "chart, says its caption", None)
    said = {tmp_path / "p.png": ("a bar chart with five columns", -1.0)}
    [kept] = propose(found, said, waived={"graphic"})
    assert (kept.rule, kept.alt) == (None, "A bar chart with five columns")


@pytest.mark.parametrize(
    ("content", "alt", "written"),
    [
        ("é <img src=p.png>".encode(), "Über", 'é <img src=p.png alt="Über">'.encode()),
        ("é <img src=p.png>".encode("latin-1"), "Über", b'\xe9 <img src=p.png alt="&#220;ber">'),
        (b"<img src=p.png>", "Über", b'<img src=p.png alt="&#220;ber">'),
        (b"\xef\xbb\xbf<img src=p.png>", "Dog", b'\xef\xbb\xbf<img src=p.png alt="Dog">'),
        ("日本 <img src=p.png>".encode("shift-jis"), "Dog", None),
        (b"\xff<img src=p.png>", "Dog", None),
    ],
)
def test_bytes_of_any_encoding_stay(
    tmp_path: Path, content: bytes, alt: str, written: bytes | None
) -> None:
    picture(tmp_path / "p.png")
    [found] = caption(look(tmp_path, content), alt)
    edit = found.edit
    assert edit is not None
    expected = written or content.replace(b"p.png", b'p.png alt="Dog"')
    assert found.document.edited([edit]) == expected


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "iso-2022-jp"])
def test_encodings_without_ascii_are_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "page.html").write_bytes("日<img src=p.png>".encode(encoding))
    [error] = survey([tmp_path]).errors
    assert "page.html: is in UTF-16" in str(error)


def test_writing_keeps_mode_and_link_and_refuses_what_changed(tmp_path: Path) -> None:
    picture(tmp_path / "p.png")
    real = tmp_path / "real.html"
    [found] = caption(look(tmp_path, "<img src=p.png>\r\n", "real.html"))
    edit = found.edit
    assert edit is not None
    real.chmod(0o640)
    link = tmp_path / "link.htm"
    link.symlink_to(real)
    read_document(link).write([edit])
    assert real.read_bytes() == b'<img src=p.png alt="A dog">\r\n' and link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    with pytest.raises(
        DocumentError, match="was changed since it was read, so it is left as it is; run again"
    ):
        found.document.write([edit])
    assert real.read_bytes() == b'<img src=p.png alt="A dog">\r\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.htm", "p.png", "real.html"]


def test_a_write_that_fails_leaves_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "p.png")
    [found] = caption(look(tmp_path, "<img src=p.png>"))
    edit = found.edit
    assert edit is not None

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("captax.alt.site.copy_mode", full)
    with pytest.raises(OutputError, match="No space left"):
        found.document.write([edit])
    assert (tmp_path / "page.html").read_text() == "<img src=p.png>"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "there is no such file or folder"),
        ("a.png", "is not a document that can be read; give .html"),
        (".", "this folder holds no HTML, Markdown, notebook or .rst file; give another"),
    ],
)
def test_wrong_sites_are_said(tmp_path: Path, name: str, message: str) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(DocumentError, match=message):
        survey([tmp_path / name])


def test_a_document_that_a_link_leads_to_is_not_written(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    victim = tmp_path_factory.mktemp("outside") / "victim.html"
    victim.write_text("<img src=p.png>")
    picture(tmp_path / "p.png")
    (tmp_path / "page.html").symlink_to(victim)
    for follow_links in (False, True):
        surveyed = survey([tmp_path], follow_links=follow_links)
        found = caption(surveyed.found)
        written, failures = make_patch(found).write()
        assert (written, len(failures)) == ((1, 0) if follow_links else (0, 1))
        assert ("alt=" in victim.read_text()) is follow_links
    assert "link leads out of" in str(failures) or not failures
