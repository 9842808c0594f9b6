"""What a run logs: JSON lines, TensorBoard, and warnings when something goes wrong."""

import collections
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from captax.errors import CaptaxError, quoted
from captax.files import own_file, parse_json, unwritable, write_text

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
        write_text(path, "".join(json.dumps(record) + "\n" for record in self.records), own=True)
        self._board = _board(path.parent / "tensorboard", last_step) if tensorboard else None

    def write(self, **record: Any) -> None:
        """Add a record, which has at least a `step`."""
        self.records.append(record)
        line = json.dumps(record).encode() + b"\n"
        try:
            with own_file(self.path, "ab") as file:
                while line:
                    line = line[file.write(line) :]
        except OSError as error:  # the part of a line that was written is dropped at the next start
            raise unwritable(self.path, error) from None
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
    """Records of a log; a last line cut off by a kill is left out.

    Raises `CaptaxError` when another line is not a record.
    """
    try:
        with own_file(path, "rb") as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CaptaxError(f"{path}: cannot be read ({error.strerror or error})") from None
    while lines and not lines[-1].strip(b"\0 \r"):  # as after a power cut
        lines.pop()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = parse_json(line.decode())
        except ValueError:
            record = None
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
        elif number < len(lines):
            raise CaptaxError(
                f"{path}, line {number}: not a record of a run; remove the line and try again"
            )
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
            f"{count} of {len(texts)} dev pictures are labelled {quoted(text)}. Early in training "
            "this "
            "passes; otherwise try a lower lr, more warmup_steps, or as many pictures of each class"
        )
    return (
        f"{count} of {len(texts)} dev captions are {quoted(text)}: the decoder may not look at its "
        "pictures. Early in training this passes; otherwise try a lower lr, more warmup_steps, or "
        "a longer first stage that trains the decoder alone"
    )


def rounded(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores as logs keep them."""
    return {name: round(float(np.float64(value)), 5) for name, value in scores.items()}
