"""Where a run is, on disk: saved whole or not at all, so that a kill costs only the steps since."""

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from captax.files import write_text

KEPT = 2


class RunCheckpoints:
    """Checkpoints of a run by step; the newest few are kept."""

    def __init__(self, directory: Path):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, enable_async_checkpointing=False, create=True
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


class Log:
    """A run's `log.jsonl`: one record a line, on disk as soon as written."""

    def __init__(self, path: Path, *, last_step: int):
        """Begin after `last_step`: records after it are dropped, for they will be made again."""
        self.path = path
        self.records = [r for r in read_log(path) if r["step"] <= last_step]
        write_text(path, "".join(json.dumps(record) + "\n" for record in self.records))

    def write(self, **record: Any) -> None:
        """Add a record, which has at least a `step`."""
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Records of a log; a last line cut off by a kill is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
