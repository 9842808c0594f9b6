"""ROUGE-L as the COCO caption evaluation computes it.

Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.
"""

from collections.abc import Sequence

BETA = 1.2
"""How much more recall weighs than precision."""


def rouge_l(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The F-measure of the longest common subsequence of one image's tokens, in [0, 1].

    With L the length of that subsequence, precision is the best L / |hypothesis| and recall the
    best L / |reference| over the references (at least one), each taken by itself:
    F = (1 + beta²) P R / (R + beta² P). A corpus' ROUGE-L is the mean over its images.
    """
    # The evaluation code splits "" into one empty token, so that two empty captions agree.
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

    The dynamic programme's rows as the bits of an integer, a row per token of `second`:
    a zero bit marks where the length grows along `first`. Hyyrö, "Bit-Parallel LCS-length
    Computation Revisited", 2004.
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
