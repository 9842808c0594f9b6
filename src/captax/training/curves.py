"""A run's loss and scores as one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from captax.files import replacing

SMOOTHING = 50
# Scores that are no shares, and would flatten the others.
NO_SHARES = {"loss", "perplexity", "WER"}


def plot_curves(path: Path, records: Sequence[dict[str, Any]], *, title: str) -> None:
    """Draw a log's training loss, and the dev scores at each evaluation, against steps.

    A link called `path` is replaced, because a run owns this file.
    """
    steps = [record for record in records if "loss" in record]
    scored = [record for record in records if "scores" in record]
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)

    # Without label smoothing, as the dev loss is; self-critical steps have no other than theirs.
    x, y = [r["step"] for r in steps], np.array([r.get("nll", r["loss"]) for r in steps])
    left.plot(x, y, color="tab:blue", alpha=0.25, linewidth=0.8)
    window = min(SMOOTHING, len(y) // 4)
    if window:
        mean = np.convolve(y, np.ones(window) / window, mode="valid")
        left.plot(x[window - 1 :], mean, color="tab:blue", label=f"mean of {window} steps")
        left.legend()
    left.set(xlabel="step", ylabel="training loss")

    losses = [(r["step"], r["scores"]["loss"]) for r in scored if "loss" in r["scores"]]
    if losses:
        left.plot(*zip(*losses, strict=True), color="tab:orange", marker="o", label="dev loss")
        left.legend()
    shares = [name for name in (scored[0]["scores"] if scored else ()) if name not in NO_SHARES]
    for name in shares:
        values = [100 * r["scores"][name] for r in scored]
        right.plot([r["step"] for r in scored], values, marker="o", markersize=3, label=name)
    if shares:
        right.legend(loc="upper left", bbox_to_anchor=(1, 1))
    right.set(xlabel="step", ylabel="dev score x 100")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    with replacing(path, own=True) as file:
        figure.savefig(file, format="png", dpi=120)
