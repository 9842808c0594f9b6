"""Made-up datasets. Readers never open a picture, so empty files stand for them."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def layout(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Write files (path -> text) into a directory named `made-up`, and give it."""

    def write(files: dict[str, str]) -> Path:
        root = tmp_path / "made-up"
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return root

    return write
