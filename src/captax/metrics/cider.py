"""CIDEr-D as the COCO caption evaluation computes it, fast enough for a training reward.

Vedantam, Zitnick and Parikh, "CIDEr: Consensus-based Image Description Evaluation", CVPR 2015.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from captax.errors import CaptaxError
from captax.metrics.ngrams import MAX_ORDER, Ngram, ngram_counts

SIGMA = 6.0
"""Standard deviation, in tokens, of the penalty on a length unlike the reference's."""


@dataclass(frozen=True)
class _ImageReferences:
    """One image's references, by n-gram: looking up a hypothesis' n-grams is all the work."""

    # n-gram -> (reference, its tf-idf weight there), for the references that have it
    weights: dict[Ngram, list[tuple[int, float]]]
    # [reference][order - 1]: Euclidean norm of the tf-idf vector of that order
    norms: list[list[float]]
    lengths: list[int]


class CiderD:
    """CIDEr-D against a fixed set of references.

    The document frequencies (in how many images' references an n-gram occurs) are those of
    `references`, image id -> one or more tokenised captions; they and the references' tf-idf
    vectors are computed once, here.

    With a single image every document frequency weight is log 1 - log 1 = 0, hence every score.

    Raises:
        CaptaxError: there is no image, or an image without a reference.
    """

    def __init__(self, references: Mapping[str, Sequence[Sequence[str]]]) -> None:
        if not references:
            raise CaptaxError("CIDEr-D needs references: give at least one image")
        document_frequency: Counter[Ngram] = Counter()
        for image, captions in references.items():
            if not captions:
                raise CaptaxError(f"image {image!r} has no reference: give at least one caption")
            document_frequency.update(set().union(*map(ngram_counts, captions)))
        # An n-gram of no reference counts as if it occurred in one image.
        self._unseen_idf = math.log(len(references))
        self._idf = {
            ngram: self._unseen_idf - math.log(frequency)
            for ngram, frequency in document_frequency.items()
        }
        self._images = {image: self._vectors(captions) for image, captions in references.items()}

    def score(
        self, hypotheses: Mapping[str, Sequence[str]]
    ) -> tuple[float, Float[np.ndarray, " images"]]:
        """The mean and each image's CIDEr-D, in the order of `hypotheses` (id -> tokens).

        A score is ten times the mean over n-gram orders and references of the similarity: 10 for
        a caption equal to all its references. Scoring only some of the images is fine.

        Raises:
            CaptaxError: an image has no references here, or there is no hypothesis.
        """
        if not hypotheses:
            raise CaptaxError("CIDEr-D needs hypotheses: give at least one image")
        scores = np.array([self.score_image(image, tokens) for image, tokens in hypotheses.items()])
        return float(scores.mean()), scores

    def score_image(self, image: str, hypothesis: Sequence[str]) -> float:
        """CIDEr-D of one hypothesis' tokens for one image.

        Raises:
            CaptaxError: the image has no references here.
        """
        references = self._images.get(image)
        if references is None:
            raise CaptaxError(f"image {image!r} has no references: add them or drop its hypothesis")
        dot = [[0.0] * MAX_ORDER for _ in references.lengths]
        squares = [0.0] * MAX_ORDER
        for ngram, count in ngram_counts(hypothesis).items():
            order = len(ngram) - 1
            weight = count * self._idf.get(ngram, self._unseen_idf)
            squares[order] += weight * weight
            for reference, reference_weight in references.weights.get(ngram, ()):
                # Clipped, so that repeating a rare n-gram does not pay.
                dot[reference][order] += min(weight, reference_weight) * reference_weight
        norms = [math.sqrt(square) for square in squares]
        length = len(hypothesis)
        total = 0.0
        for reference, reference_length in enumerate(references.lengths):
            similarity = sum(
                product / (norm * reference_norm)
                for product, norm, reference_norm in zip(
                    dot[reference], norms, references.norms[reference], strict=True
                )
                if product
            )
            total += similarity * math.exp(-((length - reference_length) ** 2) / (2 * SIGMA**2))
        return 10 * total / (MAX_ORDER * len(references.lengths))

    def _vectors(self, captions: Sequence[Sequence[str]]) -> _ImageReferences:
        weights: dict[Ngram, list[tuple[int, float]]] = {}
        norms = []
        for reference, tokens in enumerate(captions):
            squares = [0.0] * MAX_ORDER
            for ngram, count in ngram_counts(tokens).items():
                weight = count * self._idf[ngram]
                squares[len(ngram) - 1] += weight * weight
                weights.setdefault(ngram, []).append((reference, weight))
            norms.append([math.sqrt(square) for square in squares])
        return _ImageReferences(weights, norms, [len(tokens) for tokens in captions])
