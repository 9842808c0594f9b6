"""Documents of a site, of each kind: they are read in time that grows with their size."""

import json
from collections.abc import Iterator
from pathlib import Path

from captax.alt import survey

KINDS = ("html/a.html", "markdown/a.md", "notebook/a.ipynb", "rst/a.rst")
WORDS = (
    *(b"<img src=a.png>", b"<img ", b"<a href=x>", b"</a>", b"<figure>", b"<figcaption>", b"<h1>"),
    *(b"<!--", b"-->", b"<![CDATA[", b"]]>", b"<script>", b"</script>", b"<title>", b"<svg>"),
    *(b"{{", b"}}", b"{%", b"%}", b"{#", b"<?", b"?>", b"<%", b"%>", b"${", b"&#", b"&amp;"),
    *(b"![](a.png)", b"![", b"](", b"[a]: b\n", b"`", b"```{image} a.png\n", b"**", b"_", b"> "),
    *(b"- ", b"    ", b"|a|\n|-|\n", b"\\", b"---\n", b"===\n", b"# ", b"<http:", b"captaxmark"),
    *(
        b".. image:: a.png\n",
        b".. figure:: a\n",
        b"   :alt: x\n",
        b".. note::\n",
        b"::\n",
        b".. |a|",
    ),
    *(b'{"cells": [', b'"cell_type": "markdown"', b'"source": [', b"\\u00e9", b"\n\n", b"\r\n"),
)
HTML = b"<h1>T</h1><a href=x><figure><img src={{ a }}><img src=a.png><figcaption>c</figure></a>"
MARKDOWN = (
    b"# T\n\n![](a.png) [![][i]](x) `![]`\n\n> - <img src=a.png>\n\n|a|\n|-|\n|b|\n\n[i]: b\n"
)
MYST = b"---\na: b\n---\n```{figure} a.png\n:name: x\n```\n"
RST = (
    b"T\n===\n\n.. figure:: a.png\n   :width: 9\n\n   caption\n\n.. note::\n\n   .. image:: b.png\n"
)


def seeds() -> Iterator[tuple[str, bytes]]:
    """One of each kind, and one that is long because it repeats itself."""
    html, markdown, notebook, rst = KINDS
    cells = [{"cell_type": "markdown", "source": [MARKDOWN.decode()]}, {"cell_type": "code"}]
    for times in (1, 100):
        yield html, HTML * times
        yield markdown, MARKDOWN * times
        yield notebook, json.dumps({"cells": cells * times}).encode()
        yield rst, RST * times
    yield markdown, MYST
    yield html, b"<script><!-- <script> --></script><svg><title><!-- --></title></svg><% %>"


def read(path: Path) -> None:
    """Find the images, and the line of each."""
    surveyed = survey([path], root=path.parent)
    for error in surveyed.errors:
        raise error
    assert all(each.line > 0 for each in surveyed.found)
