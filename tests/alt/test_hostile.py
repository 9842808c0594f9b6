"""Documents that are meant to delay their reader take time that grows with their size alone."""

import json
import time
from pathlib import Path

import pytest

from captax.alt import budget, markdown, survey
from captax.alt.html import find_html
from captax.alt.patch import unified_diff
from captax.alt.site import DocumentError, Edit, read_document

HTML = {
    "comments in a script": "<script>" + "<!--" * 50_000 + "</script>",
    "comments in a title of SVG": "<svg><title>" + "<!--" * 50_000 + "</title>",
    "CDATA in a title of SVG": "<svg><title>" + "<![CDATA[" * 50_000 + "</title>",
    "templates that are never closed": "<%" * 100_000,
    "comments that are never closed": "<!--" * 50_000,
    "a long number of a character": f"<h1>&#{'1' * 100_000};</h1><img src=a.png>",
    "one caption of many images": f"<figure>{'<img src=a.png>' * 5000}<figcaption>{'c' * 10**5}",
}
RST = {
    "spaces in an argument": ".. image:: a" + " " * 100_000 + "b",
    "images": ".. image:: a.png\n" * 20_000,
    "options": ".. image:: a.png\n" + "   :width: 1\n" * 20_000,
    "figures": ".. figure:: a.png\n\n   caption\n" * 10_000,
}
MARKDOWN = {
    "fences": "```{image} a.png\n```\n\n" * 4000,
    "marks": "".join("captaxmark" + "q" * n + " " for n in range(400)),
    "backslashes": ("\\" * 1000 + "![](a.png)") * 100,
    "marks that change what is around them": "[![](a)]: b\n\n[![](a)]\n\n" * 400,
    "nested lists": "".join(" " * n + "- a\n" for n in range(200)),
}
DOCUMENTS = [
    *((name, "a.html", text) for name, text in HTML.items()),
    *((name, "a.rst", text) for name, text in RST.items()),
    *((name, "a.md", text) for name, text in MARKDOWN.items()),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"), [case[1:] for case in DOCUMENTS], ids=[case[0] for case in DOCUMENTS]
)
def test_a_hostile_document_is_read_soon(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    started = time.process_time()
    surveyed = survey([tmp_path])
    lines = [each.line for each in surveyed.found]
    assert time.process_time() - started < 10
    assert lines == sorted(lines) and not surveyed.errors


MOST = markdown.MOST_CHARACTERS
LONGEST = {  # what is repeated in a Markdown document of the largest size
    "quotations": "> a\n\n",
    "items": "- a\n",
    "lists": "- a\n+ a\n",
    "brackets": "[",
    "images that do not end": "![](",
    "images": "![](a)\n\n",
    "images in images": "![" * 15 + "a" + "](b)" * 15,
    "rows": "|-|-|\n",
    "heads of tables": "|a|\n|-|\n",
    "definitions that do not end": '[a]: b "\n',
    "emphasis": "*a",
    "comments that do not end": "a <!--",
    "addresses": "[a](" + "\u00e9" * 5000 + ")",
    "marks": "[![](a)]: b\n\n[![](a)]\n\n",
}
TEXTS = {name: (part * MOST)[:MOST] for name, part in LONGEST.items()}
TEXTS["a wide table"] = "|a" * 1000 + "|\n" + "|-" * 1000 + "|\n" + "|\n" * (MOST // 2 - 3000)
TEXTS["very wide rows"] = (
    f"{'|a' * 124_000}|\n{'|-' * 124_000}|\n{'|' * 250_000}\n" + "|\n" * 99_000
)
TEXTS["quotations that go on"] = ">" * 18 + "a\n" + "b\n" * (MOST // 2 - 10)
TEXTS["a long address"] = "[a](" + "\u00e9" * (MOST - 5) + ")"
assert max(map(len, TEXTS.values())) <= MOST


def ends(folder: Path, name: str, content: str, seconds: float) -> list[str]:
    """Read a site of two documents, of which the other is honest: the errors of the one."""
    (folder / "0").mkdir()
    (folder / "0" / name).write_text(content)
    (folder / "b.md").write_text("![](a.png)")
    started = time.process_time()
    surveyed = survey([folder])
    assert time.process_time() - started < seconds
    assert surveyed.found[-1].document.path == folder / "b.md"
    assert all(str(error).startswith(f"{folder / '0' / name}: ") for error in surveyed.errors)
    return [str(error).partition(": ")[2] for error in surveyed.errors]


@pytest.mark.slow
@pytest.mark.nightly("largest hostile documents")
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_largest_hostile_document_is_read_or_reported_soon(tmp_path: Path, text: str) -> None:
    errors = ends(tmp_path, "a.md", text, 15)
    assert all(error.startswith("takes more than 8 seconds to read") for error in errors)


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_step_of_reading_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(budget, "SECONDS", 0.1)
    ends(tmp_path, "a.md", text[: MOST // 5], 3)


CELL = {"cell_type": "markdown", "source": "- a\n" * 1000}
OTHERS = {
    "cells": ("a.ipynb", json.dumps({"cells": [CELL] * 1000})),
    "numbers": ("a.ipynb", '{"cells": [' + "1," * 10**6 + "1]}"),
    "arrays": ("a.ipynb", '{"cells": [' + "[]," * 10**6 + "1]}"),
    "strings": ("a.ipynb", '{"cells": [' + '"",' * 10**6 + "1]}"),
    "objects": ("a.ipynb", '{"cells": [' + "{}," * 10**6 + "1]}"),
    "tags": ("a.html", "<a>" * 10**6),
    "attributes": ("a.html", "<a" + " b" * 10**6 + ">"),
    "templates": ("a.html", "{{a}}" * 10**6),
    "lines": ("a.rst", "a\n\n" * 10**6),
}


@pytest.mark.parametrize(("name", "content"), OTHERS.values(), ids=OTHERS)
def test_documents_of_every_kind_have_a_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str
) -> None:
    monkeypatch.setattr(budget, "SECONDS", 0.1)
    errors = ends(tmp_path, name, content, 10)
    assert errors == [
        "takes more than 0.1 seconds to read, so it is left as it is; split it, or take out what "
        "repeats itself"
    ]


def test_a_budget_is_for_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SECONDS", -1)
    with budget.budget(), pytest.raises(budget.BudgetError):
        budget.check()
    assert budget.check() is False


@pytest.mark.slow
def test_many_edits_of_one_line_are_a_patch_soon(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text("<img src=a>" * 40_000)
    document = read_document(path)
    edits = [Edit(use.start, use.stop, " alt=''") for use in document.images]
    started = time.process_time()
    assert b"alt=''" in unified_diff(document, edits, "a.html")
    assert time.process_time() - started < 10


def test_a_document_that_is_too_long_is_reported_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(markdown, "MOST_CHARACTERS", 100)
    cell = {"cell_type": "markdown", "source": "x" * 101}
    (tmp_path / "a.md").write_text("x" * 101)
    (tmp_path / "b.ipynb").write_text(json.dumps({"cells": [cell]}))
    (tmp_path / "c.md").write_text("![](a.png)")
    surveyed = survey([tmp_path])
    assert [each.src for each in surveyed.found] == ["a.png"]
    assert [type(error) for error in surveyed.errors] == [DocumentError] * 2
    for name, error in zip(("a.md", "b.ipynb"), surveyed.errors, strict=True):
        assert str(error).startswith(f"{tmp_path / name}: has 101 characters of Markdown")


def test_what_hides_a_script_in_a_script() -> None:
    for text, images in (
        ("<script><!-- <script> </script> --> </script><img src=a>", 1),
        ("<script><!-- --> <script> </script><img src=a></script>", 1),
        ("<script><!--><script> </script><img src=a></script>", 0),
        ("<svg><title><!-- < --></title></svg><img src=a>", 1),
        ("<svg><title><!-- < --> <b></title></svg><img src=a>", 0),
        ("<svg><title><![CDATA[ < ]]></title></svg><img src=a>", 1),
        ("<svg><title><!-- < </title></svg><img src=a>", 0),
    ):
        assert len(find_html(text)) == images, text
