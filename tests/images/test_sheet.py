import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from captax.files import OutputError
from captax.images import SheetRow, write_sheet


class Page(HTMLParser):
    """What a browser would make of the page: elements with attributes, and the text by element."""

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in {"img", "meta"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


NASTY = "</p><script>alert('x')</script> & \"quoted\" <b>"
PICTURE = np.full((600, 1200, 3), (200, 30, 30), np.uint8)


@pytest.fixture
def page(tmp_path) -> Page:
    rows = [
        SheetRow(PICTURE, "red.jpg", "a red wall", -0.123, (("a wall", -0.5), (NASTY, -1.25))),
        SheetRow(PICTURE[:50, :40], f"{NASTY}.jpg", NASTY, None),
        SheetRow(None, "lost.jpg", "", None, error=NASTY),
        SheetRow(tmp_path / "gone.jpg", "gone \udce9.jpg", "", None),
    ]
    write_sheet(tmp_path / "sheet.html", iter(rows), title=NASTY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sheet.html"]
    return Page((tmp_path / "sheet.html").read_text(encoding="utf-8"))


def test_everything_is_there_and_escaped(page):
    assert page.open == []
    assert not page.all("script") and not page.all("b")
    assert ("title", NASTY) in page.texts and ("h1", NASTY) in page.texts
    assert ("p", "a red wall") in page.texts and ("p", NASTY) in page.texts
    assert ("span", NASTY) in page.texts and ("span", f"{NASTY}.jpg") in page.texts
    assert ("span", "score -0.12") in page.texts and ("span", "score -1.25") in page.texts
    assert ("span", "gone ?.jpg") in page.texts
    assert ("footer", "4 pictures, 2 with an error") in page.texts
    assert page.all("html") == [{"lang": "en"}]


def test_pictures_are_small_jpegs_within_the_page_with_the_caption_as_alt(page):
    images = page.all("img")
    assert [image["alt"] for image in images] == ["a red wall", NASTY]
    sizes = []
    for image in images:
        kind, data = image["src"].split(",", 1)
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            sizes.append(picture.size)
        assert (image["width"], image["height"]) == tuple(map(str, sizes[-1]))
    assert sizes == [(480, 240), (40, 50)]  # never enlarged


def test_errors_have_cards(page):
    cards = [attributes for attributes in page.all("li") if attributes.get("class") == "failed"]
    assert len(cards) == 2
    errors = [text for tag, text in page.texts if "no such file" in text]
    assert len(errors) == 1 and "gone.jpg" in errors[0]
    assert ("p", NASTY) in page.texts


def test_nothing_is_fetched_from_elsewhere(page):
    assert not page.all("link") and not page.all("script") and not page.all("iframe")
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "style"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, name)
    style = next(text for tag, text in page.texts if tag == "style")
    assert not re.search(r"url\(|@import|https?:", style)
    assert "prefers-color-scheme: dark" in style


def test_a_page_is_complete_or_not_there(tmp_path):
    path = tmp_path / "sheet.html"
    path.write_text("the old page")

    def rows():
        yield SheetRow(PICTURE, "red.jpg", "a red wall", None)
        raise RuntimeError("the captioner failed")

    with pytest.raises(RuntimeError, match="captioner"):
        write_sheet(path, rows(), title="captions")
    assert path.read_text() == "the old page"
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.html"]
    with pytest.raises(OutputError, match=r"below\.html: cannot be written \(.+\)"):
        write_sheet(path / "below.html", [], title="captions")


def test_alternatives_may_be_something_else(tmp_path):
    rows = [
        SheetRow(PICTURE, "a", "b", 12.5, (("<c>", None),), score_name="BLEU-1", others="<R>"),
        SheetRow(PICTURE, "d", "e", None, (("f", 1.0),), others="References", unfolded=True),
    ]
    write_sheet(tmp_path / "sheet.html", rows, title="captions")
    page = Page((tmp_path / "sheet.html").read_text(encoding="utf-8"))
    assert page.all("details") == [{}, {"open": None}]
    assert [text for tag, text in page.texts if tag == "summary"] == ["<R>", "References"]
    scores = [attributes for attributes in page.all("span") if attributes.get("class") == "score"]
    assert len(scores) == 2
    assert ("span", "BLEU-1 12.50") in page.texts and ("span", "score 1.00") in page.texts


def test_one_picture(tmp_path):
    write_sheet(tmp_path / "one.html", [SheetRow(PICTURE, "a", "b", None)], title="one")
    assert "<footer>1 picture</footer>" in (tmp_path / "one.html").read_text(encoding="utf-8")


def test_regions_are_drawn_over_the_picture_with_their_labels(tmp_path):
    picture = Image.new("RGB", (200, 100))
    regions = (
        ("a <b>", ((0.1, 0.2, 0.5, 0.2, 0.5, 0.8, 0.1, 0.8),)),
        ("", ((0.0, 0.0, 1.0, 1.0, 0.5, 0.0), ())),
    )
    rows = [
        SheetRow(picture, "a.jpg", "a", None, regions=regions),
        SheetRow(picture, "b", "b", None),
    ]
    write_sheet(tmp_path / "sheet.html", rows, title="Captions")
    page = (tmp_path / "sheet.html").read_text("utf-8")
    assert page.count("<svg") == 1 and 'viewBox="0 0 200 100"' in page
    assert 'points="20.0,20.0 100.0,20.0 100.0,80.0 20.0,80.0"' in page
    assert 'points="0.0,0.0 200.0,100.0 100.0,0.0"' in page
    assert page.count("</text>") == 1 and ">a &lt;b&gt;</text>" in page
