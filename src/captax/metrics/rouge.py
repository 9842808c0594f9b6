"""ROUGE-L as the COCO caption evaluation computes it.

Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.
"""

from collections.abc import Sequence

BETA = 1.2
"""The weight of recall relative to precision."""


def rouge_l(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The F-measure of the longest common subsequence of one image's tokens, in [0, 1].

    L is the length of that subsequence. Precision P is the largest L / |hypothesis| and recall R
    the largest L / |reference| over the references, of which there must be at least one; the two
    may come from different references. F = (1 + beta²) P R / (R + beta² P). The ROUGE-L of a corpus
    is the mean over its images.
    """
    # The evaluation code splits "" into one empty token, so two empty captions are equal.
    hypothesis = hypothesis or [""]
    precision = recall = 0.0
    for reference in references:
        reference = reference or [""]
        common = longest_common_subsequence(hypothesis, reference)
        precision = max(precision, common / len(hypothesis))
        recall = max(recall, common / len(reference))
    if precision == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence.

    Dynamic programming with one row for each token of `second`. A row is kept as the bits of an
    integer; a zero bit marks a place in `first` where the length grows. Hyyrö, "Bit-Parallel
    LCS-length Computation Revisited", 2004.
    """
    places: dict[str, int] = {}
    for place, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << place
    every = (1 << len(first)) - 1
    row = every
    for token in second:
        matches = row & places.get(token, 0)
        row = ((row + matches) | (row - matches)) & every
    return len(first) - row.bit_count()
