"""The documents of a site, read and written back as bytes."""

import dataclasses
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from captax.alt.budget import budget
from captax.alt.found import ImageUse
from captax.alt.html import find_html
from captax.alt.markdown import find_markdown
from captax.alt.notebook import find_notebook
from captax.alt.rst import find_rst
from captax.errors import CaptaxError
from captax.files import CONFIG_LIMIT, check_inside, copy_mode, read_bytes, replacing

_HTML = (
    "html htm xhtml shtml jinja jinja2 j2 hbs handlebars mustache njk twig liquid ejs erb php phtml"
)
FINDERS: dict[str, Callable[[str], list[ImageUse]]] = {
    **{f".{suffix}": find_html for suffix in _HTML.split()},
    ".md": find_markdown,
    ".markdown": find_markdown,
    ".ipynb": find_notebook,
    ".rst": find_rst,
    ".rst.txt": find_rst,  # as Sphinx copies them beside its pages
}
_PASSED_OVER = ("node_modules", "__pycache__")


class DocumentError(CaptaxError):
    """A document cannot be read or written."""


@dataclasses.dataclass(frozen=True)
class Edit:
    """Characters of a document and what takes their place."""

    start: int
    stop: int
    text: str


@dataclasses.dataclass(frozen=True)
class Document:
    """A file of a site.

    Attributes:
        path: where it is.
        content: its bytes as they were when it was read.
        inside: the folder that it was found in; it is not written if a link leads out of it.
    """

    path: Path
    content: bytes
    inside: Path | None = None

    @cached_property
    def text(self) -> str:
        """The content as UTF-8; other bytes become surrogates (`surrogateescape`)."""
        return self.content.decode("utf-8", "surrogateescape")

    @cached_property
    def images(self) -> list[ImageUse]:
        """The images of the document, in order. Raises `DocumentError` if it cannot be parsed."""
        if b"\0" in self.content or b"\x1b" in self.content:
            raise DocumentError(
                f"{self.path}: is in UTF-16 or ISO-2022, or is not text; save it as UTF-8"
            )
        try:
            with budget():
                return _finder(self.path)(self.text)
        except CaptaxError as error:
            raise DocumentError(f"{self.path}: {error}") from None

    def line_of(self, use: ImageUse) -> int:
        """The line that `use` is in, from 1."""
        return bisect_left(self._line_ends, use.start) + 1

    @cached_property
    def _line_ends(self) -> list[int]:
        return [end.start() for end in re.finditer("\n", self.text)]

    def edit(self, use: ImageUse, alt: str) -> Edit:
        """The edit that gives `use` this alt text.

        Letters beyond ASCII are written as character references unless the document shows that it
        is in UTF-8.
        """
        written = use.write(alt)
        if not self._is_utf8:
            written = written.encode("ascii", "xmlcharrefreplace").decode("ascii")
        return Edit(use.start, use.stop, written)

    @cached_property
    def _is_utf8(self) -> bool:
        if any("\udc80" <= letter <= "\udcff" for letter in self.text):
            return False
        marked = not self.content.isascii() or b"utf-8" in self.content[:1024].lower()
        return marked or _finder(self.path) is not find_html

    def edited(self, edits: Sequence[Edit]) -> bytes:
        """The content after `edits`, which are in order and do not overlap."""
        pieces, at = [], 0
        for edit in edits:
            pieces += [self.text[at : edit.start], edit.text]
            at = edit.stop
        return "".join([*pieces, self.text[at:]]).encode("utf-8", "surrogateescape")

    def write(self, edits: Sequence[Edit]) -> None:
        """Make `edits` in the file, which is replaced as a whole and keeps its mode.

        Raises `DocumentError` if the file is no longer what was read, and `OutputError` if it
        cannot be written, or a link to it leads out of the site.
        """
        if self.inside is not None:
            check_inside(self.path, self.inside)
        try:
            now = read_bytes(self.path, limit=CONFIG_LIMIT)
        except OSError as error:
            raise DocumentError(f"{self.path}: cannot be read: {error.strerror}") from None
        if now != self.content:
            raise DocumentError(
                f"{self.path}: was changed since it was read, so it is left as it is; run again"
            )
        with replacing(self.path, inside=self.inside) as file:
            file.write(self.edited(edits))
            copy_mode(self.path, file)


def absolute(path: Path) -> Path:
    """`path` from the root of the file system; links stay as they are."""
    return Path(os.path.abspath(path))  # noqa: PTH100 (`resolve` follows links)


def _finder(path: Path) -> Callable[[str], list[ImageUse]]:
    name = path.name.lower()
    return next(finder for suffix, finder in FINDERS.items() if name.endswith(suffix))


def is_document(path: Path) -> bool:
    """Whether `path` has the suffix of a document."""
    return path.name.lower().endswith(tuple(FINDERS))


def find_documents(site: Path) -> Iterator[Path]:
    """The documents of a folder and those below, sorted, or the one file that `site` is.

    Hidden files and folders, `node_modules` and links to folders are skipped. Raises
    `DocumentError` if nothing has that name, or if it is a file of another kind.
    """
    if site.is_file():
        if not is_document(site):
            kinds = ", ".join(FINDERS)
            raise DocumentError(
                f"{site}: is not a document that can be read; give {kinds} or a folder"
            )
        yield site
        return
    if not site.is_dir():
        raise DocumentError(f"{site}: there is no such file or folder")
    for parent, folders, names in os.walk(site):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in _PASSED_OVER)
        for name in sorted(names):
            if not name.startswith(".") and is_document(Path(name)):
                yield Path(parent, name)


def read_document(path: Path, *, inside: Path | None = None) -> Document:
    """The document at `path`, which was found `inside` a folder.

    Raises `DocumentError` if it cannot be read.
    """
    try:
        return Document(path, read_bytes(path, limit=CONFIG_LIMIT), inside)
    except OSError as error:
        raise DocumentError(f"{path}: cannot be read: {error.strerror or error}") from None
