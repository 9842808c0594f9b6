"""The cache of compiled programs is used only where nobody else can put a program."""

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from captax.compilation import persist_compiled_programs

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(autouse=True)
def without_cache() -> Iterator[None]:
    before = {name: jax.config.values[name] for name in OPTIONS}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.parametrize("kind", ["own", "link", "everybody's", "file"])
def test_a_cache_of_others_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("CAPTAX_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "xla"
    folder.parent.mkdir()
    if kind == "link":
        folder.symlink_to(tmp_path)
    elif kind == "everybody's":
        folder.mkdir()
        folder.chmod(0o777)
    elif kind == "file":
        folder.touch()
    persist_compiled_programs()
    used = jax.config.values["jax_compilation_cache_dir"]
    assert used == (str(folder) if kind == "own" else None)
