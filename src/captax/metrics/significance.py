"""How sure a score is: bootstrap confidence intervals, and tests of one system against another."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Shaped

from captax.errors import CaptaxError

_ROWS_AT_ONCE = 4_000_000


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What metrics of a corpus are computed from: a row of numbers an image, which are summed.

    `values` gives the metrics `names` of any sums of rows. Of a mean over images, a row is the
    image's value and 1.
    """

    names: tuple[str, ...]
    rows: Shaped[np.ndarray, "images columns"]
    values: Callable[[np.ndarray], np.ndarray]

    def corpus(self) -> dict[str, float]:
        """The metrics of all images."""
        return dict(zip(self.names, self.values(self.rows.sum(0)).tolist(), strict=True))

    def per_image(self) -> list[dict[str, float]]:
        """The metrics of each image by itself."""
        return [dict(zip(self.names, row, strict=True)) for row in self.values(self.rows).tolist()]


def mean_statistics(name: str, values: Float[np.ndarray, " images"]) -> Statistics:
    """Those of a metric whose value for a corpus is the mean of its images'."""
    rows = np.stack([values, np.ones_like(values)], -1)
    return Statistics((name,), rows, lambda sums: sums[..., :1] / sums[..., 1:])


@dataclasses.dataclass(frozen=True)
class Interval:
    """Where a metric of the corpus lies for most samples of images."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """By how much a first system's value is above a second's.

    `p_value` is how probable a difference as large, in either direction, would be if it were
    chance which of the two said which caption.
    """

    difference: float
    p_value: float


def bootstrap(
    statistics: Sequence[Statistics],
    *,
    confidence: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """The percentile bootstrap interval of each metric.

    Images are drawn with replacement, as many as there are, `samples` times; what is computed from
    all images at once (CIDEr's document frequencies) stays. Efron and Tibshirani, "An
    Introduction to the Bootstrap", 1993; Koehn, "Statistical Significance Tests for Machine
    Translation Evaluation", EMNLP 2004.
    """
    images = _images(statistics)
    rng = np.random.default_rng(seed)
    found: list[list[np.ndarray]] = [[] for _ in statistics]
    for count in _portions(samples, images):
        drawn = rng.integers(0, images, (count, images)) + np.arange(count)[:, None] * images
        times = np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images)
        for values, each in zip(found, statistics, strict=True):
            values.append(each.values(times.astype(np.float64) @ each.rows.astype(np.float64)))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    intervals: dict[str, Interval] = {}
    for values, each in zip(found, statistics, strict=True):
        low, high = np.quantile(np.concatenate(values), tails, axis=0).tolist()
        pairs = zip(each.names, low, high, strict=True)
        intervals |= {name: Interval(least, most) for name, least, most in pairs}
    return intervals


def compare(
    first: Sequence[Statistics],
    second: Sequence[Statistics],
    *,
    trials: int = 10_000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Each metric of `first` less that of `second`, of the same images, with its p-value.

    By approximate randomisation: in each trial, the two systems' captions of every image are
    exchanged or not by a fair coin. The p-value is two-sided, (trials with a difference as large
    + 1) / (trials + 1). Noreen, "Computer-Intensive Methods for Testing Hypotheses", 1989; Riezler
    and Maxwell, "On Some Pitfalls in Automatic Evaluation and Significance Testing for MT", 2005.

    Raises:
        CaptaxError: the two are not of the same metrics and as many images.
    """
    images = _images([*first, *second])
    if [each.names for each in first] != [each.names for each in second]:
        raise CaptaxError("systems can be compared only by the same metrics")
    for one, other in zip(first, second, strict=True):
        if one.rows.shape != other.rows.shape:
            raise CaptaxError(
                f"{one.names[0]} compares systems only by as many captions an image; give both "
                f"the same number"
            )
    rng = np.random.default_rng(seed)
    pairs = [
        (one.rows.astype(np.float64), other.rows.astype(np.float64))
        for one, other in zip(first, second, strict=True)
    ]
    found: list[list[np.ndarray]] = [[] for _ in first]
    for count in _portions(trials, images):
        exchanged = rng.integers(0, 2, (count, images), np.int8).astype(np.float64)
        for values, each, (ours, theirs) in zip(found, first, pairs, strict=True):
            moved = exchanged @ (theirs - ours)
            new = each.values(ours.sum(0) + moved) - each.values(theirs.sum(0) - moved)
            values.append(np.abs(new))
    comparisons = {}
    for values, each, (ours, theirs) in zip(found, first, pairs, strict=True):
        difference = each.values(ours.sum(0)) - each.values(theirs.sum(0))
        # Sums in another order differ in their last digits.
        as_large = np.concatenate(values) >= np.abs(difference) - 1e-12
        p_values = (as_large.sum(0) + 1) / (trials + 1)
        for name, by, p_value in zip(each.names, difference.tolist(), p_values, strict=True):
            comparisons[name] = Comparison(by, float(p_value))
    return comparisons


def _images(statistics: Sequence[Statistics]) -> int:
    counts = {len(each.rows) for each in statistics}
    if len(counts) > 1:
        raise CaptaxError(f"statistics must be of the same images, not of {sorted(counts)}")
    return max(counts, default=0)


def _portions(samples: int, images: int) -> list[int]:
    """How many samples to draw at once, so that memory stays bounded."""
    most = max(1, _ROWS_AT_ONCE // max(1, images))
    return [min(most, samples - done) for done in range(0, samples, most)]
