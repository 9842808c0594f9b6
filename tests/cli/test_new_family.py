"""docs/new-family.md shows code that is in the named files, and commands that run."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "new-family.md").read_text(encoding="utf-8")


def commands(program: str) -> list[list[str]]:
    blocks = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    lines = [line.split() for block in blocks for line in block.splitlines()]
    return [words[1:] for words in lines if words[0] == program]


def test_the_code_it_shows_is_in_the_files_it_names() -> None:
    shown = re.findall(r"`([\w/.]+)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(shown) == PAGE.count("```python\n")
    for path, code in shown:
        assert code in (ROOT / path).read_text(encoding="utf-8"), path


def test_its_links_and_paths_are_there() -> None:
    for path in re.findall(r"`((?:src|tests|docs|models|text|images)/[\w/.]+\.\w+)`", PAGE):
        assert (ROOT / path).is_file() or (ROOT / "src" / "captax" / path).is_file(), path


def test_its_tests_are_found() -> None:
    """They are part of the suites; here, that each command names at least one."""
    for arguments in commands("pytest"):
        found = subprocess.run(
            [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        skipped = "parity" in arguments[0] and "1 skipped" in found.stdout
        assert found.returncode == 0 or skipped, found.stdout
    [[script, name]] = commands("python")
    assert (ROOT / script).is_file() and (ROOT / "tests/golden/checkpoints" / name).is_dir()


def test_its_captioner_is_assembled_and_captions(
    run: Callable[..., Any], checkpoint: Callable[[str], Path], examples: Path, tmp_path: Path
) -> None:
    local = {
        "facebook/vit-msn-base": checkpoint("vit-msn"),
        "gpt2": checkpoint("gpt2"),
        "vit-msn-gpt2": tmp_path / "vit-msn-gpt2",
        "examples/cat.jpg": examples / "cat.jpg",
    }
    assert len(commands("captax")) == 2
    for arguments in commands("captax"):
        result = run(*(local.get(word, word) for word in arguments))
        assert result.code == 0, result.err
