"""Patches, as the programs that apply them see them."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captax.alt.patch import unified_diff
from captax.alt.site import Document, Edit

GIT = ["git", "apply", "--whitespace=nowarn", "../it.patch"]
PATCH = ["patch", "--quiet", "-p1", "--input=../it.patch"]
PROGRAMS = [pytest.param(program, id=program[0]) for program in (GIT, PATCH)]


def edits_of(content: bytes) -> list[Edit]:
    """Edits at every "@": texts, among them lines of their own, instead of some or beside it."""
    text = Document(Path("x.md"), content).text
    texts = ["alt", "\n   :alt: x", "é", ""]
    places = [place for place, letter in enumerate(text) if letter == "@"]
    return [Edit(at, at + n % 2, texts[n % 4]) for n, at in enumerate(places)]


def applied(folder: Path, content: bytes, name: str, program: list[str]) -> bytes:
    """The file after `program` applied the patch of `edits_of`."""
    if shutil.which(program[0]) is None:
        pytest.skip(f"needs {program[0]}")
    shutil.rmtree(folder / "site", ignore_errors=True)
    path = folder / "site" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    patch = unified_diff(Document(path, content), edits_of(content), name)
    (folder / "it.patch").write_bytes(patch)
    if patch:
        result = subprocess.run(program, cwd=folder / "site", capture_output=True, check=False)
        assert result.returncode == 0, result.stderr
    return path.read_bytes()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"a\n@\nb\n", "a.md"),
        (b"@", "docs/no newline.md"),
        (b"a\r\n@ @\r\nb\r\n", "crlf.html"),
        (b"a\r\n@\r\nb", "crlf.html"),
        (b"\xe9@\n\xff\n", "latin.html"),
        (b"a\rb\rc @\r", "mac.html"),
        (b"@" + b"\n" * 20 + b"@\n" + b"x\n" * 7 + b"@\n@", "hunks.md"),
        (b"@\n", "\u00e9 \u65e5.md"),
        (b"@\n", 'quote " and \\.md'),
        (b"@\n", "two\nlines.md"),
    ],
)
def test_programs_make_the_same_edits(
    tmp_path: Path, content: bytes, name: str, program: list[str]
) -> None:
    expected = Document(Path(name), content).edited(edits_of(content))
    assert applied(tmp_path, content, name, program) == expected != content


LINES = st.lists(st.sampled_from([b"@", b"a", b"", b" @b@", b"- ", b"\xff", b"\x0c", b"--- a"]))


@settings(max_examples=20)
@given(LINES, st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_any_lines_can_be_patched(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ending: bytes, last: bool
) -> None:
    content = ending.join(lines) + (ending if last else b"")
    expected = Document(Path("a.md"), content).edited(edits_of(content))
    folder = tmp_path_factory.getbasetemp()
    for program in (GIT, PATCH):
        assert applied(folder, content, "a.md", program) == expected


def test_a_patch_reads_as_people_know_them() -> None:
    content = b"1\n2\n3\n4\n@5\n6\n7\n8\n9"
    document = Document(Path("a b.md"), content)
    assert unified_diff(document, [Edit(8, 9, "alt ")], "a b.md") == (
        b"--- a/a b.md\t\n+++ b/a b.md\t\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-@5\n+alt 5\n 6\n 7\n 8\n"
    )
    assert unified_diff(document, [], "a.md") == b""
