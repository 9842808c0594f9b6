"""Which captions say that their picture is a graphic."""

import pytest

from captax.text import graphic_in


@pytest.mark.parametrize(
    ("caption", "word"),
    [
        ("a bar chart with five colored columns", "chart"),
        ("A screenshot of a web page with a photo", "screenshot"),
        ("the front page of an old newspaper", "page"),
        ("a black and white map shows rivers", "map"),
        ("a labelled diagram", "diagram"),
        ("an old web site", "web site"),
    ],
)
def test_a_graphic_is_named_by_its_subject(caption: str, word: str) -> None:
    assert graphic_in(caption) == word


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a man with a map",
        "a smartphone with a map on the screen",
        "a hand signs a paper document",
        "a young man holds a folded document",
        "an official signing documents",
        "a photograph of a dog",  # a graph is not in it
        "a painting of a woman reading a page",
        "a bridge, a chart and a plot",
    ],
)
def test_a_graphic_in_a_picture_does_not_make_it_one(caption: str) -> None:
    assert graphic_in(caption) is None
