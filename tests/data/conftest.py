"""Made-up datasets. Readers never open a picture, so empty files stand for most of them."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


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


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """`picture("red", "PNG", (4, 3))`: the file of a plain picture."""

    def make(color: str, format: str = "PNG", size: tuple[int, int] = (4, 3)) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", size, color).save(file, format)
        return file.getvalue()

    return make
