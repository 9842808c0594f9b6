"""Images of Jupyter notebooks' Markdown cells."""

import json
import json.scanner
import re
from collections.abc import Callable
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from captax.alt.budget import check
from captax.alt.found import ImageUse
from captax.alt.markdown import find_markdown, last_heading
from captax.errors import CaptaxError

_CHARACTER = re.compile(r"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u....|\\.|.", re.DOTALL)


class NotebookError(CaptaxError):
    """A file with the name of a notebook is not one."""


def find_notebook(text: str) -> list[ImageUse]:
    """The images of a notebook's Markdown cells, in order, placed in the file's own characters.

    Raises `NotebookError` if `text` is not a notebook.
    """
    try:
        notebook = _Decoder().decode(text)
    except (ValueError, RecursionError) as error:
        raise NotebookError(f"is not JSON: {error}") from None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise NotebookError("is not a notebook of format 4: it has no list of cells")
    uses: list[ImageUse] = []
    heading = ""
    for cell in cells:
        if not isinstance(cell, dict) or cell.get("cell_type") != "markdown":
            continue
        source = cell.get("source", [])
        strings = source if isinstance(source, list) else [source]
        if not all(isinstance(each, _Placed) for each in strings):
            raise NotebookError("is not a notebook of format 4: a cell's source is not text")
        content = "".join(strings)
        if found := find_markdown(content, heading):
            places = [place for string in strings for place in _places(text, string)]
            uses += [_moved(use, places, text.isascii()) for use in found]
        heading = last_heading(content) or heading
    return uses


class _Placed(str):
    """A string of a JSON document, and the place after its opening quote."""

    place: int


def _scan(text: str, begin: int, strict: bool = True) -> tuple[_Placed, int]:
    check()
    value, end = scanstring(text, begin, strict)
    placed = _Placed(value)
    placed.place = begin
    return placed, end


class _Decoder(json.JSONDecoder):
    """The library's decoder, whose strings know where they are, and which checks the budget."""

    def __init__(self) -> None:
        super().__init__()
        scanner: Any = json.scanner
        self.parse_string = _scan
        for parser in ("parse_array", "parse_object", "parse_int", "parse_float"):
            setattr(self, parser, _checked(getattr(self, parser)))
        self.scan_once = scanner.py_make_scanner(self)


def _checked(parse: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*arguments: Any) -> Any:
        check()
        return parse(*arguments)

    return checked


def _places(text: str, string: _Placed) -> list[tuple[int, int]]:
    """Where each character of a string is written, from and to."""
    places = []
    at = string.place
    for _ in string:
        found = _CHARACTER.match(text, at)
        assert found is not None
        places.append((at, found.end()))
        at = found.end()
    return places


def _moved(use: ImageUse, places: list[tuple[int, int]], ascii_only: bool) -> ImageUse:
    """`use`, found in a cell, as an image of the file."""
    write = use.write
    before = use.start - 1  # an alt text never comes first: "![" or "<img" does
    begin = places[before][1] if use.start > 0 else (places[0][0] if places else 0)
    end = places[use.stop - 1][1] if use.stop > use.start else begin
    return ImageUse(
        start=begin,
        stop=end,
        write=_written(write, ascii_only),
        src=use.src,
        skip=use.skip,
        size=use.size,
        context=use.context,
    )


def _written(write: Callable[[str], str], ascii_only: bool) -> Callable[[str], str]:
    return lambda alt: json.dumps(write(alt), ensure_ascii=ascii_only)[1:-1]
