"""What commands are given by name: the built-in captioner, paths on standard input, places."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import captax
from captax.checkpoints import hub

Run = Callable[..., Any]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.effect_noise((40, 30), 50).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def give(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))


@pytest.mark.slow
def test_default_is_the_built_in_captioner_everywhere(
    run: Run, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.fetch("default") == hub.fetch("default", offline=True)
    assert (hub.fetch("default") / "config.json").is_file()
    assert type(captax.load("default")) is type(captax.load())
    given = run("caption", picture, "--model", "default")
    assert given.code == 0 and given.out == run("caption", picture).out
    converted = run("convert", "default", tmp_path / "out")
    assert converted.code == 0 and (tmp_path / "out" / "config.json").is_file()


def test_caption_reads_paths_from_standard_input(
    run: Run, model: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = picture.with_name("é b.png")
    other.write_bytes(picture.read_bytes())
    give(monkeypatch, f"{picture}\n\n{other}\r\n".encode())
    found = run("caption", "-", "--model", model, "--format", "jsonl")
    paths = [json.loads(line)["path"] for line in found.out.splitlines()]
    assert found.code == 0 and paths == [str(picture), str(other)]
    give(monkeypatch, b"\n")
    empty = run("caption", "-", "--model", model)
    assert empty.code == 2 and "standard input: names no picture" in empty.err
    assert "is given more than once" in run("caption", "-", "-", "--model", model).err


@pytest.mark.parametrize("command", ["convert", "assemble"])
def test_what_is_there_is_not_replaced_unless_told(
    run: Run, checkpoint: Callable[..., Path], tmp_path: Path, command: str
) -> None:
    halves = ("vit", "gpt2") if command == "assemble" else ("vit",)
    arguments = (command, *map(checkpoint, halves), tmp_path / "out")
    (tmp_path / "out").mkdir()  # is empty
    assert run(*arguments).code == 0
    before = (tmp_path / "out" / "config.json").stat()
    refused = run(*arguments)
    assert refused.code == 2 and refused.err.endswith(
        "is there already; give another place, or add --overwrite\n"
    )
    assert (tmp_path / "out" / "config.json").stat() == before
    assert run(*arguments, "--overwrite").code == 0
    assert (tmp_path / "out" / "config.json").stat() != before
