"""Compiled programs kept on disk, so that only the first run of a program waits for XLA."""

import os
from pathlib import Path

import jax

VARIABLE = "CAPTAX_CACHE"


def cache_directory() -> Path:
    """Where captax keeps what it can make again: `$CAPTAX_CACHE`, else `~/.cache/captax`."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "captax"


def persist_no_more() -> None:
    """Find what is kept, but keep nothing more: for when strangers decide what is compiled."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float("inf"))


def persist_compiled_programs() -> None:
    """Keep every compiled program of this process; the commands call this, programs may too.

    A cache that JAX was already told to use is left as it is; where nothing can be written, as in
    a home that is none, nothing is kept.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = cache_directory() / "xla"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
        if not os.access(folder, os.W_OK | os.X_OK):
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
