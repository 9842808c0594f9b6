"""Models of the real size: gigabytes, of which no test may leave any to the next."""

import gc
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from captax.compilation import persist_compiled_programs


@pytest.fixture(autouse=True)
def frugal(programs: Path) -> Iterator[None]:
    """Keep no program: weights that are constants in it would be copied again and again."""
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    persist_compiled_programs()
    compilation_cache.reset_cache()
    gc.collect()
