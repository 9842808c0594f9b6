"""N-grams counted over whole sets of captions at once: what BLEU and CIDEr are made of.

N-grams are numbered, so that counting them is sorting integers. One of n words is numbered by the
number of its first n - 1 and that of its last. Words are numbered in alphabetical order: sums
over a caption's n-grams come out the same whatever other captions there are, and in any order.
"""

import dataclasses
from collections.abc import Sequence
from itertools import chain

import numpy as np
from jaxtyping import Int

MAX_ORDER = 4
"""Both metrics count n-grams of 1 to 4 tokens."""


class NgramTable:
    """A numbering of some n-grams, those of each order by themselves.

    Attributes:
        words: the words, by their numbers.
        keys: for each order, the keys of its n-grams, ascending; an n-gram's number is the place of
            its key. A word's key is its number; that of a longer n-gram is (number of the n-gram
            before its last word) · (count of words) + (number of its last word).
    """

    def __init__(self, words: Sequence[str], keys: Sequence[Int[np.ndarray, " _"]]) -> None:
        self.words = words
        self.keys = keys
        self._numbers = {word: number for number, word in enumerate(words)}

    def locate(self, other: "NgramTable") -> list[Int[np.ndarray, " _"]]:
        """For each order, the numbers here of the n-grams of `other`; -1 for one that is not."""
        words = np.array([self._numbers.get(word, -1) for word in other.words], np.int64)
        found = [words]
        for here, there in zip(self.keys[1:], other.keys[1:], strict=True):
            start, last = np.divmod(there, max(1, len(other.words)))
            start, last = found[-1][start], words[last]
            keys = np.where((start < 0) | (last < 0), -1, start * len(self.words) + last)
            places = np.searchsorted(here, keys)
            known = places < len(here)
            known[known] = here[places[known]] == keys[known]
            found.append(np.where(known, places, -1))
        return found

    def texts(self, order: int) -> list[str]:
        """The n-grams of `order` words by their numbers, each as words with spaces between."""
        texts = list(self.words)
        for keys in self.keys[1:order]:
            starts, lasts = np.divmod(keys, max(1, len(self.words)))
            pairs = zip(starts.tolist(), lasts.tolist(), strict=True)
            texts = [f"{texts[start]} {self.words[last]}" for start, last in pairs]
        return texts


@dataclasses.dataclass(frozen=True)
class Counts:
    """Which captions have which n-grams of one order how often.

    Attributes:
        key: (image) · `kinds` + (n-gram), ascending; of equal ones, by caption.
        kinds: how many n-grams there are.
        caption: the place of the caption among all.
        count: how often it has the n-gram.
    """

    key: Int[np.ndarray, " entries"]
    kinds: int
    caption: Int[np.ndarray, " entries"]
    count: Int[np.ndarray, " entries"]

    @property
    def ngram(self) -> Int[np.ndarray, " entries"]:
        return self.key % self.kinds


@dataclasses.dataclass(frozen=True)
class Common:
    """The n-grams of one order that hypotheses have in common with references of their image.

    `ours` and `theirs` are places in the `Counts` of the hypotheses and of the references.
    """

    ours: Int[np.ndarray, " pairs"]
    theirs: Int[np.ndarray, " pairs"]


class CaptionNgrams:
    """The n-grams of captions: of each image, one or more captions as tokens.

    Attributes:
        first: the place of each image's first caption among all, then how many there are.
        lengths: of the captions, in tokens.
        table: a numbering of the n-grams that there are.
        counts: for each order, which captions have which n-grams.
    """

    def __init__(self, images: Sequence[Sequence[Sequence[str]]]) -> None:
        captions = list(chain.from_iterable(images))
        tokens = list(chain.from_iterable(captions))
        many = np.fromiter(map(len, images), np.int64, len(images))
        self.first = np.append(0, many.cumsum())
        self.lengths = np.fromiter(map(len, captions), np.int64, len(captions))

        vocabulary = sorted(set(tokens))
        numbers = {word: number for number, word in enumerate(vocabulary)}
        words = np.fromiter(map(numbers.__getitem__, tokens), np.int64, len(tokens))
        # Of each place in `words`: its caption, its caption's image, and where the caption ends.
        caption = np.repeat(np.arange(len(captions)), self.lengths)
        image = np.repeat(np.arange(len(images)), many)[caption]
        end = self.lengths.cumsum()[caption]

        places, ngrams = np.arange(len(words)), words
        keys = [np.arange(len(vocabulary))]
        self.counts = [self._count(image, ngrams, caption)]
        for order in range(2, MAX_ORDER + 1):
            fits = places + order <= end[places]
            places = places[fits]
            following = words[places + order - 1]
            distinct, ngrams = np.unique(
                ngrams[fits] * len(vocabulary) + following, return_inverse=True
            )
            keys.append(distinct)
            self.counts.append(self._count(image[places], ngrams, caption[places]))
        self.table = NgramTable(vocabulary, keys)

    def _count(
        self,
        image: Int[np.ndarray, " n"],
        ngram: Int[np.ndarray, " n"],
        caption: Int[np.ndarray, " n"],
    ) -> Counts:
        most = int(np.diff(self.first).max(initial=1))
        kinds = int(ngram.max(initial=0)) + 1
        keys = (image * kinds + ngram) * most + (caption - self.first[image])
        keys, count = np.unique(keys, return_counts=True)
        keys, caption = np.divmod(keys, most)
        return Counts(keys, kinds, self.first[keys // kinds] + caption, count)


def in_common(
    hypotheses: CaptionNgrams, references: CaptionNgrams, image: Int[np.ndarray, " hypotheses"]
) -> list[Common]:
    """For each order, what each hypothesis has in common with each reference of its image.

    `image` is the image of each hypothesis among those of `references`.
    """
    found = []
    located = references.table.locate(hypotheses.table)
    for ours, theirs, numbers in zip(hypotheses.counts, references.counts, located, strict=True):
        ngram = numbers[ours.ngram]
        wanted = np.where(ngram < 0, -1, image[ours.caption] * theirs.kinds + ngram)
        begin = np.searchsorted(theirs.key, wanted)
        many = np.searchsorted(theirs.key, wanted, "right") - begin
        # The ranges begin[e] ... begin[e] + many[e], end to end.
        within = np.arange(many.sum()) - np.repeat(many.cumsum() - many, many)
        found.append(Common(np.repeat(np.arange(len(many)), many), np.repeat(begin, many) + within))
    return found
