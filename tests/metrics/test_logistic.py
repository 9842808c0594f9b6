"""Logistic regression against the model that made the data, AUROC against counting by hand."""

import math

import numpy as np
import pytest

from captax.metrics.logistic import auroc, fit_logistic, folds_of


def test_a_fit_recovers_the_model_that_drew_the_data() -> None:
    rng = np.random.default_rng(0)
    # Units differ by orders of magnitude, and the last signal says nothing: it never changes.
    inputs = np.column_stack(
        [rng.normal(5, 2, 40_000), rng.normal(-300, 100, 40_000), np.full(40_000, 7.0)]
    )
    odds = 0.8 * inputs[:, 0] + 0.02 * inputs[:, 1] + 1.5
    targets = rng.random(len(odds)) < 1 / (1 + np.exp(-odds))
    weights, bias = fit_logistic(inputs, targets)
    assert weights == pytest.approx([0.8, 0.02, 0], rel=0.05)
    assert bias == pytest.approx(1.5, abs=0.2)
    again = fit_logistic(inputs, targets)
    assert (again[0] == weights).all() and again[1] == bias
    # The mean chance is the share of what is right, since the bias has no penalty.
    chances = 1 / (1 + np.exp(-(inputs @ weights + bias)))
    assert chances.mean() == pytest.approx(targets.mean(), abs=1e-6)


def test_a_signal_that_separates_all_has_a_finite_weight() -> None:
    inputs = np.arange(20.0)[:, None]
    weights, bias = fit_logistic(inputs, inputs[:, 0] > 9)
    assert np.isfinite(weights).all() and 0 < weights[0] < 10 and math.isfinite(bias)


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    scores = np.array([0.1, 0.4, 0.4, 0.8, 0.3])
    right = np.array([False, True, False, True, False])
    # Of six pairs, five are in order and one is equal.
    assert auroc(scores, right) == pytest.approx(5.5 / 6)
    assert auroc(-scores, right) == pytest.approx(0.5 / 6)
    assert math.isnan(auroc(scores, np.ones(5, bool)))


def test_folds_have_equal_sizes() -> None:
    folds = folds_of(23, 10)
    assert set(np.bincount(folds)) == {2, 3} and (folds == folds_of(23, 10)).all()
