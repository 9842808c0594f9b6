"""BLEU-1 to BLEU-4 as the COCO caption evaluation computes them.

Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", ACL 2002; the
brevity penalty takes, per image, the reference length closest to the hypothesis'.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from captax.metrics.ngrams import MAX_ORDER, Ngram, ngram_counts

# The evaluation code's guards against division by zero. They show in its numbers (a caption of
# three words has a BLEU-4 above 0), so they are part of the metric.
TINY = 1e-15
SMALL = 1e-9


@dataclass(frozen=True)
class BleuStatistics:
    """What BLEU is computed from; those of a corpus are the sum of its images'.

    `matches[n - 1]` of the hypothesis' `total[n - 1]` n-grams occur in a reference, each counted at
    most as often as in the reference that has it most often. Lengths are in tokens.
    """

    hypothesis_length: int
    reference_length: int
    matches: tuple[int, ...]
    total: tuple[int, ...]

    def __add__(self, other: "BleuStatistics") -> "BleuStatistics":
        return BleuStatistics(
            self.hypothesis_length + other.hypothesis_length,
            self.reference_length + other.reference_length,
            tuple(map(int.__add__, self.matches, other.matches)),
            tuple(map(int.__add__, self.total, other.total)),
        )

    def scores(self) -> list[float]:
        """BLEU-1, ..., BLEU-4."""
        ratio = (self.hypothesis_length + TINY) / (self.reference_length + SMALL)
        brevity_penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
        scores = []
        precision_product = 1.0
        for order in range(1, MAX_ORDER + 1):
            matches, total = self.matches[order - 1], self.total[order - 1]
            precision_product *= (matches + TINY) / (total + SMALL)
            scores.append(brevity_penalty * precision_product ** (1 / order))
        return scores


NO_BLEU_STATISTICS = BleuStatistics(0, 0, (0,) * MAX_ORDER, (0,) * MAX_ORDER)
"""The statistics of no image: where a sum starts."""


def bleu_statistics(
    hypothesis: Sequence[str], references: Sequence[Sequence[str]]
) -> BleuStatistics:
    """The statistics of one image: its hypothesis' tokens against its references' (at least one).

    Of two reference lengths equally close to the hypothesis', the shorter counts.
    """
    length = len(hypothesis)
    most: Counter[Ngram] = Counter()
    for reference in references:
        most |= ngram_counts(reference)
    matches = [0] * MAX_ORDER
    for ngram, count in ngram_counts(hypothesis).items():
        matches[len(ngram) - 1] += min(count, most[ngram])
    return BleuStatistics(
        hypothesis_length=length,
        reference_length=min(map(len, references), key=lambda other: (abs(other - length), other)),
        matches=tuple(matches),
        total=tuple(max(0, length - order) for order in range(MAX_ORDER)),
    )
