"""What a run logs: JSON lines, TensorBoard, and warnings when something goes wrong."""

import collections
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from captax.errors import CaptaxError
from captax.files import TABLE_LIMIT, read_text, write_text

# The largest share of the dev captions, where there are ten or more, that may be the same.
ALIKE = 0.5


class DivergedError(CaptaxError):
    """The loss or a gradient is not finite."""


class Log:
    """A run's `log.jsonl`: one record a line, on disk as soon as written."""

    def __init__(self, path: Path, *, last_step: int, tensorboard: bool = False):
        """Begin after `last_step`; later records are dropped, because they will be made again."""
        self.path = path
        self.records = [r for r in read_log(path) if r["step"] <= last_step]
        write_text(path, "".join(json.dumps(record) + "\n" for record in self.records))
        self._board = _board(path.parent / "tensorboard", last_step) if tensorboard else None

    def write(self, **record: Any) -> None:
        """Add a record, which has at least a `step`."""
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self._board is not None:
            flat = {**record, **record.get("scores", {})}
            for name, value in flat.items():
                if isinstance(value, int | float) and name != "step":
                    self._board.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Write what TensorBoard's writer, which has a thread of its own, still holds."""
        if self._board is not None:
            self._board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Records of a log; a last line cut off by a kill is left out."""
    if not path.exists():
        return []
    records = []
    for line in read_text(path, limit=TABLE_LIMIT).splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _board(folder: Path, last_step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter  # an extra
    except ImportError:
        raise CaptaxError(
            "the recipe's tensorboard: true needs tensorboardX; pip install 'captax[tracking]'"
        ) from None
    return SummaryWriter(str(folder), purge_step=last_step + 1, flush_secs=10)


def first_not_finite(tensors: Mapping[str, Any]) -> str | None:
    """The name of the first tensor that holds a value that is infinite or NaN."""
    for name, tensor in tensors.items():
        if not bool(jax.numpy.isfinite(tensor).all()):
            return name
    return None


def collapse(texts: Sequence[str], *, labels: bool = False) -> str | None:
    """A warning when most texts, or labels, are the same; None when they are not."""
    if len(texts) < 10:
        return None
    [(text, count)] = collections.Counter(texts).most_common(1)
    if count <= ALIKE * len(texts):
        return None
    if labels:
        return (
            f"{count} of {len(texts)} dev pictures are labelled {text!r}. Early in training this "
            "passes; otherwise try a lower lr, more warmup_steps, or as many pictures of each class"
        )
    return (
        f"{count} of {len(texts)} dev captions are {text!r}: the decoder may not look at its "
        "pictures. Early in training this passes; otherwise try a lower lr, more warmup_steps, or "
        "a longer first stage that trains the decoder alone"
    )


def rounded(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores as logs keep them."""
    return {name: round(float(np.float64(value)), 5) for name, value in scores.items()}
