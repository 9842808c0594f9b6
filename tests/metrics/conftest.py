import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Golden:
    hypotheses: dict[str, str]
    references: dict[str, list[str]]
    tokenized: dict[str, list[str]]
    expected: dict[str, Any]


@pytest.fixture(scope="session")
def golden(shared_data: Path) -> Golden:
    """1,000 COCO images and what the reference evaluation code printed for them."""
    folder = shared_data / "coco-caption-golden"

    def read(name: str) -> Any:
        return json.loads((folder / name).read_text(encoding="utf-8"))

    references = read("refs_raw.json")
    captions = {
        str(result["image_id"]): result["caption"]
        for result in read("captions_val2014_fakecap_results.json")
    }
    return Golden(
        hypotheses={image: captions[image] for image in references},
        references=references,
        tokenized=read("refs_ptb_tokenized.json"),
        expected=read("expected.json"),
    )


@pytest.fixture
def play_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`play_java(script, *files)`: a script in Java's place, a pycocoevalcap of empty files."""

    def install(script: str, *files: str) -> Path:
        folder = tmp_path / "a folder"
        for file in ("__init__.py", *files):
            path = folder / "pycocoevalcap" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        java = folder / "java"
        java.write_text(script)
        java.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        # Where the real one has been imported it would be found first.
        monkeypatch.delitem(sys.modules, "pycocoevalcap", raising=False)
        monkeypatch.syspath_prepend(folder)
        return folder

    return install
