"""CIDEr-D as the COCO caption evaluation computes it, fast enough for a reward, and CIDEr.

Vedantam, Zitnick and Parikh, "CIDEr: Consensus-based Image Description Evaluation", CVPR 2015.
"""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from captax.errors import CaptaxError, quoted
from captax.files import TABLE_LIMIT, Kind, parse_json, read_text, write_text
from captax.metrics.ngrams import MAX_ORDER, CaptionNgrams, Common, NgramTable, in_common

SIGMA = 6.0
"""Standard deviation, in tokens, of CIDEr-D's penalty for a length unlike the reference's."""

# What `DocumentFrequencies.write` writes.
FREQUENCIES = Kind(
    "file of document frequencies", re.compile(rb'{"images": \d+, "frequencies": {'), (".json",)
)


class DocumentFrequencies:
    """For each n-gram, the number of images whose references contain it.

    The rarer an n-gram is, the more it counts in CIDEr. An n-gram that no reference contains counts
    as if one image's references contained it.

    Attributes:
        images: the number of images whose references were counted.
    """

    def __init__(
        self, images: int, table: NgramTable, frequencies: Sequence[Int[np.ndarray, " _"]]
    ) -> None:
        self.images = images
        self._table = table
        # The last entry, which index -1 finds, is for n-grams that are not in the table.
        self._frequencies = [np.append(each, 1) for each in frequencies]

    @classmethod
    def of(cls, references: CaptionNgrams) -> "DocumentFrequencies":
        """Count the document frequencies of `references`."""
        frequencies = []
        for counts, keys in zip(references.counts, references.table.keys, strict=True):
            # Whether the caption is the first of its image that has the n-gram.
            first = np.diff(counts.key, prepend=-1) > 0
            frequencies.append(np.bincount(counts.ngram[first], minlength=len(keys)))
        return cls(len(references.first) - 1, references.table, frequencies)

    def weights(self, table: NgramTable) -> list[Float[np.ndarray, " _"]]:
        """For each order, the inverse document frequencies log(images / frequency) of n-grams."""
        most = math.log(self.images)
        pairs = zip(self._frequencies, self._table.locate(table), strict=True)
        return [most - np.log(known[places]) for known, places in pairs]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write them as JSON: `images`, and `frequencies` by n-gram ("a dog") where above 1.

        Raises:
            OutputError: the file cannot be written.
        """
        content: dict[str, int] = {}
        for order, frequencies in enumerate(self._frequencies, 1):
            pairs = zip(self._table.texts(order), frequencies[:-1].tolist(), strict=True)
            content |= {text: frequency for text, frequency in pairs if frequency > 1}
        document = {"images": self.images, "frequencies": content}
        write_text(Path(path), json.dumps(document, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "DocumentFrequencies":
        """Read a file that `write` wrote.

        Raises:
            CaptaxError: the file cannot be read, or does not hold document frequencies.
        """
        fault = f"{path}: holds no document frequencies as `captax score` writes them"
        again = "write the file again with `captax score --write-document-frequencies`"
        try:
            document = parse_json(read_text(path, limit=TABLE_LIMIT))
            images, frequencies = document["images"], document["frequencies"]
        except OSError as error:
            raise CaptaxError(
                f"{path}: cannot be read ({error.strerror}); give a file that you may read"
            ) from None
        except (ValueError, TypeError, KeyError) as error:
            raise CaptaxError(f"{fault} ({error}); {again}") from None
        if not isinstance(images, int) or not isinstance(frequencies, dict):
            raise CaptaxError(
                f"{fault} (images must be a number, and frequencies an object); {again}"
            )
        for text, count in frequencies.items():
            if not isinstance(count, int) or not 1 <= count <= images:
                raise CaptaxError(
                    f"{fault} ({quoted(text)}: {quoted(count)} must be a count of 1 to {images}); "
                    f"{again}"
                )
        # Every n-gram becomes a caption. Its beginning is as frequent, so it is in the file too.
        texts = [text.split() for text in frequencies]
        table = CaptionNgrams([texts]).table
        values = []
        for order in range(1, MAX_ORDER + 1):
            try:
                values.append(np.array([frequencies[t] for t in table.texts(order)], np.int64))
            except KeyError as missing:
                raise CaptaxError(
                    f"{fault} ({missing} is missing, but a longer n-gram that contains it is not); "
                    f"{again}"
                ) from None
        return cls(images, table, values)


class TfIdf:
    """The tf-idf vectors of captions, one for each order of n-grams.

    Attributes:
        ngrams: the captions' n-grams.
        weights: for each order, the weight of each entry of `ngrams.counts`.
        norms: for each order, the Euclidean norms of the captions' vectors.
    """

    def __init__(self, ngrams: CaptionNgrams, frequencies: DocumentFrequencies) -> None:
        self.ngrams = ngrams
        orders = zip(ngrams.counts, frequencies.weights(ngrams.table), strict=True)
        self.weights = [counts.count * weights[counts.ngram] for counts, weights in orders]
        self.norms = [
            np.sqrt(np.bincount(counts.caption, weights**2, len(ngrams.lengths)))
            for counts, weights in zip(ngrams.counts, self.weights, strict=True)
        ]


def cider(
    hypotheses: TfIdf,
    references: TfIdf,
    common: Sequence[Common],
    image: Int[np.ndarray, " hypotheses"],
    *,
    clipped: bool,
) -> Float[np.ndarray, " hypotheses"]:
    """Compute CIDEr of each hypothesis, or CIDEr-D if `clipped`.

    The value is ten times the mean, over n-gram orders and references, of the vectors' cosine. It
    is 10 for a caption that is equal to all its references. For CIDEr-D, the hypothesis' weights
    are clipped at the reference's, so that repeating a rare n-gram does not raise the score, and a
    length that differs from the reference's is penalised.

    Args:
        hypotheses: the vectors of one caption for each hypothesis.
        references: the vectors of the images' references.
        common: the result of `in_common` for the two.
        image: for each hypothesis, the index of its image in `references`.
        clipped: whether to compute CIDEr-D.
    """
    first = references.ngrams.first
    many = (first[1:] - first[:-1])[image]
    # Pair every hypothesis with every reference of its image.
    begin = many.cumsum() - many
    ours = np.repeat(np.arange(len(many)), many)
    theirs = np.arange(len(ours)) - begin[ours] + first[image][ours]
    similarity = np.zeros(len(ours))
    for order, shared in enumerate(common):
        hypothesis = hypotheses.ngrams.counts[order].caption[shared.ours]
        reference = references.ngrams.counts[order].caption[shared.theirs]
        weight = hypotheses.weights[order][shared.ours]
        other = references.weights[order][shared.theirs]
        product = (np.minimum(weight, other) if clipped else weight) * other
        pair = begin[hypothesis] + reference - first[image[hypothesis]]
        dot = np.bincount(pair, product, len(ours))
        norm = hypotheses.norms[order][ours] * references.norms[order][theirs]
        similarity += np.divide(dot, norm, out=np.zeros(len(ours)), where=norm > 0)
    if clipped:
        longer = hypotheses.ngrams.lengths[ours] - references.ngrams.lengths[theirs]
        similarity *= np.exp(-(longer**2) / (2 * SIGMA**2))
    return 10 * np.bincount(ours, similarity, len(many)) / (MAX_ORDER * many)


class CiderD:
    """CIDEr-D against a fixed set of references, whose vectors are computed once.

    Args:
        references: image id -> one or more captions as tokens.
        frequencies: document frequencies; by default those of `references`. With a single image
            these make every weight log 1 - log 1 = 0, and therefore every score 0.

    Raises:
        CaptaxError: there is no image, or an image has no reference.
    """

    def __init__(
        self,
        references: Mapping[str, Sequence[Sequence[str]]],
        frequencies: DocumentFrequencies | None = None,
    ) -> None:
        if not references:
            raise CaptaxError("CIDEr-D needs references: give at least one image")
        for image, captions in references.items():
            if not captions:
                raise CaptaxError(
                    f"image {quoted(image)} has no reference: give at least one caption"
                )
        ngrams = CaptionNgrams(list(references.values()))
        self._frequencies = frequencies or DocumentFrequencies.of(ngrams)
        self._references = TfIdf(ngrams, self._frequencies)
        self._places = {image: place for place, image in enumerate(references)}

    def score(
        self, images: Sequence[str], hypotheses: Sequence[Sequence[str]]
    ) -> Float[np.ndarray, " hypotheses"]:
        """Compute CIDEr-D of each hypothesis for its image.

        Args:
            images: the image id of each hypothesis; an id may occur several times, or not at all.
            hypotheses: the tokens of each hypothesis.

        Raises:
            CaptaxError: an image has no references, or the numbers of images and hypotheses differ.
        """
        if len(images) != len(hypotheses):
            raise CaptaxError(
                f"{len(hypotheses)} hypotheses for {len(images)} images: give one image for each"
            )
        unknown = next((image for image in images if image not in self._places), None)
        if unknown is not None:
            raise CaptaxError(
                f"image {quoted(unknown)} has no references: add references or remove its "
                "hypothesis"
            )
        image = np.array([self._places[name] for name in images], np.int64)
        ngrams = CaptionNgrams([[tokens] for tokens in hypotheses])
        common = in_common(ngrams, self._references.ngrams, image)
        vectors = TfIdf(ngrams, self._frequencies)
        return cider(vectors, self._references, common, image, clipped=True)
