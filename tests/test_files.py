"""Files that appear whole or not at all, and JSON as others wrote it."""

import contextlib
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from captax import files
from captax.errors import CaptaxError
from captax.files import (
    OutputError,
    is_file,
    make_folder,
    open_regular,
    own_file,
    parse_json,
    read_bytes,
    read_text,
    replacing,
    write_text,
)


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    # Stands for /dev/null and the like, over which a rename would be a calamity.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text(encoding="utf-8")))
    reader.start()
    write_text(pipe, "é")
    reader.join(timeout=10)
    assert read == ["é"] and stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    link.symlink_to("real.txt")
    write_text(link, "new")
    assert link.is_symlink() and real.read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="no"), replacing(path) as file:
        file.write(b"half")
        raise ValueError("no")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path, "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [None, 1.5, {"a": ["b", {}]}, "caf\u00e9 \U0001f600 \\ud800"])
def test_json_is_what_it_says(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False)) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('["fine", "\\uD83D\\uDE00 \\udc00"]', "half a character"),
        ('{"\\ud800": 1}', "half a character"),
        ("1" * 5000, "digits"),
        ("{", "Expecting"),
    ],
)
def test_json_that_is_none_is_a_value_error(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(text)


def test_objects_are_made_of_their_pairs() -> None:
    assert parse_json('{"a": 1, "a": 2}', pairs=list) == [("a", 1), ("a", 2)]


def test_no_file_has_a_name_that_none_can_have(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    assert is_file(tmp_path / "there")
    for name in ("gone", "x" * 300, "a\0b", "half \ud800", "there/x", "."):
        assert not is_file(tmp_path / name)


@pytest.mark.parametrize(
    ("quoted", "shown"),
    [
        ("a\nb\r\u2028\x85", r"a\nb\r\u2028\x85"),
        ("\x1b[31mred\0", r"\x1b[31mred\x00"),
        ("half \ud800, \udcff", r"half \ud800, \udcff"),
        (
            "caf\u00e9  \u00a0\U0001f468\u200d\U0001f469",
            "caf\u00e9  \u00a0\U0001f468\u200d\U0001f469",
        ),
    ],
)
def test_an_error_is_one_line_that_can_be_printed(quoted: str, shown: str) -> None:
    message = str(CaptaxError(f"{quoted}: no such file"))
    assert message == f"{shown}: no such file"
    assert message.splitlines() == [message] and message.encode()


@pytest.fixture
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("elsewhere") / "victim"
    path.write_text("dear")
    return path


def plant(kind: str, path: Path, victim: Path) -> None:
    """Make `path` what leads a careless writer to `victim`."""
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "hard link":
        path.hardlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()


KINDS = ("link", "hard link", "pipe", "folder")


@pytest.mark.parametrize("kind", KINDS)
def test_a_partial_file_is_made_and_never_opened(tmp_path: Path, victim: Path, kind: str) -> None:
    for owner in ("captax", str(os.getpid())):
        plant(kind, tmp_path / f".a.txt.{owner}.partial", victim)
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new" and victim.read_text() == "dear"
    assert not (tmp_path / "a.txt").is_symlink()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".a.txt.captax.partial").write_text("half")
    write_text(tmp_path / "a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as one:
        one.write(b"o")
        with replacing(path) as two:
            two.write(b"two")
        one.write(b"ne")
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("own", [False, True])
def test_what_is_written_inside_a_folder_never_leaves_it(
    tmp_path: Path, victim: Path, kind: str, own: bool
) -> None:
    plant(kind, tmp_path / "a.txt", victim)
    refused = kind == "link" and not own
    with pytest.raises(OutputError, match="leads out of") if refused else contextlib.nullcontext():
        write_text(tmp_path / "a.txt", "new", inside=tmp_path, own=own)
    assert victim.read_text() == "dear" and (tmp_path / "a.txt").is_symlink() is refused
    assert len(list(tmp_path.iterdir())) == 1


def test_folders_on_the_way_may_be_links_that_stay_inside(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "stays").symlink_to(tmp_path / "in")
    (tmp_path / "leaves").symlink_to(victim.parent)
    write_text(tmp_path / "stays" / "deep" / "new" / "a.txt", "new", inside=tmp_path)
    assert (tmp_path / "in" / "deep" / "new" / "a.txt").read_text() == "new"
    for own in (False, True):
        for path in (tmp_path / "leaves" / "a.txt", tmp_path / "leaves" / "new" / "a.txt"):
            with pytest.raises(OutputError, match="leads out of"):
                write_text(path, "new", inside=tmp_path, own=own)
    with pytest.raises(OutputError, match="leads out of"):
        own_file(tmp_path / "leaves" / "victim", "ab", inside=tmp_path)
    with pytest.raises(OutputError, match="leads out of"):
        make_folder(tmp_path / "leaves" / "new", inside=tmp_path)
    assert [path.name for path in victim.parent.iterdir()] == ["victim"]


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="folders are held open on Linux")
def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "sub").mkdir()
    with replacing(tmp_path / "sub" / "victim", inside=tmp_path) as file:
        (tmp_path / "sub").rename(tmp_path / "moved")
        (tmp_path / "sub").symlink_to(victim.parent)
        file.write(b"new")
    assert victim.read_text() == "dear" and (tmp_path / "moved" / "victim").read_text() == "new"


@pytest.mark.parametrize("mode", ["rb", "ab", "r+b"])
@pytest.mark.parametrize("kind", KINDS)
def test_files_of_its_own_are_never_anything_else(
    tmp_path: Path, victim: Path, kind: str, mode: str
) -> None:
    path = tmp_path / "log.jsonl"
    plant(kind, path, victim)
    if kind != "hard link":
        with pytest.raises(
            OutputError, match=r"log\.jsonl: is a link, a folder, a device or a pipe"
        ):
            own_file(path, mode)
    else:
        with own_file(path, mode) as file:
            if mode != "rb":
                file.write(b"DEAR")
        assert path.read_text() == {"rb": "dear", "ab": "dearDEAR", "r+b": "DEAR"}[mode]
    assert victim.read_text() == "dear"


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    pipe, huge, small = tmp_path / "pipe", tmp_path / "huge", tmp_path / "small"
    os.mkfifo(pipe)
    small.write_bytes(b"abc")
    with huge.open("wb") as file:
        file.truncate(2**40)
    for path, why in ((pipe, "regular"), (Path("/dev/zero"), "regular"), (huge, "more than")):
        with pytest.raises(OSError, match=why):
            read_bytes(path, limit=1000)
    with pytest.raises(OSError, match="regular"):
        open_regular(pipe)
    with pytest.raises(OSError, match="null character"):
        read_bytes("a\0b", limit=1)
    assert read_bytes(small, limit=3) == b"abc"
    with pytest.raises(OSError, match="more than 2 bytes"):
        read_bytes(small, limit=2)


def test_a_pipe_that_a_user_names_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("é" * 100_000,))
    writer.start()
    assert read_text(pipe, limit=10**6, pipes=True) == "é" * 100_000
    writer.join(timeout=10)


def test_a_pipe_without_a_writer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_PATIENCE", 0)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="nothing writes to"):
        read_text(tmp_path / "pipe", limit=10, pipes=True)
