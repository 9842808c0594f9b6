"""The uncertainty of scores: bootstrap confidence intervals, and tests between two systems."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Shaped

from captax.errors import CaptaxError

_ROWS_AT_ONCE = 4_000_000


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Numbers for each image, from whose sums the metrics of a corpus are computed.

    For a metric that is a mean over images, a row holds the image's value and 1.

    Attributes:
        names: the names of the metrics.
        rows: one row for each image.
        values: computes the metrics, in the order of `names`, from any sums of rows.
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
    """The statistics of a metric whose value for a corpus is the mean over its images."""
    rows = np.stack([values, np.ones_like(values)], -1)
    return Statistics((name,), rows, lambda sums: sums[..., :1] / sums[..., 1:])


@dataclasses.dataclass(frozen=True)
class Interval:
    """The range of a metric over most samples of images."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far a first system's value is above a second's.

    `p_value` is the probability of a difference at least as large, in either direction, if the two
    systems' captions were exchanged at random.
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
    """Compute the percentile bootstrap interval of each metric.

    A sample is as many images as there are, drawn with replacement. CIDEr's document frequencies,
    which are computed from all images, stay the same in all samples. Efron and Tibshirani, "An
    Introduction to the Bootstrap", 1993; Koehn, "Statistical Significance Tests for Machine
    Translation Evaluation", EMNLP 2004.

    Args:
        statistics: the statistics of the metrics, all for the same images.
        confidence: the share of the samples whose values are in the interval.
        samples: the number of samples.
        seed: the seed of the draws.

    Raises:
        CaptaxError: the statistics are not for the same number of images.
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
    """Compute the difference, first minus second, and the p-value of each metric.

    The test is approximate randomisation: in each trial, a fair coin decides for every image
    whether the two systems' captions are exchanged. The p-value is two-sided: (trials with a
    difference at least as large + 1) / (trials + 1). Noreen, "Computer-Intensive Methods for
    Testing Hypotheses", 1989; Riezler and Maxwell, "On Some Pitfalls in Automatic Evaluation and
    Significance Testing for MT", 2005.

    Args:
        first: the statistics of one system.
        second: the statistics of the other, for the same metrics and images.
        trials: the number of trials.
        seed: the seed of the coins.

    Raises:
        CaptaxError: the two differ in their metrics, their number of images, or their number of
            captions an image.
    """
    images = _images([*first, *second])
    if [each.names for each in first] != [each.names for each in second]:
        raise CaptaxError("the two systems have different metrics; score both by the same")
    for one, other in zip(first, second, strict=True):
        if one.rows.shape != other.rows.shape:
            raise CaptaxError(
                f"{one.names[0]} needs the same number of captions an image from both systems; "
                f"give both the same number"
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
        # Sums in a different order differ in their last digits.
        as_large = np.concatenate(values) >= np.abs(difference) - 1e-12
        p_values = (as_large.sum(0) + 1) / (trials + 1)
        for name, by, p_value in zip(each.names, difference.tolist(), p_values, strict=True):
            comparisons[name] = Comparison(by, float(p_value))
    return comparisons


def _images(statistics: Sequence[Statistics]) -> int:
    counts = {len(each.rows) for each in statistics}
    if len(counts) > 1:
        raise CaptaxError(
            f"statistics must be for the same images, but their numbers are {sorted(counts)}"
        )
    return max(counts, default=0)


def _portions(samples: int, images: int) -> list[int]:
    """The numbers of samples to draw at once, so that memory stays bounded."""
    most = max(1, _ROWS_AT_ONCE // max(1, images))
    return [min(most, samples - done) for done in range(0, samples, most)]
