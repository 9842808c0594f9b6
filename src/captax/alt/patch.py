"""Edits of documents: made in the files, or as a unified diff of bytes.

`git apply` and `patch -p1` take the diff.

The changed lines are known, so nothing is searched for. This takes linear time, which `difflib`
does not, and it writes the mark of a last line without a newline, which `difflib` leaves out.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from captax.alt.proposals import Proposal
from captax.alt.site import Document, Edit, absolute
from captax.errors import CaptaxError
from captax.files import Kind

_CONTEXT = 3
_FIRST = b"Alt texts that captax proposes\n"  # programs skip what comes before the first file
PATCH = Kind("patch", re.compile(re.escape(_FIRST)), (".patch", ".diff"))


@dataclasses.dataclass(frozen=True)
class Patch:
    """Every document that changes, with its edits in order."""

    edits: Sequence[tuple[Document, Sequence[Edit]]]

    @cached_property
    def base(self) -> Path:
        """The folder that files are named from: the current one, where it holds them all."""
        here = Path.cwd()
        paths = [absolute(document.path) for document, _ in self.edits]
        if all(path.is_relative_to(here) for path in paths):
            return here
        return Path(os.path.commonpath([path.parent for path in paths]))

    @property
    def content(self) -> bytes:
        """A line that says whose it is, and the unified diff; b"" if nothing changes."""
        diff = b"".join(
            unified_diff(
                document, edits, Path(os.path.relpath(document.path, self.base)).as_posix()
            )
            for document, edits in self.edits
        )
        return _FIRST + diff if diff else b""

    def command(self, file: Path | None) -> str:
        """The command that applies the patch, which is in `file` or comes by standard input."""
        there = "" if self.base == Path.cwd() else f" -d {self.base}"
        return f"patch -p1{there}" + (f" < {file}" if file is not None else "")

    def write(self) -> tuple[int, list[CaptaxError]]:
        """Make the edits in the files: how many were made, and why the others were not."""
        written, failures = 0, []
        for document, edits in self.edits:
            try:
                document.write(edits)
                written += len(edits)
            except CaptaxError as error:
                failures.append(error)
        return written, failures


def make_patch(proposals: Sequence[Proposal]) -> Patch:
    """The patch that gives images the alt texts proposed for them."""
    edits: dict[int, tuple[Document, list[Edit]]] = {}
    for each in proposals:
        if (edit := each.edit) is not None:
            edits.setdefault(id(each.document), (each.document, []))[1].append(edit)
    return Patch(list(edits.values()))


@dataclasses.dataclass
class _Change:
    """Old lines `start` to `stop` (from 0) become `new`."""

    start: int
    stop: int
    new: list[bytes]


def unified_diff(document: Document, edits: Sequence[Edit], name: str) -> bytes:
    """The patch that makes `edits`, in order, in a document called `name`; b"" without edits."""
    old = _lines(document.content)
    changes = list(_changes(document, edits, old))
    if not changes:
        return b""
    quoted = [_quoted(f"{side}/{name}") for side in "ab"]
    pieces = [b"--- " + quoted[0] + b"\n", b"+++ " + quoted[1] + b"\n"]
    grown = 0
    for hunk in _hunks(changes):
        first = max(0, hunk[0].start - _CONTEXT)
        last = min(len(old), hunk[-1].stop + _CONTEXT)
        growth = sum(len(change.new) - (change.stop - change.start) for change in hunk)
        before, after = last - first, last - first + growth
        header = f"@@ -{_range(first, before)} +{_range(first + grown, after)} @@\n"
        pieces.append(header.encode())
        grown += growth
        at = first
        for change in hunk:
            pieces += _written(b" ", old[at : change.start])
            pieces += _written(b"-", old[change.start : change.stop])
            pieces += _written(b"+", change.new)
            at = change.stop
        pieces += _written(b" ", old[at:last])
    return b"".join(pieces)


def _lines(content: bytes) -> list[bytes]:
    return re.findall(rb"[^\n]*\n|[^\n]+", content)


def _changes(document: Document, edits: Sequence[Edit], old: list[bytes]) -> Iterator[_Change]:
    """Changed lines, those of edits on the same or neighbouring lines in one."""
    text = document.text
    groups: list[tuple[int, int, list[Edit]]] = []  # first line, end, edits
    at = line = 0
    for edit in edits:
        line += text.count("\n", at, edit.start)
        at = edit.start
        stop = line + text.count("\n", edit.start, edit.stop) + 1
        if groups and line <= groups[-1][1]:
            first, _, grouped = groups[-1]
            grouped.append(edit)
            groups[-1] = (first, stop, grouped)
        else:
            groups.append((line, stop, [edit]))
    begins = [0]
    for each in old:
        begins.append(begins[-1] + len(each.decode("utf-8", "surrogateescape")))
    for start, stop, grouped in groups:
        shifted = [
            Edit(edit.start - begins[start], edit.stop - begins[start], edit.text)
            for edit in grouped
        ]
        new = _lines(Document(document.path, b"".join(old[start:stop])).edited(shifted))
        begin, end = 0, len(new)
        while start < stop and begin < end and old[start] == new[begin]:
            start, begin = start + 1, begin + 1
        while start < stop and begin < end and old[stop - 1] == new[end - 1]:
            stop, end = stop - 1, end - 1
        if start < stop or begin < end:
            yield _Change(start, stop, new[begin:end])


def _hunks(changes: Sequence[_Change]) -> Iterator[list[_Change]]:
    hunk: list[_Change] = []
    for change in changes:
        if hunk and change.start - hunk[-1].stop > 2 * _CONTEXT:
            yield hunk
            hunk = []
        hunk.append(change)
    if hunk:
        yield hunk


def _range(first: int, count: int) -> str:
    return f"{first + 1 if count else first},{count}"


def _written(sign: bytes, lines: Sequence[bytes]) -> list[bytes]:
    bare = b"\n\\ No newline at end of file\n"
    return [sign + line + (b"" if line.endswith(b"\n") else bare) for line in lines]


def _quoted(name: str) -> bytes:
    """A file's name as git writes it in a header: quoted where it must be."""
    content = name.encode("utf-8", "surrogateescape")
    if re.search(rb'[\x00-\x1f"\\\x7f]', content):
        escaped = re.sub(
            rb'[\x00-\x1f"\\\x7f-\xff]', lambda found: b"\\%03o" % ord(found[0]), content
        )
        return b'"' + escaped + b'"'
    return content + (b"\t" if b" " in content else b"")
