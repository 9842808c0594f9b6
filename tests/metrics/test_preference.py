"""Win rates and strengths against SciPy, and against examples that others worked out."""

import numpy as np
import pytest
from scipy.stats import binomtest

from captax.metrics.preference import bootstrap_chances, bradley_terry, chances, wilson


@pytest.mark.parametrize(("wins", "votes"), [(0, 1), (0, 7), (8, 10), (50, 100), (3, 3), (1, 900)])
def test_wilson_is_scipys(wins: int, votes: int) -> None:
    theirs = binomtest(wins, votes).proportion_ci(method="wilson")
    assert wilson(float(wins), float(votes)) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_wilson_knows_nothing_without_votes_and_takes_ties() -> None:
    assert wilson(0.0, 0.0) == (0, 1)
    low, high = wilson(2.5, 5.0)
    assert low < 0.5 < high and low + high == pytest.approx(1)


def test_strengths_are_those_of_the_worked_example() -> None:
    """Wikipedia, "Bradley–Terry model": four teams and the games that they won."""
    wins = np.array([[0, 2, 0, 1], [3, 0, 5, 0], [0, 3, 0, 1], [4, 0, 3, 0]], float)
    found = bradley_terry(wins, prior=0.0)
    assert found == pytest.approx([0.640, 1.043, 0.660, 2.270], abs=2e-3)


def test_two_systems_have_the_odds_of_their_wins() -> None:
    found = bradley_terry(np.array([[0.0, 30.0], [10.0, 0.0]]), prior=0.0)
    assert found[0] / found[1] == pytest.approx(3)
    assert chances(found) == pytest.approx([0.75, 0.25])


def test_strengths_satisfy_the_likelihoods_equations() -> None:
    wins = np.random.default_rng(0).integers(1, 20, (5, 5)).astype(float)
    np.fill_diagonal(wins, 0)
    found = bradley_terry(wins, prior=0.0)
    share = found[:, None] / (found[:, None] + found)
    expected = ((wins + wins.T) * share).sum(1)
    assert expected == pytest.approx(wins.sum(1))  # as many wins as each one has


def test_who_never_lost_has_a_strength_and_who_has_no_votes_the_middle() -> None:
    wins = np.zeros((3, 3))
    wins[0, 1] = 12
    found = chances(bradley_terry(wins))
    assert np.isfinite(found).all() and found[0] > found[2] > found[1]
    assert found[2] == pytest.approx(0.5) and found.mean() == pytest.approx(0.5)


def test_intervals_hold_the_chances_and_shrink_with_pictures() -> None:
    one = np.zeros((6, 3, 3))
    for picture in range(6):
        one[picture, 0, 1] = one[picture, 1, 2] = picture % 3 > 0
        one[picture, 1, 0] = one[picture, 2, 1] = picture % 3 == 0
    widths = []
    for wins in (one, np.tile(one, (20, 1, 1))):
        low, high = bootstrap_chances(wins, samples=200)
        middle = chances(bradley_terry(wins.sum(0)))
        # The iteration ends at 1e-9.
        assert (low <= middle + 1e-8).all() and (middle <= high + 1e-8).all()
        widths.append(high - low)
    assert (widths[1] < widths[0] / 2).all()
