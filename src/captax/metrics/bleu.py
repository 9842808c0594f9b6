"""BLEU-1 to BLEU-4 as the COCO caption evaluation computes them.

Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", ACL 2002; the
brevity penalty uses, for each image, the reference length closest to the hypothesis' length.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

from captax.metrics.ngrams import MAX_ORDER, CaptionNgrams, Common

# The evaluation code adds these against division by zero. They change its results (a caption of
# three words has a BLEU-4 above 0), so they are part of the metric.
TINY = 1e-15
SMALL = 1e-9


def bleu_statistics(
    hypotheses: CaptionNgrams, references: CaptionNgrams, common: Sequence[Common]
) -> Int[np.ndarray, "images 10"]:
    """Compute the counts behind BLEU; the statistics of a corpus are the sum over its images.

    The columns are, in this order: the hypothesis' length in tokens; the length of the reference
    closest in length (the shorter one if two are equally close); for n-grams of 1, 2, 3 and 4
    tokens, how many occur in a reference, each counted at most as often as in the reference that
    has it most often; and how many n-grams of each order the hypothesis has.

    Args:
        hypotheses: one caption for each image.
        references: at least one caption for each of the same images.
        common: the result of `in_common` for the two.
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
    """BLEU-1 to BLEU-4 from statistics of single images, or from their sum over several."""
    statistics = statistics.astype(np.float64)
    ratio = (statistics[..., :1] + TINY) / (statistics[..., 1:2] + SMALL)
    penalty = np.exp(np.minimum(0, 1 - 1 / ratio))
    matches, total = statistics[..., 2 : 2 + MAX_ORDER], statistics[..., 2 + MAX_ORDER :]
    products = np.cumprod((matches + TINY) / (total + SMALL), -1)
    return penalty * products ** (1 / np.arange(1, MAX_ORDER + 1))
