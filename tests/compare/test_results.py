"""Win rates from votes."""

import dataclasses
from pathlib import Path

import pytest

from captax.compare.results import results_of
from captax.compare.votes import Ballot, Choice, Vote, vote_on
from compare.test_votes import made_up

COMPARISON = made_up([["a", "b", "c"], ["d", "e", "f"], ["same", "same", "other"]])


def vote(picture: int, left: int, right: int, choice: Choice, voter: str = "me") -> Vote:
    return vote_on(COMPARISON, Ballot(picture, left, right), voter, choice)


def test_votes_are_counted_whichever_side_they_were_on() -> None:
    votes = [
        vote(0, 0, 1, Choice.left),
        vote(1, 1, 0, Choice.right),
        vote(2, 0, 1, Choice.same),
        vote(0, 2, 1, Choice.left, "you"),
        vote(1, 1, 2, Choice.tie, "you"),
        vote(1, 0, 2, Choice.left, "you"),
    ]
    found = results_of(COMPARISON, votes)
    counts = [(each.wins, each.ties, each.losses) for each in found.overall]
    assert counts == [(3, 1, 0), (0, 2, 3), (1, 1, 1)]
    assert {pair: (r.wins, r.ties, r.losses) for pair, r in found.pairs.items()} == {
        (0, 1): (2, 1, 0), (0, 2): (1, 0, 0), (1, 2): (0, 1, 1)
    }  # fmt: skip
    assert found.overall[0].share == pytest.approx(3.5 / 4)
    assert found.voters == {"me": 2, "you": 3} and found.votes == 5
    assert (found.same, found.outdated) == (1, 0)
    assert found.strengths is not None
    order = [strength for strength, _, _ in found.strengths]
    assert order[0] > order[2] > order[1] and sum(order) == pytest.approx(1.5)
    for value, low, high in found.strengths:
        assert 0 <= low <= value + 1e-9 and value <= high + 1e-9 <= 1 + 1e-9
    told = "\n".join(found.lines())
    assert "1 tie is a pair of equal captions" in told and "Bradley-Terry" in told


def test_votes_on_what_is_not_there_any_more_do_not_count() -> None:
    real = vote(0, 0, 1, Choice.left)
    gone = [
        dataclasses.replace(real, picture="gone.png"),
        dataclasses.replace(real, left="captioner 9"),
        dataclasses.replace(real, captions=("a", "another")),
        dataclasses.replace(real, right=real.left),
    ]
    found = results_of(COMPARISON, [real, *gone])
    assert found.outdated == 4 and found.votes == 1
    assert any("4 votes are on captions that have changed" in line for line in found.lines())


def test_two_captioners_have_no_model_of_strengths(tmp_path: Path) -> None:
    comparison = made_up([["a", "b"]] * 3)
    votes = [vote_on(comparison, Ballot(i, 0, 1), "me", Choice.left) for i in range(3)]
    found = results_of(comparison, votes)
    assert found.strengths is None and found.overall[0].share == 1
    low, high = found.overall[0].interval
    assert 0 < low < 0.5 and high == 1
