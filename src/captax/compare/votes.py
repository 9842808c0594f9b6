"""Votes of people: what each voter is asked, in which order, and the file of the answers."""

import dataclasses
import datetime
import json
import os
import random
from collections.abc import Iterator
from enum import StrEnum
from itertools import combinations
from pathlib import Path
from typing import Any

from filelock import Timeout

from captax.compare.comparison import Comparison
from captax.errors import CaptaxError
from captax.files import CONFIG_LIMIT, hold, own_file, parse_json, unwritable

VOTES = "votes.jsonl"
LOCKS = ".captax"


class Choice(StrEnum):
    """What a voter says of two captions; `same` is what captax says of equal ones."""

    left = "left"
    right = "right"
    tie = "tie"
    same = "same"
    undo = "undo"


@dataclasses.dataclass(frozen=True)
class Ballot:
    """Two captions of a picture: places in the comparison's lists."""

    picture: int
    left: int
    right: int


@dataclasses.dataclass(frozen=True)
class Vote:
    """A line of the file: who chose what, and of which captions by whom."""

    voter: str
    picture: str
    left: str
    right: str
    captions: tuple[str, str]
    choice: Choice
    time: str = ""

    @property
    def key(self) -> tuple[str, str, frozenset[tuple[str, str]]]:
        """What it is about, whichever side was which; a later vote on the same replaces it."""
        sides = zip((self.left, self.right), self.captions, strict=True)
        return self.voter, self.picture, frozenset(sides)


def is_same(one: str, other: str) -> bool:
    """Whether two captions differ in nothing but white space."""
    return one.split() == other.split()


def ballots(comparison: Comparison, voter: str) -> list[Ballot]:
    """All that a voter is asked, in an order that is always the same for this voter.

    Every picture that can be shown comes with every pair of captioners. In any part of the order,
    each pair comes about equally often, with each of the two about equally often on the left.
    """
    pairs = list(combinations(range(len(comparison.captioners)), 2))
    draw = random.Random(f"captax {voter}")
    pictures = [i for i, each in enumerate(comparison.pictures) if each.thumbnail]
    draw.shuffle(pictures)
    first = {picture: place % len(pairs) for place, picture in enumerate(pictures)}
    sides: dict[int, list[bool]] = {}
    found = []
    for turn in range(len(pairs)):
        draw.shuffle(pictures)
        for picture in pictures:
            pair = (first[picture] + turn) % len(pairs)
            one, other = pairs[pair]
            said = comparison.pictures[picture].said
            if said[one].caption is None or said[other].caption is None:
                continue
            if not sides.get(pair):
                sides[pair] = draw.sample([False, True], 2)
            swapped = sides[pair].pop()
            found.append(Ballot(picture, *((other, one) if swapped else (one, other))))
    return found


def vote_on(comparison: Comparison, ballot: Ballot, voter: str, choice: Choice) -> Vote:
    """The vote of somebody on a ballot."""
    picture = comparison.pictures[ballot.picture]
    left, right = picture.said[ballot.left].caption, picture.said[ballot.right].caption
    assert left is not None and right is not None
    names = comparison.captioners[ballot.left].name, comparison.captioners[ballot.right].name
    return Vote(voter, picture.name, *names, (left, right), choice)


def read_votes(path: Path) -> list[Vote]:
    """The votes of a file that were not taken back, in order; none if there is no file.

    An incomplete last line, which a killed process left, is no vote.

    Raises:
        CaptaxError: it cannot be read, or another line is damaged.
    """
    found: dict[Any, Vote] = {}
    for number, line in enumerate(_lines(path), 1):
        try:
            values = parse_json(line.decode())
            vote = Vote(
                **{
                    **values,
                    "captions": tuple(values["captions"]),
                    "choice": Choice(values["choice"]),
                }
            )
            texts = [vote.voter, vote.picture, vote.left, vote.right, vote.time, *vote.captions]
            if len(vote.captions) != 2 or not all(isinstance(text, str) for text in texts):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise CaptaxError(f"{path}, line {number}: is no vote; remove the line") from None
        found.pop(vote.key, None)
        if vote.choice is not Choice.undo:
            found[vote.key] = vote
    return list(found.values())


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with own_file(path, "rb") as file:
            while (line := file.readline(CONFIG_LIMIT + 1)).endswith(b"\n"):
                yield line
            if len(line) > CONFIG_LIMIT:
                raise CaptaxError(f"{path}: has a line that is too long; remove it")
    except FileNotFoundError:
        return
    except OSError as error:
        raise CaptaxError(f"{path}: cannot be read ({error.strerror or error})") from None


class Booth:
    """One voter's session: what is asked next, and the file that answers are added to.

    Each answer is on the disk before the next question. One voter has the file at a time.
    """

    def __init__(self, out: Path, comparison: Comparison, voter: str):
        self.comparison, self.voter = comparison, voter
        self._path = out / VOTES
        self._ballots = ballots(comparison, voter)
        if not self._ballots:
            raise CaptaxError(
                f"{out}: has no picture that can be shown and has two captions; there is nothing "
                "to choose"
            )
        asked = [self._vote(i, Choice.tie) for i in range(len(self._ballots))]
        self._same = {i for i, vote in enumerate(asked) if is_same(*vote.captions)}
        if not self.total:
            raise CaptaxError(
                f"{out}: the captions of each picture are equal; there is nothing to choose"
            )
        try:
            self._lock = hold(out / LOCKS / "votes.lock", inside=out)
        except Timeout:
            raise CaptaxError(
                f"{out}: somebody votes on this comparison already, in another process; wait, or "
                "stop that"
            ) from None
        except OSError as error:
            raise unwritable(out / LOCKS, error) from None
        self._cut()
        mine = {vote.key: vote for vote in read_votes(self._path) if vote.voter == voter}
        # By place among the ballots, in the order of voting.
        of_keys = {vote.key: i for i, vote in enumerate(asked)}
        self._done = {of_keys[key]: vote for key, vote in mine.items() if key in of_keys}

    def close(self) -> None:
        """Let others vote."""
        self._lock.release()

    @property
    def total(self) -> int:
        """How many questions there are."""
        return len(self._ballots) - len(self._same)

    @property
    def done(self) -> int:
        """How many of them are answered."""
        return sum(vote.choice is not Choice.same for vote in self._done.values())

    @property
    def same(self) -> int:
        """How many pairs of equal captions were passed over as ties."""
        return len(self._done) - self.done

    def next(self) -> int | None:
        """The number of the next question; None if all are answered."""
        questions = range(len(self._ballots))
        return next((i for i in questions if i not in self._done and i not in self._same), None)

    def ballot(self, number: int) -> Ballot:
        """The question of that number."""
        return self._ballots[number]

    def vote(self, number: int, choice: Choice) -> None:
        """Answer a question. Equal captions that come before it count as ties from now on.

        Raises:
            OutputError: the file cannot be written; then there is no vote.
            CaptaxError: it is not the next question.
        """
        if number != self.next():
            raise CaptaxError("this question is not the next one; reload the page")
        passed = [i for i in range(number) if i not in self._done]
        votes = {i: self._vote(i, Choice.same) for i in passed}
        votes[number] = self._vote(number, choice)
        rest = [i for i in range(number + 1, len(self._ballots)) if i not in self._done]
        if self._same.issuperset(rest):
            votes |= {i: self._vote(i, Choice.same) for i in rest}
        self._append(list(votes.values()))
        self._done |= votes

    def undo(self) -> bool:
        """Take back the last answer of this voter; False if there is none."""
        answered = [i for i, vote in self._done.items() if vote.choice is not Choice.same]
        if not answered:
            return False
        self._append([self._vote(answered[-1], Choice.undo)])
        del self._done[answered[-1]]
        return True

    def _vote(self, number: int, choice: Choice) -> Vote:
        return vote_on(self.comparison, self._ballots[number], self.voter, choice)

    def _append(self, votes: list[Vote]) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        rows = [json.dumps({**dataclasses.asdict(vote), "time": now}) + "\n" for vote in votes]
        data = "".join(rows).encode()
        try:
            with own_file(self._path, "ab") as file:
                before = file.seek(0, os.SEEK_END)
                try:
                    left = data
                    while left:
                        left = left[file.write(left) :]
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(before)  # what nobody was told of is no vote
                    raise
        except OSError as error:
            raise unwritable(self._path, error) from None

    def _cut(self) -> None:
        """Cut off an incomplete last line."""
        try:
            with own_file(self._path, "r+b") as file:
                content = file.read()
                file.truncate(content.rfind(b"\n") + 1)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise unwritable(self._path, error) from None
