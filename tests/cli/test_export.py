import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vision_language_files import write

Run = Callable[..., Any]


@pytest.mark.slow
def test_a_folder_is_written_and_its_script_runs(
    run: Run, model: Path, examples: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--dtype", "bfloat16", "--max-length", "9")
    result = run("export", model, out, "--format", "onnx", *options)
    assert (result.code, result.out) == (0, "")
    assert result.err == (f"captax: wrote {out}\ncaptax: try: python {out}/caption.py PICTURES\n")
    manifest = json.loads((out / "export.json").read_text())
    assert (manifest["format"], manifest["dtype"], manifest["capacity"]) == ("onnx", "bfloat16", 8)
    command = [sys.executable, out / "caption.py", examples / "cat.jpg"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"{examples / 'cat.jpg'}\t") and said.count("\n") == 1


def test_wrong_use_is_one_line(
    run: Run, model: Path, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    def refused(*arguments: object) -> str:
        result = run("export", *arguments)
        assert result.code == 2 and result.err.count("\n") == 1
        return str(result.err)

    assert "which cannot caption" in refused(checkpoint("vit-classifier"), tmp_path / "out")
    said = refused(write("smolvlm", tmp_path / "smolvlm"), tmp_path / "out")
    assert "vision-language models cannot be exported yet; give another captioner: a vi" in said
    shutil.rmtree(tmp_path / "smolvlm")
    assert "coreml" in refused(model, tmp_path / "out", "--format", "coreml")
    assert "is an input of this command" in refused(model, model, "--format", "stablehlo")
    (tmp_path / "mine").mkdir()
    for name in ("README.md", "export.json"):
        (tmp_path / "mine" / name).write_text("{}")
        assert "not an export" in refused(model, tmp_path / "mine", "--format", "stablehlo")
        assert (tmp_path / "mine" / "README.md").read_text() == "{}"
    shutil.rmtree(tmp_path / "mine")
    (tmp_path / "file").write_text("")
    where = tmp_path / "file" / "out"
    assert f"{where}: cannot be written" in refused(model, where, "--format", "stablehlo")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
