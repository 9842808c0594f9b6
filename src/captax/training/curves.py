"""A run's loss, learning rate and scores as one picture."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from captax.files import replacing
from captax.metrics import LOWER_IS_BETTER

SMOOTHING = 50
COLUMNS = 3
# They are drawn beside the training loss, or say the same.
OF_LOSS = {"loss", "perplexity"}


def plot_curves(path: Path, records: Sequence[dict[str, Any]], *, title: str, metric: str) -> None:
    """Draw a log's loss, learning rate, and each dev score on a scale of its own, against steps.

    Scores of one family, such as BLEU-1 to 4, share a scale. The `metric` that selects the model
    comes first, with its best value marked. A link called `path` is replaced, because a run owns
    this file.
    """
    steps = [record for record in records if "loss" in record]
    scored = [record for record in records if "scores" in record]
    families = _families(scored, metric)
    count = 2 + len(families)
    rows = math.ceil(count / COLUMNS)
    figure = Figure(figsize=(4.4 * min(count, COLUMNS), 0.5 + 3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = [axes for row in figure.subplots(rows, COLUMNS, squeeze=False) for axes in row]
    for axes in panels[count:]:
        axes.remove()

    _draw_losses(panels[0], steps, scored, chosen=metric in OF_LOSS)
    panels[1].plot([r["step"] for r in steps], [r["lr"] for r in steps], color="tab:green")
    panels[1].set(ylabel="learning rate")
    panels[1].ticklabel_format(axis="y", scilimits=(-2, 3))
    for axes, names in zip(panels[2:], families, strict=False):
        for name in names:
            known = [(r["step"], 100 * r["scores"][name]) for r in scored if name in r["scores"]]
            axes.plot(*zip(*known, strict=True), marker="o", markersize=3, label=name)
            if name == metric:
                _mark_best(axes, known, lowest=name in LOWER_IS_BETTER)
        lower = ", lower is better" if names[0] in LOWER_IS_BETTER else ""
        axes.set(ylabel=f"dev {names[0] if len(names) == 1 else 'scores'} x 100{lower}")
        if len(names) > 1 or metric in names:
            axes.legend(fontsize=8)
    last = max((r["step"] for r in records), default=1)
    for axes in panels[:count]:
        axes.set(xlabel="step", xlim=(0, 1.03 * last))
        axes.grid(alpha=0.3)
    with replacing(path, own=True) as file:
        figure.savefig(file, format="png", dpi=120)


def _mark_best(axes: Axes, known: Sequence[tuple[int, float]], *, lowest: bool) -> None:
    step, best = (min if lowest else max)(known, key=lambda each: each[1])
    told = f"best: {best:.2f}"
    axes.plot([step], [best], "*", color="black", markersize=10, label=told, zorder=3)


def _draw_losses(
    axes: Axes,
    steps: Sequence[dict[str, Any]],
    scored: Sequence[dict[str, Any]],
    *,
    chosen: bool,
) -> None:
    """Draw the losses, and mark the lowest of dev if the model is `chosen` by it."""
    # Without label smoothing, as the dev loss is; self-critical steps have no other than theirs.
    x, y = [r["step"] for r in steps], np.array([r.get("nll", r["loss"]) for r in steps])
    axes.plot(x, y, color="tab:blue", alpha=0.25, linewidth=0.8, label="training loss")
    window = min(SMOOTHING, len(y) // 4)
    if window:
        mean = np.convolve(y, np.ones(window) / window, mode="valid")
        axes.plot(x[window - 1 :], mean, color="tab:blue", label=f"mean of {window} steps")
    losses = [(r["step"], r["scores"]["loss"]) for r in scored if "loss" in r["scores"]]
    if losses:
        dev: dict[str, Any] = {"color": "tab:orange", "marker": "o", "markersize": 3}
        axes.plot(*zip(*losses, strict=True), label="dev loss", **dev)
        if chosen:
            _mark_best(axes, losses, lowest=True)
    axes.set(ylabel="loss")
    axes.legend(fontsize=8)


def _families(scored: Sequence[dict[str, Any]], metric: str) -> list[list[str]]:
    """The names of the scores, those that begin with the same word together.

    First comes the family of `metric`, then the word error rate.
    """
    names = dict.fromkeys(name for record in scored for name in record["scores"])
    found: dict[str, list[str]] = {}
    for name in names:
        if name not in OF_LOSS:
            [word] = re.findall("^[A-Za-z]*", name)
            found.setdefault(word, []).append(name)
    order = sorted(found.values(), key=lambda family: (metric not in family, "WER" not in family))
    return order
