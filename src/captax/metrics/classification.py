"""Accuracy, per-class measures and the confusion matrix of classifiers."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from captax.errors import CaptaxError
from captax.files import Kind, replacing

_SOFTWARE = "captax: confusion matrix"  # in the text of the picture
CONFUSION = Kind(
    "picture",
    re.compile(rb"\x89PNG.{,400}tEXtSoftware\0%b" % _SOFTWARE.encode(), re.DOTALL),
    (".png",),
)
# With more classes than these, counts and names would be too small to read.
_COUNTED, _NAMED = 30, 150
# How many of the pairs that are confused most often are written beside a matrix.
_PAIRS = 10


def top_k_accuracy(
    scores: Float[np.ndarray, "images classes"], labels: Int[np.ndarray, " images"], k: int = 1
) -> float:
    """The share of images whose label is among the `k` classes with the highest scores.

    Scores may be logits or probabilities. If two scores are equal, the lower class comes first, as
    with argmax.

    Raises:
        CaptaxError: there is no image, `k` is not between 1 and the number of classes, a label is
            not a class, or a score is NaN.
    """
    images, classes = scores.shape
    if not images:
        raise CaptaxError("accuracy needs images: give at least one")
    if not 1 <= k <= classes:
        raise CaptaxError(f"top-{k} accuracy of {classes} classes: k must be 1 to {classes}")
    _check(labels, classes, "label")
    if (bad := np.isnan(scores).any(axis=1)).any():
        raise CaptaxError(f"image number {bad.argmax() + 1} has a score that is not a number (NaN)")
    own = scores[np.arange(images), labels][:, None]
    before = np.arange(classes) < labels[:, None]
    rank = ((scores > own) | ((scores == own) & before)).sum(axis=1)
    return float((rank < k).mean())


def confusion_matrix(
    predicted: Int[np.ndarray, " images"], labels: Int[np.ndarray, " images"], classes: int
) -> Int[np.ndarray, "classes classes"]:
    """Count the images by their label (row) and their predicted class (column).

    Raises:
        CaptaxError: a label or a prediction is not between 0 and classes - 1.
    """
    _check(labels, classes, "label")
    _check(predicted, classes, "prediction")
    cells = labels.astype(np.int64) * classes + predicted
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


@dataclasses.dataclass(frozen=True)
class PerClass:
    """Measures of each class; NaN where the denominator is 0.

    Attributes:
        precision: the share of the images predicted as this class that have its label.
        recall: the share of the images with its label that are predicted as this class.
        f1: the harmonic mean of both; 0 if some image has this label and none is predicted rightly.
        accuracy: the share of all images that are rightly predicted as this class or as another.
        support: the number of images with its label.
    """

    precision: Float[np.ndarray, " classes"]
    recall: Float[np.ndarray, " classes"]
    f1: Float[np.ndarray, " classes"]
    accuracy: Float[np.ndarray, " classes"]
    support: Int[np.ndarray, " classes"]

    def macro(self) -> dict[str, float]:
        """The means of precision, recall and F1 over the classes that have images.

        A precision without any prediction counts as 0.
        """
        there = self.support > 0
        return {
            f"macro {name}": float(np.nan_to_num(values[there]).mean())
            for name, values in (
                ("precision", self.precision),
                ("recall", self.recall),
                ("F1", self.f1),
            )
        }


def most_confused(
    confusion: Int[np.ndarray, "classes classes"], count: int
) -> list[tuple[int, int, int]]:
    """The `count` commonest (label, other prediction, number of images), the commonest first."""
    wrong = confusion * ~np.eye(len(confusion), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    cells = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(a), int(b), int(wrong[a, b])) for a, b in cells if wrong[a, b]]


def per_class(confusion: Int[np.ndarray, "classes classes"]) -> PerClass:
    """Precision, recall, F1 and accuracy of each class, from the result of `confusion_matrix`."""
    right = np.diag(confusion)
    taken, support, total = confusion.sum(axis=0), confusion.sum(axis=1), confusion.sum()
    return PerClass(
        precision=_share(right, taken),
        recall=_share(right, support),
        f1=_share(2 * right, taken + support),
        accuracy=_share(total - taken - support + 2 * right, np.full_like(support, total)),
        support=support,
    )


def plot_confusion(
    path: Path, confusion: Int[np.ndarray, "classes classes"], names: Sequence[str]
) -> None:
    """Draw a confusion matrix as a PNG, with the classes that are confused most often beside it.

    A cell's colour shows its share of its row. Counts are drawn if there are at most 30 classes,
    and names if there are at most 150.

    Raises:
        CaptaxError: the numbers of names and of classes differ.
        OutputError: the file cannot be written.
    """
    if len(names) != len(confusion):
        raise CaptaxError(
            f"{len(names)} names for {len(confusion)} classes: give one name for each class"
        )
    # Start-up time: matplotlib takes 0.5 s, and numbers do not need it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    classes = len(names)
    # matplotlib reads text between dollar signs as a formula.
    shown = [name.replace("$", r"\$") for name in names]
    cell = 0.4 if classes <= _COUNTED else 0.14
    side = 2.5 + cell * classes if classes <= _NAMED else 15
    pairs = most_confused(confusion, _PAIRS)
    beside = 3.2 if pairs else 0.01
    figure = Figure(figsize=(side + 1 + beside, max(side + 0.5, 5)), layout="constrained")
    FigureCanvasAgg(figure)
    axes, listed = figure.subplots(1, 2, width_ratios=(side + 1, beside))
    shares = np.nan_to_num(_share(confusion, confusion.sum(axis=1, keepdims=True)))
    # Mistakes are small shares, which would be too pale to see without the root.
    drawn = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    figure.colorbar(drawn, ax=axes, label="share of the label's images", location="top", shrink=0.5)
    axes.set(xlabel="predicted", ylabel="label")
    size = 9 if classes <= _COUNTED else 6
    if classes <= _NAMED:
        axes.set_xticks(range(classes), shown, rotation=90, fontsize=size)
        axes.set_yticks(range(classes), shown, fontsize=size)
    if _COUNTED < classes <= _NAMED:  # lines that lead the eye from a cell to its names
        axes.grid(color="black", alpha=0.06, linewidth=0.5)
    if classes <= _COUNTED:
        for row, column in np.argwhere(confusion):
            color = "white" if shares[row, column] > 0.3 else "black"
            count = str(confusion[row, column])
            axes.text(column, row, count, ha="center", va="center", color=color, fontsize=7)
    listed.axis("off")
    if pairs:
        told = [f"{count:,} {shown[a]}\n    as {shown[b]}" for a, b, count in pairs]
        text = "\n".join(["Confused most often:\n", *told])
        listed.text(0, 1, text, va="top", fontsize=8, linespacing=1.3)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=120, metadata={"Software": _SOFTWARE})


def _share(part: Int[np.ndarray, "..."], whole: Int[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    nothing = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    return np.divide(part, whole, out=nothing, where=whole > 0)


def _check(found: Int[np.ndarray, " images"], classes: int, what: str) -> None:
    bad = (found < 0) | (found >= classes)
    if bad.any():
        place = int(bad.argmax())
        raise CaptaxError(
            f"image number {place + 1} has the {what} {found[place]}, "
            f"which is not one of the {classes} classes: use 0 to {classes - 1}"
        )
