"""Logistic regression, and how well its probabilities separate what they should."""

import numpy as np
from jaxtyping import Bool, Float, Int

_STEPS = 100  # of Newton's method, which needs about ten
_CLOSE = 1e-9


def fit_logistic(
    inputs: Float[np.ndarray, "rows signals"],
    targets: Bool[np.ndarray, " rows"],
    *,
    l2: float = 1.0,
) -> tuple[Float[np.ndarray, " signals"], float]:
    """The weights and the bias of the logistic model that fits best, by Newton's method.

    `l2` is the penalty on the weights of standardised inputs, so it does not depend on their units;
    the bias has none. A signal that never changes gets the weight 0. The result depends on nothing
    but the arguments.
    """
    mean, scale = inputs.mean(0), inputs.std(0)
    varies = scale > _CLOSE * np.maximum(1, np.abs(mean))
    standard = np.where(varies, (inputs - mean) / np.where(varies, scale, 1), 0)
    design = np.column_stack([standard, np.ones(len(inputs))])
    penalty = np.diag([*np.full(inputs.shape[1], l2), _CLOSE])

    def loss(values: Float[np.ndarray, " _"]) -> float:
        odds = design @ values
        total = np.logaddexp(0, odds).sum() - odds[targets].sum()
        return float(total + values @ penalty @ values / 2)

    values = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        found = chances(design @ values)
        slope = design.T @ (found - targets) + penalty @ values
        bend = (design.T * (found * (1 - found))) @ design + penalty
        step = np.linalg.solve(bend, slope)
        while loss(values - step) > loss(values) and np.abs(step).max() > _CLOSE:
            step = step / 2
        values = values - step
        if np.abs(step).max() < _CLOSE:
            break
    weights = np.where(varies, values[:-1] / np.where(varies, scale, 1), 0)
    return weights, float(values[-1] - weights @ mean)


def chances(odds: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """The probabilities that a logistic model gives for log-odds."""
    return 0.5 * (1 + np.tanh(odds / 2))


def auroc(scores: Float[np.ndarray, " rows"], positive: Bool[np.ndarray, " rows"]) -> float:
    """The chance that a positive row has a higher score than a negative one; equal counts half.

    It is NaN if all rows are positive, or none.
    """
    right = int(positive.sum())
    pairs = right * (len(scores) - right)
    if not pairs:
        return float("nan")
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (count.cumsum() - (count - 1) / 2)[place]
    return float((ranks[positive].sum() - right * (right + 1) / 2) / pairs)


def folds_of(rows: int, folds: int, *, seed: int = 0) -> Int[np.ndarray, " rows"]:
    """The fold of each row, at random, in folds of equal size."""
    return np.random.default_rng(seed).permutation(rows) % folds
