"""Images of reStructuredText."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alt.documents import fill
from captax.alt.rst import find_rst


def test_an_option_is_added_where_options_go() -> None:
    text = """Title
=====

.. image:: a.png

.. figure:: b.png
   :width: 90px

   The garden.

- .. image:: not-at-the-beginning-of-its-line.png

.. note::

     .. image:: c.png
          :target: x"""
    uses = find_rst(text)
    assert [use.src for use in uses] == ["a.png", "b.png", "c.png"]
    assert [use.context.heading for use in uses] == ["Title"] * 3
    assert [use.context.caption for use in uses] == ["", "The garden.", ""]
    assert [use.context.link for use in uses] == [None, None, ""] and uses[1].size == (90, None)
    added = {4: "   :alt: X", 7: "   :alt: X", 17: "          :alt: X"}
    lines = fill(text, uses, "X").split("\n")
    assert {at: line for at, line in enumerate(lines) if "X" in line} == added
    assert "\n".join(line for line in lines if "X" not in line) == text


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_line_ends_are_those_of_the_directive(ending: str) -> None:
    text = f".. image:: a.png{ending}"
    assert fill(text, find_rst(text), "X") == f".. image:: a.png{ending}   :alt: X{ending}"


@pytest.mark.parametrize(
    "text",
    [
        "Thus::\n\n   .. image:: a.png\n",
        ".. code-block:: rst\n\n   .. image:: a.png\n",
        ".. a comment\n\n   .. image:: a.png\n",
        "..\n   .. image:: a.png\n",
        ".. unknown::\n\n   .. note::\n\n      .. image:: a.png\n",
        ".. |x| image:: a.png\n",
        "text .. image:: a.png\n",
        ".. image: a.png\n",
    ],
)
def test_what_only_looks_like_an_image_is_none(text: str) -> None:
    assert find_rst(text) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (".. image:: a.png\n   :alt: A dog\n", "has-alt"),
        (".. image:: a.png\n   :width: 3\n   :alt: A dog\n", "has-alt"),
        (".. image:: a.png\n   :alt:\n", "decorative"),
        (".. image::\n   a.png\n", "unclear"),
        (".. image:: a.png\n   b.png\n", "unclear"),
    ],
)
def test_what_a_person_decided_is_left(text: str, reason: str) -> None:
    assert [use.skip for use in find_rst(text)] == [reason]


PIECES = [
    ".. image:: a.png", ".. figure:: b.png", "\n", "\n\n", "\r\n", "   ", "\t", "   :alt: x\n",
    "   :width: 3\n", ".. note::\n", ".. code::\n", "..\n", "text::\n", "- ", 
    "Title\n====\n", ".. x",
    "\x0c", "\u2028",
]  # fmt: skip


@settings(max_examples=80)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_nothing_but_lines_of_alt_is_added(text: str) -> None:
    uses = find_rst(text)
    after = fill(text, uses, "X")
    restored = after
    for ending in ("\r\n", "\n"):
        for indent in {use.write("X").strip("\r\n").split(":")[0] for use in uses if not use.skip}:
            restored = restored.replace(f"{ending}{indent}:alt: X", "")
    assert restored == text and after.count(":alt: X") == sum(use.skip is None for use in uses)
    assert fill(after, find_rst(after), "X") == after
