"""How far to believe a map: hide what it points at and see whether the word becomes unlikely.

The measures are deletion and insertion by Petsiuk et al., *RISE* (https://arxiv.org/abs/1806.07421).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from captax.explain.reading import Given, Reader

PARTS = 8
RANDOM_ORDERS = 8
RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class Faithfulness:
    """What a map's ranking of cells does to the probabilities of words.

    `deletion[word, i]` is the probability of the word when the highest cells of its map, a share
    `fractions[i]` of all, are hidden; `insertion[word, i]` is its probability when only these are
    shown. `deletion_area` and `insertion_area` are the mean areas under the curves, from 0 to 1: a
    good map makes the first small and the second large. `score` is insertion minus deletion. Random
    orders score 0 on average; `spread` is the standard deviation of their scores.
    """

    fractions: Float[np.ndarray, " points"]
    deletion: Float[np.ndarray, "words points"]
    insertion: Float[np.ndarray, "words points"]
    spread: float

    @property
    def deletion_area(self) -> float:
        return _area(self.deletion)

    @property
    def insertion_area(self) -> float:
        return _area(self.insertion)

    @property
    def score(self) -> float:
        return self.insertion_area - self.deletion_area


def measure(
    reader: Reader,
    given: Given,
    words: Sequence[tuple[int, ...]],
    rankings: Mapping[str, Float[np.ndarray, "words rows columns"]],
    *,
    seed: int = 0,
) -> dict[str, Faithfulness]:
    """The faithfulness of each method's rankings, and, as `random`, that of chance.

    `words` holds the positions of each word's tokens. Chance is the mean over random orders that
    `seed` determines, each taken forwards and backwards.
    """
    if not words:
        return {}
    grid = next(iter(rankings.values())).shape[1:]
    cells = grid[0] * grid[1]
    cuts = np.round(np.arange(PARTS + 1) / PARTS * cells).astype(int)

    def probabilities(first: Bool[np.ndarray, "orders points cells"]) -> np.ndarray:
        """The probability of every word when these cells are shown: [orders points words]."""
        logprobs = reader.logprobs(given, first.reshape(-1, *grid))
        of_words = np.stack([logprobs[:, list(word)].sum(1) for word in words], axis=1)
        return np.exp(of_words).reshape(*first.shape[:2], len(words))

    ends = probabilities(np.stack([np.ones(cells, bool), np.zeros(cells, bool)])[None])[0]

    def curve(order: Int[np.ndarray, "orders cells"], hide: bool) -> np.ndarray:
        places = order.argsort(1)
        first = places[:, None] < cuts[1:-1, None]
        inner = probabilities(~first if hide else first)
        start, end = ends if hide else ends[::-1]
        whole = np.broadcast_to(start, (len(order), 1, len(words)))
        none = np.broadcast_to(end, (len(order), 1, len(words)))
        return np.concatenate([whole, inner, none], axis=1)

    rng = np.random.default_rng(seed)
    orders = np.stack([rng.permutation(cells) for _ in range(RANDOM_ORDERS)])
    hidden = curve(np.concatenate([orders, orders[:, ::-1]]), True)
    # To show the first cells of an order is to hide the others, the first when it is turned round.
    shown = np.roll(hidden, RANDOM_ORDERS, axis=0)[:, ::-1]
    scores = [_area(b.T) - _area(a.T) for a, b in zip(hidden, shown, strict=True)]
    spread = float(np.std(scores))

    fractions = cuts / cells
    found = {RANDOM: Faithfulness(fractions, hidden.mean(0).T, shown.mean(0).T, spread)}
    for method, ranking in rankings.items():
        order = np.argsort(-ranking.reshape(len(words), -1), axis=1, kind="stable")
        own = np.arange(len(words))
        hidden, shown = (curve(order, hide)[own, :, own] for hide in (True, False))
        found[method] = Faithfulness(fractions, hidden, shown, spread)
    return found


def best_first(found: Mapping[str, Faithfulness]) -> list[tuple[str, Faithfulness]]:
    """Methods with their faithfulness, the highest score first."""
    return sorted(found.items(), key=lambda item: -item[1].score)


def _area(curves: Float[np.ndarray, "words points"]) -> float:
    """The mean area under curves over even points from 0 to 1."""
    return float(((curves[:, 1:] + curves[:, :-1]) / 2).mean())
