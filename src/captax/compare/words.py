"""Words of captions: which ones captioners share, and how far two captions agree."""

import re
from collections.abc import Sequence
from itertools import combinations

# A word as people see it, so that it can be marked where it stands.
WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")
# English words that tell little of what a caption says; they are never marked.
SMALL = frozenset(
    re.findall(
        r"\w+",
        """a an and are as at be being by for from has have he her his in into is it its of on or
        she some that the their them there they this to was were which while who with""",
    )
)


def words_of(caption: str) -> list[str]:
    """The words of a caption, in lower case and in order, without the small ones."""
    found = (word.casefold() for word in WORD.findall(caption))
    return [word for word in found if word not in SMALL]


def shared(captions: Sequence[str]) -> list[str]:
    """The words that all captions have, in the order of the first."""
    if not captions:
        return []
    sets = [set(words_of(caption)) for caption in captions]
    return [word for word in dict.fromkeys(words_of(captions[0])) if all(word in s for s in sets)]


def alone(captions: Sequence[str]) -> list[list[str]]:
    """For each caption the words that no other one has, in order."""
    sets = [set(words_of(caption)) for caption in captions]
    return [
        [
            word
            for word in dict.fromkeys(words_of(caption))
            if not any(word in other for j, other in enumerate(sets) if j != i)
        ]
        for i, caption in enumerate(captions)
    ]


def agreement(first: str, second: str) -> float:
    """Dice's coefficient of the words of two captions: 1 if they are the same, 0 if none is."""
    one, other = set(words_of(first)), set(words_of(second))
    if not one and not other:
        return float(first.split() == second.split())
    return 2 * len(one & other) / (len(one) + len(other))


def disagreement(captions: Sequence[str]) -> float | None:
    """1 minus the mean agreement of all pairs of captions; None for fewer than two."""
    pairs = [agreement(*pair) for pair in combinations(captions, 2)]
    return 1 - sum(pairs) / len(pairs) if pairs else None
