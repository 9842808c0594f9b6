"""Keep compiled programs on disk, so that only the first run of a program waits for XLA."""

import os
import stat

import jax

from captax.errors import CaptaxError
from captax.files import cache_directory

# The process in which a model was first loaded or used.
_process: int | None = None


def refuse_fork() -> None:
    """Raise `CaptaxError` in a child process that was forked after a model was loaded.

    JAX's threads do not exist there, so the first program would never end.
    """
    global _process
    _process = _process or os.getpid()
    if _process != os.getpid():
        raise CaptaxError(
            "this process was forked after captax had loaded a model, and JAX does not work in it; "
            "start processes with multiprocessing.get_context('spawn'), or load in the child alone"
        )


def persist_no_more() -> None:
    """Read stored programs but store no more, as when strangers decide what is compiled."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float("inf"))


def persist_compiled_programs() -> None:
    """Store every program that this process compiles; all commands call this, and users may.

    If JAX already has a cache, it is not changed. If the folder cannot be written, as when there is
    no home directory, is a link, or can be written by everybody, it is not used: a compiled program
    of somebody else's would be run.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = cache_directory() / "xla"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
        if folder.is_symlink() or folder.stat().st_mode & stat.S_IWOTH:
            return
        if not os.access(folder, os.W_OK | os.X_OK):
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
