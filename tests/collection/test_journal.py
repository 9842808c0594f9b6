"""The journal: a batch is in it whole or not at all, and whoever reads it knows whose it is."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from captax.collection.choices import Resume
from captax.collection.item import CollectionError
from captax.collection.journal import JOURNAL, Journal
from captax.collection.record import Record
from captax.errors import CaptaxError
from captax.files import OutputError

SETTINGS = {"seed": 0, "words": ("a", "b")}
FIRST = [
    Record("a.jpg", (("a cat", -1.5), ("a dog", -2.0)), "", "", 0, "a.jpg", "was here\n"),
    Record("b\udcff\n.jpg", error="is empty"),
]
SECOND = [Record("c.jpg", (("é", 0.0),), copy_of="a.jpg", fingerprint=2**64 - 1)]


def journal(folder: Path, settings: dict[str, Any] = SETTINGS, **options: Any) -> Journal:
    return Journal(folder, settings, **options)


def filled(folder: Path) -> Path:
    with journal(folder) as made:
        made.append(FIRST)
        made.append(SECOND)
    return folder / JOURNAL


def read(folder: Path, **options: Any) -> list[list[Record]]:
    with journal(folder, **options) as made:
        return list(made.batches())


def test_what_is_taken_down_is_read_back(tmp_path: Path) -> None:
    filled(tmp_path)
    assert read(tmp_path) == [FIRST, SECOND]


def test_a_batch_cut_anywhere_is_not_there_and_its_place_is_taken(tmp_path: Path) -> None:
    path = filled(tmp_path)
    whole = path.read_bytes()
    start = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    for end in range(start, len(whole)):
        path.write_bytes(whole[:end])
        assert list(journal(tmp_path).batches()) == [FIRST]  # also before it is cut off
        with journal(tmp_path) as made:
            assert list(made.batches()) == [FIRST]
            made.append(SECOND)
        assert path.read_bytes() == whole


def test_a_line_longer_than_a_read_is_cut_off_whole(tmp_path: Path) -> None:
    path = filled(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"batch": [' + b"x" * 300_000)
    assert read(tmp_path) == [FIRST, SECOND] and path.read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    [
        *(b"{}", b"7", b"\xff", b'{"batch": [{"nom": "a"}]}', b'{"batch": 1}', b'{"batch": ["a"]}'),
        *(b'{"batch": [{"name": {}}]}', b'{"batch": [{"name": "a", "captions": [[1, 2]]}]}'),
        *(b"[" * 100_000, '{"batch": []}'.encode("utf-16-be")),
    ],
    ids=range(10),
)
def test_a_damaged_line_is_named_and_nothing_is_changed(tmp_path: Path, line: bytes) -> None:
    path = filled(tmp_path)
    damaged = path.read_bytes().splitlines()
    damaged[1] = line
    path.write_bytes(b"\n".join(damaged) + b"\n")
    with pytest.raises(CollectionError, match=r"journal.jsonl, line 2: is damaged"):
        read(tmp_path)
    assert path.read_bytes() == b"\n".join(damaged) + b"\n"
    assert read(tmp_path, resume=Resume.never) == []


@pytest.mark.parametrize("header", [b"{}", b"7", b"\xff", b'{"captax": 99, "settings": {}}'])
def test_a_journal_of_another_version_is_refused(tmp_path: Path, header: bytes) -> None:
    path = filled(tmp_path)
    path.write_bytes(header + b"\n" + path.read_bytes().split(b"\n", 1)[1])
    with pytest.raises(
        CollectionError, match="is not a journal that this version of captax can read"
    ):
        read(tmp_path)
    assert path.read_bytes().startswith(header + b"\n")
    assert read(tmp_path, resume=Resume.never) == []  # as the message says
    assert read(tmp_path) == []


def test_other_settings_are_refused_unless_told(tmp_path: Path) -> None:
    filled(tmp_path)
    other = {"seed": 1, "words": ("a", "b"), "new": None}
    with pytest.raises(CollectionError) as refused:
        read(tmp_path, settings=other)
    assert "(seed was 0 and is 1);" in str(refused.value) and "words" not in str(refused.value)
    assert read(tmp_path) == [FIRST, SECOND]
    assert read(tmp_path, settings=other, resume=Resume.always) == [FIRST, SECOND]
    with pytest.raises(CollectionError, match="seed was 1 and is 0"):
        read(tmp_path)
    assert read(tmp_path, resume=Resume.never) == []


def test_always_needs_something_to_go_on_with(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="nothing to resume; leave out --resume always"):
        read(tmp_path / "x", resume=Resume.always)
    assert not (tmp_path / "x").exists()


def test_a_retry_forgets_all_of_what_failed_and_nothing_else(tmp_path: Path) -> None:
    """What could not be written was captioned before: that too must be forgotten."""
    unwritten = [Record("c.jpg", error="cannot be written")]
    with journal(tmp_path) as made:
        for batch in (FIRST, SECOND, unwritten):
            made.append(batch)
    assert read(tmp_path, retry_errors=True) == [FIRST[:1]]
    assert read(tmp_path) == [FIRST[:1]]


def test_nothing_done_leaves_no_trace(tmp_path: Path) -> None:
    folder = tmp_path / "new" / ".captax" / "sidecar"
    with journal(folder):
        assert (folder / JOURNAL).exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "new").mkdir()
    with pytest.raises(KeyboardInterrupt), journal(folder):
        raise KeyboardInterrupt
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]


def test_two_at_once_are_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from captax.collection.journal import Journal\n"
        "with Journal(Path(sys.argv[1]), {}): print('in', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        with pytest.raises(CollectionError, match="another process is working on this job"):
            read(tmp_path)
        other.kill()
    filled(tmp_path)  # a lock does not outlive who held it
    with journal(tmp_path), pytest.raises(CollectionError, match="another process"):
        read(tmp_path)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file.*cannot be written"):
        read(tmp_path / "file" / "job")


def test_a_full_disk_leaves_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where half a batch found room."""
    with pytest.raises(OutputError, match="No space left"), journal(tmp_path) as made:
        file = made._file

        class Full:
            def write(self, line: bytes) -> int:
                if len(line) > 50:
                    return file.write(line[:40])
                raise OSError(28, os.strerror(28))

            def close(self) -> None:
                file.close()

        made.append(FIRST)
        made._file = Full()
        made.append(SECOND + SECOND)
    assert read(tmp_path) == [FIRST]
    (tmp_path / JOURNAL).write_bytes((tmp_path / JOURNAL).read_bytes().split(b"\n")[0] + b"\n")
    with pytest.raises(OutputError, match="No space left"), journal(tmp_path) as made:
        file = made._file
        made._file = Full()
        made.append(FIRST)
    assert not (tmp_path / JOURNAL).exists()


def test_partial_files_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / f".{JOURNAL}.123.partial").write_text("half")
    assert read(tmp_path) == [FIRST, SECOND]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "lock") == [JOURNAL]


def test_records_are_written_in_a_form_that_does_not_grow_with_what_is_empty() -> None:
    assert Record("a", error="x").write() == {"name": "a", "error": "x"}
    assert json.loads(json.dumps(FIRST[0].write()))["fingerprint"] == 0


@pytest.mark.parametrize("name", ["journal.jsonl", "lock", ".journal.jsonl.captax.partial"])
@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_planted_files_lead_nowhere(tmp_path: Path, name: str, kind: str) -> None:
    folder, victim = tmp_path / "job", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("dear")
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "link":
        (folder / name).symlink_to(victim)
    else:
        (folder / name).hardlink_to(victim)
    with contextlib.suppress(CaptaxError), Journal(folder, {}, resume=Resume.never) as journal:
        journal.append([Record("a", error="no")])
    assert victim.read_text() == "dear"


def test_a_folder_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "in" / ".captax").symlink_to(tmp_path / "outside")
    with (
        pytest.raises(
            OutputError, match=r"leads out of .*; remove the link, or add --follow-links"
        ),
        Journal(tmp_path / "in" / ".captax" / "sidecar", {}, inside=tmp_path / "in"),
    ):
        pass
    assert not list((tmp_path / "outside").iterdir())
