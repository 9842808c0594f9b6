"""Images of Markdown: which are found, and that nothing but their alt texts changes."""

import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from alt.documents import ALT, fill, kept
from captax.alt.markdown import find_markdown


def sources(text: str) -> list[str]:
    return [use.src for use in find_markdown(text) if use.skip is None]


def alts(text: str) -> list[tuple[str, str]]:
    """Address and alt text of every image in the page that a renderer makes of `text`."""
    page = MarkdownIt("commonmark").enable("table").render(text)
    return re.findall(r'<img src="([^"]*)"(?: alt="([^"]*)")?', page)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("![](a.png)", "![X](a.png)"),
        ("![ ](a.png 'T')", "![X](a.png 'T')"),
        ("![][id]\n\n[id]: a.png", "![X][id]\n\n[id]: a.png"),
        ("> - ![](<a.png>)", "> - ![X](<a.png>)"),
        ("## ![](a.png) ##", "## ![X](a.png) ##"),
        ("[![](a.png)](b)", "[![X](a.png)](b)"),
        ("| x |\n|---|\n| ![](a.png) |", "| x |\n|---|\n| ![X](a.png) |"),
        ("\\\\![](a.png)", "\\\\![X](a.png)"),
        ('one <img src="a.png"> two', 'one <img src="a.png" alt="X"> two'),
        ("<p>\n<img\nsrc=a.png>\n</p>", '<p>\n<img\nsrc=a.png alt="X">\n</p>'),
        ("---\nx: 1\n---\n![](a.png)\r\n", "---\nx: 1\n---\n![X](a.png)\r\n"),
        ("```{image} a.png\n```", "```{image} a.png\n:alt: X\n```"),
        ("  ~~~{figure} a.png\r\n  :width: 9\r\n  ~~~", None),
        ("```{image} a.png\n---\nx: 1\n---\n```", "```{image} a.png\n---\nalt: X\nx: 1\n---\n```"),
        ("{% if x %}![](a.png){% endif %}", "{% if x %}![X](a.png){% endif %}"),
    ],
)
def test_images_get_their_alt_text_in_place(text: str, filled: str | None) -> None:
    assert sources(text) == ["a.png"]
    filled = filled or "  ~~~{figure} a.png\r\n  :alt: X\r\n  :width: 9\r\n  ~~~"
    assert fill(text, find_markdown(text), "X") == filled


@pytest.mark.parametrize(
    "holder",
    [
        '=== "Tab"',
        "=== 'Tab'",
        '===! "Tab"',
        "!!! note",
        '!!! warning inline end "Mind *that*"',
        '!!! danger ""',
        "??? note",
        '???+ tip "Title"',
        "[^1]: A footnote",
        "Term\n\n:   A definition",
        "Term\n: A definition",
        "> !!! note",
        "1. One\n\n    !!! note",
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_what_mkdocs_indents_is_no_code(holder: str, ending: str) -> None:
    last = holder.rpartition("\n")[2]
    before = "> " if last[0] == ">" else " " * (len(last) - len(last.lstrip()))
    lines = ["# H", "", *holder.split("\n"), "", "    ![](a.png)", "", "    ```", "    ![](c)"]
    first = lines.index(last) + 1
    lines = [*lines, "    ```", ""]
    lines[first:] = [f"{before}{line}" for line in lines[first:]]
    text = ending.join([*lines, "Text", "", "    ![](code.png)", ""])
    uses = [use for use in find_markdown(text) if use.skip is None and use.src == "a.png"]
    assert sources(text) == ["a.png"] and uses[0].context.heading == "H"
    assert fill(text, uses, "X") == text.replace("![](a.png)", "![X](a.png)")


def test_holders_of_mkdocs_within_each_other() -> None:
    text = '=== "A"\n\n    !!! note\n\n        ![](a.png)\n\n    ![](b.png)\n\n'
    text += '=== "B"\n\n    ![](c.png)\n'
    assert sources(text) == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    "text",
    [
        "!!! This is loud.\n\n    ![](a.png)",
        "    !!! note\n\n        ![](a.png)",
        "```\n!!! note\n\n    ![](a.png)\n```",
        "Title\n===\n\n    ![](a.png)",
        '== "x"\n\n    ![](a.png)',
    ],
)
def test_what_only_looks_like_an_admonition_holds_code(text: str) -> None:
    assert sources(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "`![](a.png)`",
        "```\n![](a.png) <img src=a.png>\n```",
        "~~~~\n~~~\n![](a.png)\n~~~~",
        "    ![](a.png)",
        "\\![](a.png)",
        "!\\[](a.png)",
        "<!--\n\n![](a.png) <img src=a.png>\n\n-->",
        "<script>\n![](a.png)\n</script>",
        "---\nx: '![](a.png)'\ny: '<img src=a.png>'\n---\n",
        "![][nowhere]",
        "{{< figure '![](a.png)' >}}",
        "{# ![](a.png) #}",
        "`<img src=a.png>`",
        "\\<img src=a.png>",
        "[x]: <img src=a.png>",
        "```md\n```{image} a.png\n```",
    ],
)
def test_what_only_looks_like_an_image_is_none(text: str) -> None:
    assert sources(text) == []
    assert fill(text, find_markdown(text)) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("![A dog](a.png)", "has-alt"),
        ("![A dog][id]\n\n[id]: a.png", "has-alt"),
        ('<img src="a.png" alt="">', "decorative"),
        ("```{image} a.png\n:alt: A dog\n```", "has-alt"),
        ("```{image} a.png\n---\nalt: A dog\n---\n```", "has-alt"),
        ("> ```{image} a.png\n> ```", "unclear"),
        ("> <img src=a.png class='b\n> c'>", "unclear"),
    ],
)
def test_what_a_person_decided_is_left(text: str, reason: str) -> None:
    assert [use.skip for use in find_markdown(text)] == [reason]


def test_what_is_near_is_known() -> None:
    text = "# The *garden*\n\n[![](a.png 'Tulips') Go on](x)\n\n[![](b.png)](y) ![](c.png)"
    first, second, third = (use.context for use in find_markdown(text))
    assert (first.heading, first.title, first.link) == ("The garden", "Tulips", "Go on")
    assert (second.link, third.link) == ("", None)


def test_an_alt_text_reads_as_it_was_meant() -> None:
    text = "| a |\n|---|\n| ![](a.png) <img src='b.png'> |"
    after = fill(text, find_markdown(text))
    page = MarkdownIt("commonmark").enable("table").render(after)
    escaped = ALT.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    markdown, raw = re.findall(r'alt="([^"]*)"', page)
    assert markdown == escaped.replace('"', "&quot;")
    assert raw == re.sub(r"[{}|`]", lambda found: f"&#{ord(found[0])};", markdown)


PIECES = [
    "![](a.png)", "![ ](b.png)", "![][id]", "![x](c.png)", "<img src=d.png>", '<img src="e.png"/>',
    "<img src=f.png alt>", "![]", "![", "](", ")", "[", "]", "!", "\\", "`", "``", "```", "```\n",
    "~~~\n", "\n", "\n\n", "\r\n", "    ", "\t", "> ", "- ", "1. ", "# ", "<!--", "-->", "<div>",
    "</div>", "<pre>", "</pre>", "<a href=x>", "</a>", "[id]: g.png\n", "| a |\n|---|\n", "|", "*",
    "**", "_", "&", "<", ">", "---\n", "===\n", "{{", "}}", "é", "![](h.png 'T')", 
    "[![](i.png)](j)",
    "```{image} k.png\n", "(<", "\\\n", "$", "<script>", "</script>", "\u2028",
]  # fmt: skip


@settings(max_examples=120)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
@example("```{image} k.png\n---\n---\n```\n")
@example("> ```{image} k.png\n---\n")
@example("```{image} k.png\n---\n```{image} k.png\n")
def test_a_renderer_sees_the_same_document_but_for_alt(text: str) -> None:
    assume(not text.startswith("---"))  # front matter here, a line and a heading to CommonMark
    uses = find_markdown(text)
    after = fill(text, uses, "X")
    assert kept(text, after, uses, "X")
    parser = MarkdownIt("commonmark").enable("table")
    # In a directive, it is an option: on a line, or in a block of YAML.
    pages = [
        parser.render(each).replace("\n:alt: X", "").replace("---\nalt: X\n", "---\n")
        for each in (text, after)
    ]
    # What was empty, or missing, is "X" now; "X" occurs nowhere else.
    before, now = (
        re.sub(r' alt="[ X]?"(?=[ />])', "", page).replace(":alt: X\n", "") for page in pages
    )
    assert "X" not in now and now == before
    assert fill(after, find_markdown(after), "X") == after


def test_a_large_page_takes_no_time_to_speak_of() -> None:
    for piece in ("![](a.png)\n\n", "[", "<img ", "![]", "\\"):
        find_markdown(piece * 2_000)
