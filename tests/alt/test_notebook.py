"""Images of notebooks: edits of JSON that leave every other character as it is."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alt.documents import ALT, fill, kept
from captax.alt.markdown import find_markdown
from captax.alt.notebook import NotebookError, find_notebook


def notebook(*sources: Any, **options: Any) -> str:
    cells = [{"cell_type": "markdown", "metadata": {}, "source": each} for each in sources]
    code = {"cell_type": "code", "source": "![](no.png)", "outputs": ["<img src=no.png>"]}
    return json.dumps({"cells": [code, *cells], "nbformat": 4}, **options)


def joined(source: Any) -> str:
    return source if isinstance(source, str) else "".join(source)


def test_a_cell_of_lines_is_one_document() -> None:
    text = notebook(["# Head\n", '![](a.png) "q"\n', "<img\n", "src='b.png'>"], "![](c.png)")
    uses = find_notebook(text)
    assert [use.src for use in uses] == ["a.png", "b.png", "c.png"]
    assert [use.context.heading for use in uses] == ["Head"] * 3
    source = json.loads(fill(text, uses, "X"))["cells"][1]["source"]
    assert source == ["# Head\n", '![X](a.png) "q"\n', "<img\n", "src='b.png' alt=\"X\">"]


def test_letters_are_escaped_as_the_file_does() -> None:
    plain = notebook("é ![](a.png)", ensure_ascii=False)
    assert "![ü](a.png)" in fill(plain, find_notebook(plain), "ü")
    escaped = notebook("é ![](a.png)")
    assert "![\\u00fc](a.png)" in fill(escaped, find_notebook(escaped), "ü")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "it has no list of cells"),
        ('{"worksheets": []}', "it has no list of cells"),
        ('{"cells": [{"cell_type": "markdown", "source": 3}]}', "source is not text"),
    ],
)
def test_what_is_no_notebook_is_said(text: str, message: str) -> None:
    with pytest.raises(NotebookError, match=message):
        find_notebook(text)


PIECES = [
    "![](a.png)",
    "<img src=b.png>",
    "\n",
    '"',
    "\\",
    "é",
    "😀",
    "\t",
    "`",
    "/",
    "\u2028",
    "\x01",
]
SOURCES = st.lists(st.sampled_from(PIECES), max_size=8)


@settings(max_examples=50)
@given(
    st.lists(SOURCES | SOURCES.map("".join), max_size=3),
    st.booleans(),
    st.sampled_from([None, 1, "\t"]),
)
def test_only_the_cells_strings_change(sources: list[Any], ascii: bool, indent: Any) -> None:
    text = notebook(*sources, ensure_ascii=ascii, indent=indent)
    uses = find_notebook(text)
    after = fill(text, uses)
    assert kept(text, after, uses)
    before, now = json.loads(text), json.loads(after)
    for old, new in zip(before["cells"][1:], now["cells"][1:], strict=True):
        source = joined(old.pop("source"))
        assert joined(new.pop("source")) == fill(source, find_markdown(source), ALT)
    assert now == before
