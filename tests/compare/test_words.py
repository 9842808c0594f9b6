"""Which words captions share."""

import pytest

from captax.compare.words import agreement, alone, disagreement, shared, words_of


def test_words_are_those_that_people_see() -> None:
    assert words_of("The dog's toy, a wind-up MOUSE!") == ["dog's", "toy", "wind-up", "mouse"]
    assert words_of("Ein Hund im Gras, 犬") == ["ein", "hund", "im", "gras", "犬"]


def test_words_of_all_and_of_one() -> None:
    captions = ["a dog runs on grass", "a brown dog on the grass", "dog and ball"]
    assert shared(captions) == ["dog"]
    assert alone(captions) == [["runs"], ["brown"], ["ball"]]
    assert shared([]) == [] and alone([]) == []


def test_agreement_is_dices_coefficient() -> None:
    assert agreement("a red car", "the car, red") == 1
    assert agreement("a red car", "a blue car") == pytest.approx(2 / 4)
    assert agreement("a red car", "two dogs play") == 0
    # Without words it matters only whether they are the same.
    assert agreement("the", "the") == 1 and agreement("", "of") == 0
    assert disagreement(["a cat", "a cat", "a dog"]) == pytest.approx(2 / 3)
    assert disagreement(["a cat"]) is None
