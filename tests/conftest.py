"""Shapes are enforced in every test: the hook must come before captax is first imported."""

from pathlib import Path

import jaxtyping
import pytest

jaxtyping.install_import_hook("captax", "beartype.beartype")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The development datasets, which are not part of the project."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"needs the development datasets in {path}")
    return path
