"""What voters are asked, and that no vote is ever lost."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from captax.compare.comparison import (
    Compared,
    Comparison,
    Shown,
    Statement,
)
from captax.compare.results import results_of
from captax.compare.votes import Booth, Choice, ballots, is_same, read_votes
from captax.errors import CaptaxError
from captax.files import OutputError


def made_up(captions: list[list[str | None]]) -> Comparison:
    """A comparison in which these captions, picture by picture, are what captioners say."""
    names = [f"captioner {i}" for i in range(len(captions[0]))]
    counts: dict[str, Any] = dict.fromkeys(
        ("captions", "failed", "shortest", "longest", "vocabulary"), 0
    )
    rest: dict[str, Any] = {"agreement": {}, "scores": {}, "measured": None, "most_repeated": ""}
    return Comparison(
        "captax: comparison",
        "p",
        [Compared(name, "file", name, words=0.0, repeated=0.0, **counts, **rest) for name in names],
        [
            Shown(f"{i}.png", f"{i}", f"{i:016x}.jpg", [], list(map(Statement, each)), [], None)
            for i, each in enumerate(captions)
        ],
        0,
        [],
    )  # fmt: skip


MANY = made_up([[f"caption {c} of {p}" for c in range(4)] for p in range(50)])


@pytest.mark.parametrize("voter", ["me", "you", "é"])
def test_every_part_of_the_order_is_balanced(voter: str) -> None:
    order = ballots(MANY, voter)
    assert order == ballots(MANY, voter) != ballots(MANY, voter + "!")
    assert len(order) == 50 * 6
    assert len({(b.picture, frozenset((b.left, b.right))) for b in order}) == 50 * 6
    for end in range(60, 301, 60):  # wherever a voter stops
        part = order[:end]
        pairs = Counter(frozenset((b.left, b.right)) for b in part)
        assert max(pairs.values()) - min(pairs.values()) <= 6
        sides = Counter((b.left, b.right) for b in part)
        assert all(abs(sides[i, j] - sides[j, i]) <= 1 for i, j in sides)
    # The first round shows every picture once.
    assert len({b.picture for b in order[:50]}) == 50


def test_pictures_without_two_captions_are_not_asked_about() -> None:
    order = ballots(made_up([["a", None, "b"], [None, None, "c"], ["a", "b", "c"]]), "me")
    assert Counter(b.picture for b in order) == {0: 1, 2: 3}


def test_a_booth_goes_on_where_the_voter_stopped(tmp_path: Path) -> None:
    comparison = made_up([["a", "b"], ["same  one", "same one"], ["c", "d"], ["e", "f"]])
    booth = Booth(tmp_path, comparison, "me")
    assert (booth.total, booth.done, booth.same) == (3, 0, 0) and not booth.undo()
    seen = []
    for choice in (Choice.left, Choice.right):
        number = booth.next()
        assert number is not None
        seen.append(booth.ballot(number))
        booth.vote(number, choice)
    with pytest.raises(CaptaxError, match="not the next one"):
        booth.vote(number, Choice.tie)
    with pytest.raises(CaptaxError, match="somebody votes on this comparison already"):
        Booth(tmp_path, comparison, "you")
    booth.close()

    again = Booth(tmp_path, comparison, "me")
    assert again.done == 2
    assert again.undo() and again.done == 1
    number = again.next()
    assert number is not None and again.ballot(number) == seen[1]
    again.vote(number, Choice.tie)
    number = again.next()
    assert number is not None
    again.vote(number, Choice.left)
    assert again.next() is None and (again.done, again.same) == (3, 1)
    again.close()

    votes = read_votes(tmp_path / "votes.jsonl")
    assert Counter(vote.choice for vote in votes) == {
        Choice.left: 2, Choice.tie: 1, Choice.same: 1
    }  # fmt: skip
    assert {vote.picture for vote in votes if vote.choice is Choice.same} == {"1.png"}


def test_half_a_line_is_no_vote_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    comparison = made_up([["a", "b"], ["c", "d"]])
    booth = Booth(tmp_path, comparison, "me")
    booth.vote(booth.next() or 0, Choice.left)
    booth.close()
    path = tmp_path / "votes.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-5])
    assert len(read_votes(path)) == 1
    booth = Booth(tmp_path, comparison, "me")
    booth.vote(booth.next() or 0, Choice.left)
    booth.close()
    assert len(read_votes(path)) == 2 and path.read_bytes().startswith(whole)
    for line in (b"{}\n", b"[]\n", b"\xff\n", whole.replace(b'"left", "time"', b'"up", "time"')):
        path.write_bytes(whole + line)
        with pytest.raises(CaptaxError, match="line 2: is no vote"):
            read_votes(path)


def test_a_vote_that_cannot_be_written_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    booth = Booth(tmp_path, made_up([["a", "b"], ["c", "d"]]), "me")
    booth.vote(booth.next() or 0, Choice.left)
    before = (tmp_path / "votes.jsonl").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    number = booth.next()
    assert number is not None
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            booth.vote(number, Choice.left)
    assert booth.done == 1 and booth.next() == number
    assert (tmp_path / "votes.jsonl").read_bytes() == before
    booth.vote(number, Choice.right)
    assert len(read_votes(tmp_path / "votes.jsonl")) == 2
    booth.close()


def test_votes_do_not_go_through_links(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "votes.jsonl").symlink_to(tmp_path / "mine")
    with pytest.raises(CaptaxError):
        Booth(tmp_path / "out", made_up([["a", "b"]]), "me")
    assert (tmp_path / "mine").read_text() == "mine"


def test_changed_captions_are_asked_about_again(tmp_path: Path) -> None:
    booth = Booth(tmp_path, made_up([["a", "b"], ["c", "d"]]), "me")
    while (number := booth.next()) is not None:
        booth.vote(number, Choice.left)
    booth.close()
    booth = Booth(tmp_path, made_up([["a", "new"], ["c", "d"]]), "me")
    assert (booth.done, booth.total) == (1, 2)
    booth.close()


def test_captions_that_two_captioners_exchanged_are_asked_about_again(tmp_path: Path) -> None:
    booth = Booth(tmp_path, made_up([["a", "b"]]), "me")
    booth.vote(0, Choice.left)
    booth.close()
    exchanged = made_up([["b", "a"]])
    booth = Booth(tmp_path, exchanged, "me")
    assert booth.done == 0
    booth.vote(0, Choice.left)
    booth.close()
    found = results_of(exchanged, read_votes(tmp_path / "votes.jsonl"))
    assert (found.votes, found.outdated) == (1, 1)


def test_a_picture_that_nobody_can_see_is_not_asked_about(tmp_path: Path) -> None:
    comparison = made_up([["a", "b"], ["c", "d"]])
    unseen = dataclasses.replace(comparison.pictures[0], thumbnail=None)
    comparison = dataclasses.replace(comparison, pictures=[unseen, comparison.pictures[1]])
    assert [each.picture for each in ballots(comparison, "me")] == [1]


def test_long_captions_are_voted_on(tmp_path: Path) -> None:
    comparison = made_up([["long " * 250_000, "\u00e9" * 100_000]])
    booth = Booth(tmp_path, comparison, "me")
    booth.vote(0, Choice.left)
    booth.close()
    assert len(read_votes(tmp_path / "votes.jsonl")) == 1


def test_nothing_to_choose_is_told(tmp_path: Path) -> None:
    with pytest.raises(CaptaxError, match="no picture that can be shown and has two captions"):
        Booth(tmp_path, made_up([["a", None]]), "me")
    with pytest.raises(CaptaxError, match="the captions of each picture are equal"):
        Booth(tmp_path, made_up([["a", "a "], ["b", "b"]]), "me")
    assert is_same(" a  cat", "a cat ") and not is_same("a cat", "A cat")


KILLED = """
import json, sys
from pathlib import Path
from captax.compare.comparison import read_comparison
from captax.compare.votes import Booth, Choice
out = Path(sys.argv[1])
booth = Booth(out, read_comparison(out), "me")
while (number := booth.next()) is not None:
    booth.vote(number, Choice.left)
    print(booth.done, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
def test_a_kill_loses_no_vote(compared: tuple[Path, Comparison]) -> None:
    out = compared[0]
    for count in (2, 3):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(out)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdin and process.stdout
        for _ in range(count):
            told = process.stdout.readline()
            process.stdin.write("\n")
            process.stdin.flush()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()
        votes = [v for v in read_votes(out / "votes.jsonl") if v.choice is not Choice.same]
        assert len(votes) >= int(json.loads(told))
    assert len(votes) >= 5
