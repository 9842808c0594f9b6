import math

import pytest

from captax.metrics.bleu import NO_BLEU_STATISTICS, BleuStatistics, bleu_statistics


def statistics(hypothesis: str, *references: str) -> BleuStatistics:
    return bleu_statistics(hypothesis.split(), [reference.split() for reference in references])


def test_an_ngram_counts_at_most_as_often_as_in_one_reference() -> None:
    # Papineni et al.'s example: "the" is twice in the first reference, once in the second.
    found = statistics("the the the the", "the cat sat on the mat", "there is the cat")
    assert found.matches == (2, 0, 0, 0)
    assert found.total == (4, 3, 2, 1)


def test_scores_by_hand() -> None:
    # 3 of 4 words, 1 of 3 bigrams ("a dog"), 0 of 2, 0 of 1; lengths 4 and 5.
    found = statistics("a dog runs here", "a dog here on grass")
    penalty = math.exp(1 - 5 / 4)
    assert found.matches == (3, 1, 0, 0)
    bleu_1, bleu_2, bleu_3, bleu_4 = found.scores()
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
    assert statistics("a b c d", *("x " * n for n in lengths)).reference_length == closest


def test_a_longer_hypothesis_is_not_penalised_for_length() -> None:
    # All of the reference and one word more: precision alone, 4 of 5.
    assert statistics("a dog runs here now", "a dog runs here").scores()[0] == pytest.approx(4 / 5)


def test_a_corpus_is_scored_from_its_sums() -> None:
    # 2 of 2 and 1 of 4 words: 3 of 6, not the mean of 1 and 1/4.
    total = statistics("a dog", "a dog") + statistics("x y z cat", "one two three cat")
    assert total.scores()[0] == pytest.approx(3 / 6)
    assert total == sum(
        [statistics("x y z cat", "one two three cat"), statistics("a dog", "a dog")],
        NO_BLEU_STATISTICS,
    )


@pytest.mark.parametrize("reference", ["a dog", ""])
def test_an_empty_hypothesis_scores_0(reference: str) -> None:
    assert statistics("", reference).scores() == [0, 0, 0, 0]
