"""docs/new-family.md shows code that is in the named files, and commands that run."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from golden.families import CASES

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


def test_its_tests_are_there() -> None:
    """They are part of the suites; here, that each command names at least one."""
    for path, *options in commands("pytest"):
        names = re.findall(r"^def (test_\w+)", (ROOT / path).read_text(encoding="utf-8"), re.M)
        if "golden" in path or "parity" in path:
            names += CASES
        assert names
        if options:
            assert options[0] == "-k" and any(options[1] in name for name in names), path
    [[script, name]] = commands("python")
    assert (ROOT / script).is_file() and CASES[name].stored.is_dir()


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
