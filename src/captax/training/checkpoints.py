"""A run's state on disk: saved whole or not at all, so a kill costs only the steps since."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from captax.errors import CheckpointError
from captax.files import OutputError, unwritable


class RunCheckpoints:
    """Checkpoints of a run, by step; the newest `keep` are kept."""

    def __init__(self, directory: Path, *, keep: int = 2):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, create=True
        )
        self.directory = directory
        try:
            self._manager = ocp.CheckpointManager(
                directory.absolute(), options=options, item_names=("arrays", "progress")
            )
        except OSError as error:
            raise unwritable(directory, error) from None

    def save(self, step: int, arrays: Any, progress: dict[str, Any]) -> None:
        """Save a pytree of arrays and what JSON can hold."""
        args = ocp.args.Composite(
            arrays=ocp.args.StandardSave(arrays), progress=ocp.args.JsonSave(progress)
        )
        try:
            self._manager.save(step, args=args, force=True)
        except Exception as error:  # TensorStore raises its own, Python's and Abseil's
            newest = self.newest
            kept = "" if newest is None else f"; the checkpoint of step {newest} is whole"
            raise OutputError(
                f"{self.directory}: the checkpoint of step {step} cannot be written "
                f"({_told(error)}){kept}. Free space and run the same command again"
            ) from None

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint; None at the start of a run."""
        return self._manager.latest_step()

    def progress(self) -> Any:
        """The newest checkpoint's progress; None at the start of a run.

        Raises `CheckpointError` when it cannot be read.
        """
        if self.newest is None:
            return None
        return self._restored(progress=ocp.args.JsonRestore())["progress"]

    def arrays(self, like: Any) -> Any:
        """The newest checkpoint's arrays, as a pytree `like` the one that was saved.

        Raises `CheckpointError` when they cannot be read, or have other names or shapes.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._restored(arrays=ocp.args.StandardRestore(abstract))["arrays"]

    def _restored(self, **items: Any) -> Any:
        try:
            return self._manager.restore(self.newest, args=ocp.args.Composite(**items))
        except Exception as error:  # damaged files make the libraries raise nearly anything
            raise CheckpointError(
                f"{self.directory / str(self.newest)}: cannot be read ({_told(error)}); remove "
                "this folder to continue from an earlier checkpoint"
            ) from None

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()


def _told(error: Exception) -> str:
    """The beginning of what a library says, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
