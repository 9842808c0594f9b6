"""Word and character error rates of texts, as the package jiwer computes them.

They count the fewest substitutions, insertions and deletions of words (characters) that turn the
hypothesis into the reference (Levenshtein, 1966).
"""

import dataclasses
from collections.abc import Sequence

from captax.errors import CaptaxError


@dataclasses.dataclass(frozen=True)
class Errors:
    """The two counts behind an error rate; those of a corpus are the sums over its texts.

    Attributes:
        edits: the number of edits that turn the hypothesis into the reference.
        length: the length of the reference, in words (characters).
    """

    edits: int
    length: int

    def __add__(self, other: "Errors") -> "Errors":
        return Errors(self.edits + other.edits, self.length + other.length)

    @property
    def rate(self) -> float:
        """Edits divided by the length of the reference: 0 is perfect; it may be above 1.

        If the references are empty, it is the number of edits, as in jiwer.
        """
        return self.edits / (self.length or 1)


NO_ERRORS = Errors(0, 0)
"""The start of a sum of errors."""


def word_errors(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> Errors:
    """Errors in the tokens of a caption, compared with the reference that gives the lowest rate.

    Raises:
        CaptaxError: there is no reference.
    """
    return _lowest(hypothesis, references)


def character_errors(hypothesis: str, references: Sequence[str]) -> Errors:
    """Errors in the characters of a caption, compared with the reference of the lowest rate.

    Spaces count as characters, except at the beginning and the end.

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

    Dynamic programming, in whose table neighbouring cells differ by at most 1. A column is kept as
    the bits of two integers: where it grows downwards and where it shrinks.
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
        # Where this column is greater, and where it is smaller, than the column before it.
        more = (shrinks | ~(level | grows)) & every
        fewer = grows & level
        distance += bool(more & last) - bool(fewer & last)
        more, fewer = more << 1 | 1, fewer << 1
        grows = (fewer | ~(level | more)) & every
        shrinks = more & level & every
    return distance
