"""N-gram counts, shared by BLEU and CIDEr-D."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain

Ngram = tuple[str, ...]

MAX_ORDER = 4
"""Both metrics count n-grams of 1 to 4 tokens."""


def ngram_counts(tokens: Sequence[str]) -> Counter[Ngram]:
    """How often each n-gram of 1 to `MAX_ORDER` tokens occurs in `tokens`."""
    suffixes = [tokens[start:] for start in range(MAX_ORDER)]
    ngrams = (zip(*suffixes[:order], strict=False) for order in range(1, MAX_ORDER + 1))
    return Counter(chain.from_iterable(ngrams))
