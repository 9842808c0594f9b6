"""Files that appear whole or not at all."""

import os
import stat
import threading
from pathlib import Path

import pytest

from captax.files import OutputError, replacing, write_text


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
    with pytest.raises(ValueError, match="no"), replacing(path) as partial:
        partial.write_text("half")
        raise ValueError("no")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path, "x")
    assert list(tmp_path.iterdir()) == []
