"""Labels that a classifier gave pictures, measured."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from captax.data import LabelledExample
from captax.errors import CaptaxError, plural
from captax.metrics.classification import PerClass, confusion_matrix, most_confused, per_class
from captax.pipelines.classifier import Classification

TOP = 5  # labels of a picture, for its accuracy among them
_SHOWN = 10  # pairs of classes that are confused


@dataclasses.dataclass(frozen=True)
class LabelEvaluation:
    """The result of `evaluate` for a classifier.

    Attributes:
        scores: accuracy, top-5 accuracy if there are more than five labels, and the means over
            the classes that have pictures of precision, recall and F1; from 0 to 1.
        labels: the names of the classes, in the order of the model.
        classes: the measures of each class.
        confusion: the number of pictures by their label (row) and the predicted one (column).
        predicted: example id -> its most probable labels.
        truth: example id -> its label.
        pictures_per_second: the speed of labelling.
    """

    scores: dict[str, float]
    labels: tuple[str, ...]
    classes: PerClass
    confusion: Int[np.ndarray, "classes classes"]
    predicted: Mapping[str, Classification]
    truth: Mapping[str, str]
    pictures_per_second: float

    def confused(self, count: int = _SHOWN) -> list[tuple[str, str, int]]:
        """The `count` commonest (label, other prediction, number of pictures)."""
        found = most_confused(self.confusion, count)
        return [(self.labels[a], self.labels[b], pictures) for a, b, pictures in found]

    def lines(self) -> Iterator[str]:
        """The scores, those of each class, and what is confused most often, for people (x 100)."""
        wide = max(len("macro precision"), *map(len, self.labels))
        for name, value in self.scores.items():
            yield f"{name:{wide}} {100 * value:7.2f}"
        yield ""
        yield f"{'class':{wide}} precision  recall      F1  pictures"
        for i, name in enumerate(self.labels):
            shares = (self.classes.precision[i], self.classes.recall[i], self.classes.f1[i])
            told = "".join(
                f"{_percent(value):>{space}}"
                for value, space in zip(shares, (10, 8, 8), strict=True)
            )
            yield f"{name:{wide}}{told}{self.classes.support[i]:10,}"
        if pairs := self.confused():
            yield ""
            yield "confused most often:"
            for label, other, count in pairs:
                yield f"  {plural(count, 'picture')} of {label} as {other}"

    def content(self) -> dict[str, Any]:
        """All of it as JSON holds it; what has no value, such as 0 / 0, is null."""
        measures = ("precision", "recall", "f1", "accuracy", "support")
        return {
            "scores": self.scores,
            "labels": list(self.labels),
            "per_class": {
                name: {each: _value(getattr(self.classes, each)[i]) for each in measures}
                for i, name in enumerate(self.labels)
            },
            "confusion": self.confusion.tolist(),
            "confused": [
                {"label": label, "predicted": other, "pictures": count}
                for label, other, count in self.confused(len(self.labels) ** 2)
            ],
            "per_image": {
                id: {
                    "label": self.truth[id],
                    "predicted": found.label,
                    "probability": found.probability,
                }
                for id, found in self.predicted.items()
            },
        }


def measure_labels(
    labels: Sequence[str],
    examples: Sequence[LabelledExample],
    found: Sequence[Classification],
    *,
    seconds: float,
) -> LabelEvaluation:
    """Compare what a classifier of `labels` found, at best its five likeliest, with the truth."""
    number = {label: place for place, label in enumerate(labels)}
    truth = np.array([number[example.label] for example in examples])
    guess = np.array([number[each.label] for each in found])
    confusion = confusion_matrix(guess, truth, len(labels))
    classes = per_class(confusion)
    scores = {"accuracy": float((truth == guess).mean())}
    if len(labels) > TOP:
        near = [
            example.label in [candidate.label for candidate in each.alternatives[:TOP]]
            for example, each in zip(examples, found, strict=True)
        ]
        scores["top-5 accuracy"] = float(np.mean(near))
    return LabelEvaluation(
        scores=scores | classes.macro(),
        labels=tuple(labels),
        classes=classes,
        confusion=confusion,
        predicted={e.id: each for e, each in zip(examples, found, strict=True)},
        truth={example.id: example.label for example in examples},
        pictures_per_second=len(examples) / seconds,
    )


def known(
    labels: Sequence[str], examples: Sequence[LabelledExample], where: object
) -> tuple[list[LabelledExample], list[str]]:
    """The examples whose label is one of a model's `labels`, and the other labels.

    Raises `CaptaxError` if no example is left.
    """
    there = set(labels)
    kept = [example for example in examples if example.label in there]
    others = sorted({example.label for example in examples} - there)
    if not kept:
        raise CaptaxError(
            f"{where}: none of its classes ({_some(others)}) is a label of the model "
            f"({_some(labels)}); give the data that it was made for"
        )
    return kept, others


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"


def _percent(value: Float[np.ndarray, ""] | float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.2f}"


def _value(value: Any) -> float | int | None:
    if isinstance(value, np.integer):
        return int(value)
    return None if np.isnan(value) else float(value)
