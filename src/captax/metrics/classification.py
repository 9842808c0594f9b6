"""Accuracy, per-class measures and the confusion matrix of classifiers."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from captax.errors import CaptaxError
from captax.files import replacing

# With more classes than this, names and counts would overlap.
_READABLE = 30


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
        accuracy: the share of all images that are rightly predicted as this class or as another.
        support: the number of images with its label.
    """

    precision: Float[np.ndarray, " classes"]
    recall: Float[np.ndarray, " classes"]
    accuracy: Float[np.ndarray, " classes"]
    support: Int[np.ndarray, " classes"]


def per_class(confusion: Int[np.ndarray, "classes classes"]) -> PerClass:
    """Precision, recall and accuracy of each class, from the result of `confusion_matrix`."""
    right = np.diag(confusion)
    taken, support, total = confusion.sum(axis=0), confusion.sum(axis=1), confusion.sum()
    return PerClass(
        precision=_share(right, taken),
        recall=_share(right, support),
        accuracy=_share(total - taken - support + 2 * right, np.full_like(support, total)),
        support=support,
    )


def plot_confusion(
    path: Path, confusion: Int[np.ndarray, "classes classes"], names: Sequence[str]
) -> None:
    """Draw a confusion matrix as a PNG.

    A cell's colour shows its share of its row. Names and counts are drawn if there are at most
    30 classes.

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
    from matplotlib.figure import Figure

    classes = len(names)
    readable = classes <= _READABLE
    side = 2.5 + 0.4 * min(classes, _READABLE)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shares = np.nan_to_num(_share(confusion, confusion.sum(axis=1, keepdims=True)))
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(drawn, label="share of the label's images")
    axes.set(xlabel="predicted", ylabel="label")
    if readable:
        # matplotlib reads text between dollar signs as a formula.
        shown = [name.replace("$", r"\$") for name in names]
        axes.set_xticks(range(classes), shown, rotation=90)
        axes.set_yticks(range(classes), shown)
        for row, column in np.argwhere(confusion):
            color = "white" if shares[row, column] > 0.5 else "black"
            count = str(confusion[row, column])
            axes.text(column, row, count, ha="center", va="center", color=color, fontsize=7)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=120)


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
