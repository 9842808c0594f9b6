"""Word and character error rates of texts, as the package jiwer computes them.

They count what must be changed to make the reference of the hypothesis: words (characters) put in
another's place, added or taken away, as few as possible (Levenshtein, 1966).
"""

import dataclasses
from collections.abc import Sequence

from captax.errors import CaptaxError


@dataclasses.dataclass(frozen=True)
class Errors:
    """What an error rate is computed from; those of a corpus are the sum of its texts'.

    `edits` turn the hypothesis into the reference, which is `length` words (characters) long.
    """

    edits: int
    length: int

    def __add__(self, other: "Errors") -> "Errors":
        return Errors(self.edits + other.edits, self.length + other.length)

    @property
    def rate(self) -> float:
        """Edits for each word (character) of the reference: 0 is perfect; it may be above 1.

        Where the references are empty, the number of edits itself, as in jiwer.
        """
        return self.edits / (self.length or 1)


NO_ERRORS = Errors(0, 0)
"""The errors of no text: where a sum starts."""


def word_errors(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> Errors:
    """Errors in the tokens of a caption, against the reference at which its rate is lowest.

    Raises:
        CaptaxError: there is no reference.
    """
    return _lowest(hypothesis, references)


def character_errors(hypothesis: str, references: Sequence[str]) -> Errors:
    """Errors in the characters of a caption, against the reference at which its rate is lowest.

    Spaces are characters too, but not those at both ends.

    Raises:
        CaptaxError: there is no reference.
    """
    return _lowest(hypothesis.strip(), [reference.strip() for reference in references])


def _lowest(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> Errors:
    if not references:
        raise CaptaxError("an error rate needs a reference: give at least one")
    found = [Errors(edit_distance(hypothesis, other), len(other)) for other in references]
    return min(found, key=lambda errors: errors.rate)


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """The Levenshtein distance of two sequences of tokens, or of two texts' characters.

    Of the dynamic programme's table, where each cell differs from its neighbour by 1 at most, a
    column is kept as the bits of two integers: where it grows downwards and where it shrinks.
    Myers, "A Fast Bit-Vector Algorithm for Approximate String Matching Based on Dynamic
    Programming", 1999, in the form of Hyyrö, 2003.
    """
    if not first:
        return len(second)
    places: dict[str, int] = {}
    for place, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << place
    every = (1 << len(first)) - 1
    last = 1 << (len(first) - 1)
    grows, shrinks = every, 0
    distance = len(first)
    for token in second:
        matches = places.get(token, 0)
        level = (((matches & grows) + grows) ^ grows) | matches | shrinks
        # The same between this column and the one before.
        more = (shrinks | ~(level | grows)) & every
        fewer = grows & level
        distance += bool(more & last) - bool(fewer & last)
        more, fewer = more << 1 | 1, fewer << 1
        grows = (fewer | ~(level | more)) & every
        shrinks = more & level & every
    return distance
