"""BLEU-1 to BLEU-4 as the COCO caption evaluation computes them.

Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", ACL 2002; the
brevity penalty takes, per image, the reference length closest to the hypothesis'.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

from captax.metrics.ngrams import MAX_ORDER, CaptionNgrams, Common

# The evaluation code's guards against division by zero. They show in its numbers (a caption of
# three words has a BLEU-4 above 0), so they are part of the metric.
TINY = 1e-15
SMALL = 1e-9


def bleu_statistics(
    hypotheses: CaptionNgrams, references: CaptionNgrams, common: Sequence[Common]
) -> Int[np.ndarray, "images 10"]:
    """What BLEU is computed from; the statistics of a corpus are the sum of its images'.

    Columns: the hypothesis' length and that of the reference closest in length (of two equally
    close, the shorter), in tokens; how many of its n-grams of 1, 2, 3 and 4 tokens occur in a
    reference, each counted at most as often as in the reference that has it most often; and how
    many n-grams of each order it has.

    Args:
        hypotheses: one caption an image.
        references: the captions of the same images, at least one each.
        common: what `in_common` gives for them.
    """
    lengths = hypotheses.lengths
    images = len(lengths)
    away = np.abs(references.lengths - np.repeat(lengths, np.diff(references.first)))
    span = int(references.lengths.max(initial=0)) + 1
    closest = np.minimum.reduceat(away * span + references.lengths, references.first[:-1]) % span
    columns = [lengths, closest]
    for ours, theirs, shared in zip(hypotheses.counts, references.counts, common, strict=True):
        most = np.zeros_like(ours.count)
        np.maximum.at(most, shared.ours, theirs.count[shared.theirs])
        matches = np.zeros(images, np.int64)
        np.add.at(matches, ours.caption, np.minimum(ours.count, most))
        columns.append(matches)
    columns += [np.maximum(0, lengths - order) for order in range(MAX_ORDER)]
    return np.stack(columns, -1)


def bleu_scores(statistics: Shaped[np.ndarray, "*sets 10"]) -> Float[np.ndarray, "*sets 4"]:
    """BLEU-1, ..., BLEU-4 of statistics, each of an image or the sum of several."""
    statistics = statistics.astype(np.float64)
    ratio = (statistics[..., :1] + TINY) / (statistics[..., 1:2] + SMALL)
    penalty = np.exp(np.minimum(0, 1 - 1 / ratio))
    matches, total = statistics[..., 2 : 2 + MAX_ORDER], statistics[..., 2 + MAX_ORDER :]
    products = np.cumprod((matches + TINY) / (total + SMALL), -1)
    return penalty * products ** (1 / np.arange(1, MAX_ORDER + 1))
