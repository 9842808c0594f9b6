"""A run's state on disk: saved whole or not at all, so a kill costs only the steps since."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp


class RunCheckpoints:
    """Checkpoints of a run, by step; the newest `keep` are kept."""

    def __init__(self, directory: Path, *, keep: int = 2):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, create=True
        )
        self._manager = ocp.CheckpointManager(
            directory.absolute(), options=options, item_names=("arrays", "progress")
        )

    def save(self, step: int, arrays: Any, progress: dict[str, Any]) -> None:
        """Save a pytree of arrays and what JSON can hold."""
        args = ocp.args.Composite(
            arrays=ocp.args.StandardSave(arrays), progress=ocp.args.JsonSave(progress)
        )
        self._manager.save(step, args=args, force=True)

    def progress(self) -> dict[str, Any] | None:
        """The newest checkpoint's progress; None at the start of a run."""
        step = self._manager.latest_step()
        if step is None:
            return None
        args = ocp.args.Composite(progress=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["progress"]

    def arrays(self, like: Any) -> Any:
        """The newest checkpoint's arrays, as a pytree `like` the one that was saved."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(arrays=ocp.args.StandardRestore(abstract))
        return self._manager.restore(self._manager.latest_step(), args=args)["arrays"]

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()
