"""Folders that take the place of others, killed at every step."""

import ctypes
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from captax.checkpoints import exchange
from captax.checkpoints.directory import write_directory
from captax.checkpoints.state import CheckpointError

# Saves to a folder in a process that dies at one system call, which is a number, for every number.
KILLED = r"""
import ctypes, os, shutil, sys
from pathlib import Path
from captax.checkpoints import exchange

kept = lambda name: name not in ("config.json", "weights")
place, one_step = Path(sys.argv[1]), sys.argv[2] == "exchange"
count, last = 0, None

def dying(call):
    def counted(*arguments, **options):
        global count
        count += 1
        if count == last:
            os._exit(9)
        return call(*arguments, **options)
    return counted

def save(text):
    def write(folder):
        (folder / "config.json").write_text(text)
        (folder / "weights").write_text(text)
    exchange.replace_folder(place, write, check=lambda folder: None, kept=kept)

if not one_step:
    exchange._exchanged = lambda one, other: False
at = 0
while True:
    at += 1
    child = os.fork()
    if child == 0:
        last = at
        for name in "mkdir open write rename replace unlink rmdir link close listdir".split():
            setattr(os, name, dying(getattr(os, name)))
        exchange._exchanged = dying(exchange._exchanged)
        save(f"new {at}")
        os._exit(0)
    done = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    if one_step:
        assert place.is_dir(), at
    candidates = [place] if place.is_dir() else []
    candidates += [f for f in place.parent.glob(".model.captax-*/*") if f.name in ("new", "old")]
    sets = [f for f in candidates if (f / "weights").exists() and (f / "notes").exists()]
    sets = [f for f in sets if (f / "config.json").read_text() == (f / "weights").read_text()]
    assert sets, (at, os.listdir(place.parent))
    exchange.recover(place, kept)
    assert os.listdir(place.parent) == ["model"], (at, os.listdir(place.parent))
    texts = {(place / name).read_text() for name in ("config.json", "weights")}
    assert len(texts) == 1 and (place / "notes").read_text() == "mine", (at, texts)
    assert (place / ".git" / "HEAD").read_text() == "main"
    assert sorted(os.listdir(place)) == [".git", "config.json", "notes", "weights"], at
    if done:
        break
assert texts == {f"new {at}"}
print(at)
"""


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
WAYS = pytest.mark.parametrize("way", [pytest.param("exchange", marks=LINUX), "two renamings"])


def folder(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "config.json").write_text(text)

    return write


@WAYS
def test_a_kill_at_any_step_loses_nothing(tmp_path: Path, way: str) -> None:
    place = tmp_path / "model"
    (place / ".git").mkdir(parents=True)
    (place / ".git" / "HEAD").write_text("main")
    for name, text in (("config.json", "old"), ("weights", "old"), ("notes", "mine")):
        (place / name).write_text(text)
    command = [sys.executable, "-c", KILLED, str(place), way]
    steps = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert not steps.returncode, steps.stderr
    assert int(steps.stdout) > 15


def test_folders_that_captax_did_not_make_stay(tmp_path: Path) -> None:
    """Whatever they are called, and whatever is in them."""
    random = "0123456789abcdef"
    theirs = ["model.old", "model.partial", ".model.captax", f".model.captax-{random}"]
    theirs += [f".model.captax-{random[::-1]}"]
    for name in theirs:
        (tmp_path / name / "new").mkdir(parents=True)
        (tmp_path / name / "new" / "thesis.tex").write_text("dear")
    (tmp_path / theirs[-1] / exchange._MARK).write_text('{"new": 1}')
    for text in ("1", "2"):
        write_directory(tmp_path / "model", folder(text))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*theirs, "model"])
    for name in theirs:
        assert (tmp_path / name / "new" / "thesis.tex").read_text() == "dear"


def test_a_link_to_a_hidden_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / exchange._MARK).write_text(f'{{"captax": "{exchange._MARK}", "new": 1}}')
    (tmp_path / ".model.captax-0123456789abcdef").symlink_to("theirs")
    write_directory(tmp_path / "model", folder("1"))
    assert (tmp_path / "theirs" / exchange._MARK).exists()


def test_what_comes_while_it_is_saved_is_kept(tmp_path: Path) -> None:
    place = tmp_path / "model"
    write_directory(place, folder("1"))
    (place / "notes").write_text("old notes")

    def write(new: Path) -> None:
        (new / "config.json").write_text("2")
        (place / "more").write_text("more")
        (place / "fresh").write_text("fresh notes")
        (place / "fresh").replace(place / "notes")

    write_directory(place, write)
    found = {path.name: path.read_text() for path in place.iterdir()}
    assert found == {"config.json": "2", "more": "more", "notes": "fresh notes"}


def test_what_is_no_checkpoint_by_then_is_put_back(tmp_path: Path) -> None:
    place = tmp_path / "model"
    write_directory(place, folder("1"))

    def write(new: Path) -> None:
        (new / "config.json").write_text("2")
        place.rename(tmp_path / "moved")
        place.mkdir()
        (place / "thesis.tex").write_text("dear")

    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        write_directory(place, write)
    assert (place / "thesis.tex").read_text() == "dear"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "moved"]


@WAYS
def test_of_several_that_save_at_once_one_wins_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way != "exchange":
        monkeypatch.setattr(exchange, "_exchanged", lambda one, other: False)
    place = tmp_path / "model"
    write_directory(place, folder("first"))
    (place / "notes").write_text("mine")
    failed: list[BaseException] = []

    def save(text: str) -> None:
        def write(new: Path) -> None:
            (new / "config.json").write_text(text)
            (new / "other").write_text(text)

        try:
            for _ in range(20):
                write_directory(place, write)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=save, args=(f"{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not failed
    assert (place / "config.json").read_text() == (place / "other").read_text()
    assert (place / "notes").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@LINUX
def test_linux_exchanges_in_one_step(tmp_path: Path) -> None:
    assert hasattr(ctypes.CDLL(None), "renameat2")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert exchange._exchanged(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "other").exists() and (tmp_path / "other" / "one").exists()
