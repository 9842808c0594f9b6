"""What an export folder is, and what cannot be exported."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captax.checkpoints.directory import CheckpointError
from captax.export import ExportError, export
from captax.files import OutputError
from captax.pipelines.captioner import Captioner

Captioners = Callable[[str], Captioner]


def test_a_folder_holds_all_that_captioning_takes(captioners: Captioners, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    export(captioners("tiny"), out, format="onnx", card="what it is for")
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "MODEL_CARD.md",
        "caption.py",
        "encoder.onnx",
        "export.json",
        "prefill.onnx",
        "step.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
        "weights.safetensors",
    }
    (out / "notes.txt").write_text("mine")
    export(captioners("tiny"), out, format="stablehlo")
    names = {path.name for path in out.iterdir()}
    assert names >= {"notes.txt", "encoder.jax"}
    assert not names & {"encoder.onnx", "MODEL_CARD.md"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_other_folders_are_left_alone(captioners: Captioners, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(CheckpointError, match="not an export; give another directory"):
        export(captioners("tiny"), tmp_path, format="stablehlo")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(OutputError, match="cannot be written"):
        export(captioners("tiny"), tmp_path / "thesis.tex" / "out", format="stablehlo")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "coreml"}, "there is no format 'coreml'; give one of onnx, stablehlo"),
        ({"batch_size": 0}, "batch_size is 0; give 1 or more"),
        ({"max_length": 1}, "max_length is 1; give 2 to 17"),
        ({"max_length": 18}, "max_length is 18; give 2 to 17"),
    ],
)
def test_what_cannot_be_asked_is_said(
    options: dict[str, Any], message: str, captioners: Captioners, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        export(captioners("tiny"), tmp_path / "out", **{"format": "onnx", **options})
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing_behind(
    captioners: Captioners, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captax.export import onnx_operators

    monkeypatch.delitem(onnx_operators.OPERATORS, "dot_general")
    with pytest.raises(ExportError, match="computes 'dot_general'"):
        export(captioners("tiny"), tmp_path / "out", format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_the_script_does_not_do_is_warned_of(captioners: Captioners, tmp_path: Path) -> None:
    plain = captioners("tiny")
    generation = dataclasses.replace(plain.generation, bad_words_ids=((4,),))
    captioner = Captioner(plain.model, plain.processor, plain.tokenizer, generation)
    with pytest.warns(UserWarning, match=r"asks for bad_words_ids in decoding, which caption\.py"):
        export(captioner, tmp_path / "out", format="stablehlo")


def test_onnx_is_needed_for_onnx_alone(
    captioners: Captioners, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("captax.export.onnx_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match=r"ONNX needs onnx, .* pip install 'captax\[export\]'"):
        export(captioners("tiny"), tmp_path / "out", format="onnx")
    export(captioners("tiny"), tmp_path / "out", format="stablehlo")


@pytest.mark.slow
def test_the_room_is_as_large_as_captions_can_be(captioners: Captioners, tmp_path: Path) -> None:

    def capacity(**options: Any) -> int:
        out = tmp_path / "out"
        plain = captioners("tiny")
        generation = dataclasses.replace(plain.generation, **options)
        parts = plain.model, plain.processor, plain.tokenizer
        export(Captioner(*parts, generation), out, format="stablehlo")
        found = json.loads((out / "export.json").read_text())["capacity"]
        return int(found)

    assert capacity(max_new_tokens=8) == 16  # all 16 positions: 8 and a prompt
    assert capacity(max_new_tokens=None) == 15  # such captions stop a token before
