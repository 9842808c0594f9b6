"""Images of HTML: which are found, and that nothing but their alt texts changes."""

import copy
from typing import Any

import html5lib
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from alt.documents import ALT, fill, kept
from captax.alt.html import find_html
from captax.alt.templates import MASK, mask_templates


def sources(text: str) -> list[str]:
    return [use.src for use in find_html(text) if use.skip is None]


def reasons(text: str) -> list[str | None]:
    return [use.skip for use in find_html(text)]


@pytest.mark.parametrize(
    ("tag", "filled"),
    [
        ('<img src="a.png">', '<img src="a.png" alt="X">'),
        ("<img src='a.png'/>", "<img src='a.png' alt=\"X\"/>"),
        ("<img src=a.png>", '<img src=a.png alt="X">'),
        ("<img src=a.png />", '<img src=a.png alt="X" />'),
        ("<IMG\n SRC = 'a.png'\n WIDTH=90>", "<IMG\n SRC = 'a.png' alt=\"X\"\n WIDTH=90>"),
        ('<img src="a.png"class=b>', '<img src="a.png" alt="X"class=b>'),
        (
            '<img title="" src="a.png" src="b.png">',
            '<img title="" src="a.png" alt="X" src="b.png">',
        ),
        ('<img class="{{ c }}" src="a.png">', '<img class="{{ c }}" src="a.png" alt="X">'),
        ('<img data-x="a>b" src="a.png">', '<img data-x="a>b" src="a.png" alt="X">'),
        ('<img src="data:," data-src="a.png">', '<img src="data:," data-src="a.png" alt="X">'),
    ],
)
def test_the_alt_text_stands_after_the_address(tag: str, filled: str) -> None:
    assert sources(tag) == ["a.png"]
    assert fill(tag, find_html(tag), "X") == filled


@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        ('<img src="a.png" alt="A dog">', "has-alt"),
        ('<img src="a.png" ALT=dog>', "has-alt"),
        ('<img src="a.png" alt="{{ x }}">', "has-alt"),
        ('<img src="a.png" alt="">', "decorative"),
        ('<img src="a.png" alt>', "decorative"),
        ('<img alt src="a.png" alt="second">', "decorative"),
        ('<img src="a.png" role="presentation">', "decorative"),
        ('<img src="a.png" role=NONE>', "decorative"),
        ('<img src="a.png" aria-hidden="true">', "decorative"),
        ('<img src="a.png" aria-label="Dog">', "named"),
        ('<img src="a.png" aria-labelledby="d">', "named"),
        ('<img src="a.png" title="Dog">', "named"),
        ('<img {% if x %}alt="y"{% endif %} src="a.png">', "template"),
        ('<img src="a.png" {{ attrs|safe }}>', "template"),
        ('<img src="a.png" <?php echo $alt ?>>', "template"),
        ('<img src="a.png" :alt="text">', "template"),
        ('<img src="a.png" [attr.alt]="text">', "template"),
        ('<img src="a.png" v-bind="all">', "template"),
        ('<img src="a.png" {...all}>', "template"),
    ],
)
def test_what_a_person_decided_is_left(tag: str, reason: str) -> None:
    assert reasons(tag) == [reason]
    assert fill(tag, find_html(tag)) == tag


@pytest.mark.parametrize(
    "text",
    [
        "<!-- <img src=a.png> -->",
        "<!--[if IE]><img src=a.png><![endif]-->",
        "<!-- open <img src=a.png>",
        "<script>'<img src=a.png>'</script>",
        "<SCRIPT type=text/template><img src=a.png></SCRIPT >",
        "<script><!-- <script> </script> <img src=a.png> --></script>",
        "<style>/* <img src=a.png> */</style>",
        "<textarea><img src=a.png></textarea>",
        "<title><img src=a.png></title>",
        "<plaintext><img src=a.png>",
        '<p title="<img src=a.png>">',
        "<img src=a.png",
        '<img src="a.png>',
        "&lt;img src=a.png>",
        "{# <img src=a.png> #}",
        "{% set x = '<img src=a.png>' %}",
        "{{ '<img src=a.png>' }}",
        "<?php if ($a > 1) { echo '<img src=a.png>'; } ?>",
        "<?php echo '<img src=a.png>';",
        "<% '<img src=a.png>' %>",
        "<svg><![CDATA[<img src=a.png>]]></svg>",
        "<imgs src=a.png>",
    ],
)
def test_what_only_looks_like_an_image_is_none(text: str) -> None:
    assert find_html(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "<!-->{}-->",
        "<!-- x --!>{}",
        "<![if !IE]>{}<![endif]>",
        "<script></script>{}",
        "<script><!-- x --> </script>{}",
        "<template>{}</template>",
        "<pre>{}</pre>",
        "<noscript>{}</noscript>",
        "{{% if x %}}{}{{% endif %}}",
        "{{{{#each x}}}}{}{{{{/each}}}}",
        "<?php if (x): ?>{}<?php endif ?>",
        "a < b {}",
        "</ >{}",
        "<picture><source srcset=b.webp>{}</picture>",
        '<a href="{{{{ url("x") }}}}">{}</a>',
    ],
)
def test_images_are_found_among_difficult_neighbours(text: str) -> None:
    assert sources(text.format("<img src=a.png>")) == ["a.png"]


def test_what_is_near_is_known() -> None:
    text = """<h2>The <b>garden</b></h2>
    <figure><a href="x"><img src="a.png" width="640px" height=48></a>
    <figcaption>Tulips &amp; bees</figcaption></figure>
    <a href="y"><img src="b.png"> Go on</a> <img src="c.png" width="100%">"""
    first, second, third = find_html(text)
    near = first.context
    assert (near.heading, near.caption, near.link) == ("The garden", "Tulips & bees", "")
    assert first.size == (640, 48)
    assert (second.context.link, second.context.caption) == ("Go on", "")
    assert third.context.link is None and third.size == (None, None)


def test_masking_keeps_every_place() -> None:
    text = "a{{ b\r\n }}c{% d %}e<?f?>"
    masked = mask_templates(text)
    assert len(masked) == len(text) and masked.replace(MASK, "") == "a\r\nce"


def document(text: str, container: str) -> Any:
    parser = html5lib.HTMLParser(html5lib.getTreeBuilder("etree"), namespaceHTMLElements=False)
    return parser.parseFragment(text, container)


def same_but_for_alt(before: Any, after: Any, alt: str) -> bool:
    """Whether two trees are equal once alt texts of `alt` are taken out of images without one."""
    after = copy.deepcopy(after)
    for old, new in zip(before.iter(), after.iter(), strict=True):
        if new.tag == "img" and new.get("alt") == alt and old.get("alt") is None:
            del new.attrib["alt"]
    parts = [
        [(e.tag, dict(e.attrib), e.text, e.tail) for e in tree.iter()] for tree in (before, after)
    ]
    return parts[0] == parts[1]


PIECES = [
    "<img src=a.png>", "<img src='b.png'/>", '<IMG SRC="c.png" alt>', "<img src=d.png/ width=3>",
    '<img src="e.png"alt="x">', "<img", "<img src=", " src=f.png", ">", "<", "</", "/>", "=", '"',
    "'", " ", "\n", "\r\n", "<!--", "-->", "--!>", "<!-", "<![CDATA[", "]]>", "<script>",
    "</script>", "<script ", "<style>", "</style>", "<textarea>", "</textarea>", "<title>",
    "</title>", "<svg>", "</svg>", "<template>", "</template>", "<a href=x>", "</a>", "<p>",
    "</p>", "<h1>", "</h1>", "<figure>", "<figcaption>", "</figure>", "<?x", "<!doctype html>", "é",
    "&amp;", "\ufeff", "\xa0", "alt", "<b", "<noscript>", "</noscript>", "<xmp>", "</xmp>",
    "<img/src=g.png>",
]  # fmt: skip


@settings(max_examples=150)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
@example("<svg><img src=a.png><script><img src=a.png></script>")
def test_an_html_parser_sees_the_same_document_but_for_alt(text: str) -> None:
    uses = find_html(text)
    after = fill(text, uses)
    assert kept(text, after, uses)
    assert same_but_for_alt(document(text, "div"), document(after, "div"), ALT)
    assert fill(after, find_html(after)) == after


TEMPLATES = ["{{ x }}", "{{", "}}", "{%", "%}", "{#", "#}", "<?php", "?>", "<%", "%>", "${x}"]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(PIECES + TEMPLATES), max_size=14).map("".join))
def test_templates_survive(text: str) -> None:
    uses = find_html(text)
    after = fill(text, uses)
    assert kept(text, after, uses)
    assert fill(after, find_html(after)) == after


def test_a_large_page_takes_no_time_to_speak_of() -> None:
    # Each of these made a naive pattern quadratic.
    for piece in ("<!--", "{{", "<?php ", "<script><!--<script>", "<img src='", "<", "{%", "<a "):
        find_html(piece * 20_000)
