import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captax.metrics.bleu import bleu_scores, bleu_statistics
from captax.metrics.ngrams import CaptionNgrams, in_common


def statistics(*images: tuple[str, ...]) -> np.ndarray:
    """Those of images, each a hypothesis and its references."""
    ours = CaptionNgrams([[hypothesis.split()] for hypothesis, *_ in images])
    theirs = CaptionNgrams([[text.split() for text in texts] for _, *texts in images])
    return bleu_statistics(ours, theirs, in_common(ours, theirs, np.arange(len(images))))


def test_an_ngram_counts_at_most_as_often_as_in_one_reference() -> None:
    # Papineni et al.'s example: "the" is twice in the first reference, once in the second.
    found = statistics(("the the the the", "the cat sat on the mat", "there is the cat"))[0]
    assert found[2:6].tolist() == [2, 0, 0, 0]
    assert found[6:].tolist() == [4, 3, 2, 1]


def test_scores_by_hand() -> None:
    # 3 of 4 words, 1 of 3 bigrams ("a dog"), 0 of 2, 0 of 1; lengths 4 and 5.
    found = statistics(("a dog runs here", "a dog here on grass"))
    penalty = math.exp(1 - 5 / 4)
    assert found.tolist() == [[4, 5, 3, 1, 0, 0, 4, 3, 2, 1]]
    bleu_1, bleu_2, bleu_3, bleu_4 = bleu_scores(found)[0]
    assert bleu_1 == pytest.approx(penalty * 3 / 4, rel=1e-8)
    assert bleu_2 == pytest.approx(penalty * math.sqrt(3 / 4 * 1 / 3), rel=1e-8)
    # No match counts as 1e-15.
    assert bleu_3 == pytest.approx(penalty * (3 / 4 * 1 / 3 * 1e-15 / 2) ** (1 / 3), rel=1e-8)
    product = 3 / 4 * 1 / 3 * 1e-15 / 2 * 1e-15
    assert bleu_4 == pytest.approx(penalty * product ** (1 / 4), rel=1e-8)


@pytest.mark.parametrize(
    ("lengths", "closest"), [((3, 5), 3), ((5, 3), 3), ((2, 5), 5), ((9, 4, 5), 4), ((7,), 7)]
)
def test_the_closest_reference_length_and_of_two_the_shorter(
    lengths: tuple[int, ...], closest: int
) -> None:
    # Beside other images, whose references must not count.
    other = ("a b c d", "x x x x")
    found = statistics(other, ("a b c d", *("x " * n for n in lengths)), other)
    assert found[:, 1].tolist() == [4, closest, 4]


def test_a_longer_hypothesis_is_not_penalised_for_length() -> None:
    # All of the reference and one word more: precision alone, 4 of 5.
    found = bleu_scores(statistics(("a dog runs here now", "a dog runs here")))
    assert found[0, 0] == pytest.approx(4 / 5)


def test_a_corpus_is_scored_from_its_sums() -> None:
    # 2 of 2 and 1 of 4 words: 3 of 6, not the mean of 1 and 1/4.
    found = statistics(("a dog", "a dog"), ("x y z cat", "one two three cat"))
    assert bleu_scores(found.sum(0))[0] == pytest.approx(3 / 6)


@pytest.mark.parametrize("reference", ["a dog", ""])
def test_an_empty_hypothesis_scores_0(reference: str) -> None:
    assert bleu_scores(statistics(("", reference)))[0].tolist() == [0, 0, 0, 0]


captions = st.lists(st.sampled_from("abc"), max_size=12).map(" ".join)


@settings(max_examples=100)
@given(st.lists(st.tuples(captions, captions, captions), min_size=1, max_size=5))
def test_matches_are_those_found_by_looking(images: list[tuple[str, str, str]]) -> None:
    def ngrams(text: str, order: int) -> list[tuple[str, ...]]:
        words = text.split()
        return [tuple(words[i : i + order]) for i in range(len(words) - order + 1)]

    for found, (hypothesis, *references) in zip(statistics(*images), images, strict=True):
        for order in range(1, 5):
            ours = ngrams(hypothesis, order)
            matches = sum(
                min(ours.count(each), max(ngrams(text, order).count(each) for text in references))
                for each in set(ours)
            )
            assert (found[1 + order], found[5 + order]) == (matches, len(ours))
