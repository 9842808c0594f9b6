"""Win rates of captioners, from people's votes."""

import dataclasses
import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from captax.compare.comparison import Comparison
from captax.compare.votes import VOTES, Choice, Vote, is_same, read_votes
from captax.errors import plural
from captax.evaluation.score_files import write_scores
from captax.files import JSON_TEXT, Kind
from captax.metrics.preference import bootstrap_chances, bradley_terry, chances, wilson

FILE = "results.json"
RESULTS = Kind(
    "list of win rates",
    re.compile(
        rb'\{\s*"generator":\s*"captax",\s*"votes":\s*\d+,\s*"voters":\s*\{\s*(%b|\})' % JSON_TEXT
    ),
    (".json",),
)


@dataclasses.dataclass(frozen=True)
class Rate:
    """A share of votes, in which a tie is half a win, and Wilson's 95% interval of it."""

    wins: int
    ties: int
    losses: int

    @property
    def votes(self) -> int:
        """All votes."""
        return self.wins + self.ties + self.losses

    @property
    def share(self) -> float | None:
        """The win rate; None without votes."""
        return (self.wins + self.ties / 2) / self.votes if self.votes else None

    @property
    def interval(self) -> tuple[float, float]:
        """Its interval."""
        return wilson(self.wins + self.ties / 2, float(self.votes))

    def write(self) -> dict[str, Any]:
        """All of it, for JSON."""
        counts = dataclasses.asdict(self)
        return {**counts, "rate": self.share, "interval": list(self.interval)}


@dataclasses.dataclass(frozen=True)
class Results:
    """What people prefer.

    Attributes:
        names: the captioners.
        overall: each one's rate against all others.
        pairs: the first's rate against the second, by their places.
        strengths: with three captioners or more, the chance of each to be preferred to another by
            the Bradley-Terry model, and the ends of its bootstrap interval.
        voters: how many votes each voter gave, without equal captions.
        same: how many ties are equal captions, which nobody was asked about.
        outdated: votes on captions that the comparison does not have any more; they do not count.
    """

    names: list[str]
    overall: list[Rate]
    pairs: dict[tuple[int, int], Rate]
    strengths: list[tuple[float, float, float]] | None
    voters: dict[str, int]
    same: int
    outdated: int

    @property
    def votes(self) -> int:
        """The number of votes that count, without equal captions."""
        return sum(self.voters.values())

    def lines(self) -> list[str]:
        """A table for people."""
        width = max(12, *(len(name) for name in self.names))
        lines = [
            f"{'':{width}} {'wins':>6} {'ties':>6} {'losses':>6} {'win rate':>9}  95% interval"
        ]
        strong = self.strengths
        if strong is not None:
            lines[0] += f"   {'Bradley-Terry':>13}  95% interval"
        for i, (name, rate) in enumerate(zip(self.names, self.overall, strict=True)):
            line = f"{name:{width}} {_rate_told(rate)}"
            if strong is not None:
                value, low, high = (100 * each for each in strong[i])
                line += f"   {value:12.1f}%  {low:.1f} to {high:.1f}"
            lines.append(line)
        if len(self.names) > 2:
            lines.append("")
            labels = {p: f"{self.names[p[0]]} / {self.names[p[1]]}" for p in self.pairs}
            width = max(map(len, labels.values()))
            lines += [f"{labels[p]:{width}} {_rate_told(rate)}" for p, rate in self.pairs.items()]
        return [*(line.rstrip() for line in lines), *self.notes()]

    def notes(self) -> list[str]:
        """What a reader must know of the numbers."""
        who = ", ".join(f"{name} {count:,}" for name, count in self.voters.items())
        notes = [f"votes: {self.votes:,}" + (f" ({who})" if who else "")]
        if self.same:
            told = plural(self.same, "tie is a pair", "ties are pairs")
            notes.append(f"{told} of equal captions, which nobody was asked about")
        if self.outdated:
            told = plural(self.outdated, "vote is", "votes are")
            notes.append(f"{told} on captions that have changed since, and not counted")
        return notes

    def write(self, out: Path) -> None:
        """Write all of it as JSON to a folder. Raises `OutputError` if that is not possible."""
        content = {
            "votes": self.votes,
            "voters": self.voters,
            "same": self.same,
            "outdated": self.outdated,
            "captioners": [
                {
                    "name": name,
                    **rate.write(),
                    **(
                        {}
                        if self.strengths is None
                        else {
                            "bradley_terry": self.strengths[i][0],
                            "bradley_terry_interval": list(self.strengths[i][1:]),
                        }
                    ),
                }
                for i, (name, rate) in enumerate(zip(self.names, self.overall, strict=True))
            ],
            "pairs": [
                {"first": self.names[i], "second": self.names[j], **rate.write()}
                for (i, j), rate in self.pairs.items()
            ],
        }
        write_scores(out / FILE, content, inside=out)


def _rate_told(rate: Rate) -> str:
    low, high = (100 * each for each in rate.interval)
    share = "" if rate.share is None else f"{100 * rate.share:.1f}%"
    return (
        f"{rate.wins:6} {rate.ties:6} {rate.losses:6} {share:>9}  {f'{low:.1f} to {high:.1f}':12}"
    )


def results_of(comparison: Comparison, votes: Sequence[Vote], *, seed: int = 0) -> Results:
    """The results of votes on a comparison; `seed` is that of the bootstrap's samples."""
    names = [each.name for each in comparison.captioners]
    places = {name: place for place, name in enumerate(names)}
    pictures = {each.name: place for place, each in enumerate(comparison.pictures)}
    wins = np.zeros((len(pictures), len(names), len(names)))  # a tie is half a win for both
    ties = np.zeros((len(names), len(names)), int)
    voters: dict[str, int] = {}
    same = outdated = 0
    for vote in votes:
        picture = pictures.get(vote.picture)
        sides = [places.get(name) for name in (vote.left, vote.right)]
        left, right = sides
        if picture is None or left is None or right is None or left == right:
            outdated += 1
            continue
        said = comparison.pictures[picture].said
        if tuple(said[side].caption for side in (left, right)) != vote.captions:
            outdated += 1
            continue
        if is_same(*vote.captions):
            same += 1
        else:
            voters[vote.voter] = voters.get(vote.voter, 0) + 1
        if vote.choice in (Choice.left, Choice.right):
            won = (left, right) if vote.choice is Choice.left else (right, left)
            wins[(picture, *won)] += 1
        else:
            wins[picture, left, right] += 0.5
            wins[picture, right, left] += 0.5
            ties[left, right] += 1
            ties[right, left] += 1
    total = wins.sum(0)
    sure = (total - ties / 2).round().astype(int)
    strengths = None
    if len(names) > 2 and total.any():
        voted = wins[wins.sum((1, 2)) > 0]
        low, high = bootstrap_chances(voted, seed=seed)
        middle = chances(bradley_terry(total))
        strengths = [
            (float(each), float(least), float(most))
            for each, least, most in zip(middle, low, high, strict=True)
        ]
    return Results(
        names,
        [
            Rate(int(sure[i].sum()), int(ties[i].sum()), int(sure[:, i].sum()))
            for i in range(len(names))
        ],
        {
            (i, j): Rate(int(sure[i, j]), int(ties[i, j]), int(sure[j, i]))
            for i, j in combinations(range(len(names)), 2)
        },
        strengths,
        voters,
        same,
        outdated,
    )


def read_results(out: Path, comparison: Comparison) -> Results | None:
    """The results of the votes in a folder; None if there are none."""
    votes = read_votes(out / VOTES)
    return results_of(comparison, votes) if votes else None
