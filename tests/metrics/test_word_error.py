from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flickr8k_captions
from captax.errors import CaptaxError
from captax.metrics.word_error import (
    NO_ERRORS,
    Errors,
    character_errors,
    edit_distance,
    word_errors,
)

sequences = st.lists(st.sampled_from(["a", "b", "c", "é"]), max_size=80)


def by_dynamic_programming(first: list[str], second: list[str]) -> int:
    row = list(range(len(second) + 1))
    for place, token in enumerate(first, 1):
        previous, row = row, [place]
        for column, other in enumerate(second):
            change = previous[column] + (token != other)
            row.append(min(change, previous[column + 1] + 1, row[column] + 1))
    return row[-1]


@settings(max_examples=100)
@given(sequences, sequences)
def test_edit_distance(first: list[str], second: list[str]) -> None:
    assert edit_distance(first, second) == by_dynamic_programming(first, second)


@settings(max_examples=50)
@given(sequences, sequences, sequences)
def test_edit_distance_is_a_distance(a: list[str], b: list[str], c: list[str]) -> None:
    assert edit_distance(a, a) == 0
    assert edit_distance(a, b) == edit_distance(b, a)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


@pytest.mark.parametrize(
    ("hypothesis", "reference", "edits", "rate"),
    [
        ("a dog runs", "a dog runs", 0, 0.0),
        ("a dog", "a dog runs", 1, 1 / 3),
        ("the big dog runs", "a dog runs", 2, 2 / 3),
        ("dog a", "a dog", 2, 1.0),
        ("a b c d", "x", 4, 4.0),
        ("", "a dog", 2, 1.0),
        # As in jiwer, where a reference of no words has no rate.
        ("", "", 0, 0.0),
        ("a dog", "", 2, 2.0),
    ],
)
def test_words(hypothesis: str, reference: str, edits: int, rate: float) -> None:
    found = word_errors(hypothesis.split(), [reference.split()])
    assert found == Errors(edits, len(reference.split()))
    assert found.rate == pytest.approx(rate)


def test_characters() -> None:
    # "kitten": s for k, i for e, and a g more; of the reference's 7 letters.
    assert character_errors(" kitten\n", ["\tsitting "]) == Errors(3, 7)
    assert character_errors("a b", ["a  b"]) == Errors(1, 4)
    assert character_errors("naïve", ["naive"]) == Errors(1, 5)


def test_the_reference_of_the_lowest_rate_counts() -> None:
    # 3 edits of 5 words are fewer than 1 of 1.
    assert word_errors(["a", "b"], [["a"], ["a", "b", "c", "d", "e"]]) == Errors(3, 5)


def test_a_corpus_is_the_sum_of_its_captions() -> None:
    total = NO_ERRORS
    for hypothesis, reference in [("a", "a b c"), ("d", "d"), ("x y", "")]:
        total += word_errors(hypothesis.split(), [reference.split()])
    assert total == Errors(4, 4)
    assert total.rate == 1


def test_without_a_reference() -> None:
    with pytest.raises(CaptaxError, match="needs a reference"):
        word_errors(["a"], [])
    with pytest.raises(CaptaxError, match="needs a reference"):
        character_errors("a", [])


@pytest.mark.data
@pytest.mark.parity
def test_equals_jiwer_on_flickr8k(shared_data: Path) -> None:
    jiwer = pytest.importorskip("jiwer")
    captions = flickr8k_captions.read_dev(shared_data)
    references = [texts[1] for texts in captions.values()][:200]
    for kind, hypotheses in flickr8k_captions.hypotheses(captions).items():
        texts = list(hypotheses.values())[:200]
        pairs = list(zip(texts, references, strict=True))
        # jiwer splits at spaces alone, and not at the no-break space.
        words = [word_errors(ours.split(" "), [theirs.split(" ")]) for ours, theirs in pairs]
        assert sum(words, NO_ERRORS).rate == pytest.approx(
            jiwer.wer(references, texts), abs=1e-9
        ), kind
        characters = [character_errors(ours, [theirs]) for ours, theirs in pairs]
        assert sum(characters, NO_ERRORS).rate == pytest.approx(
            jiwer.cer(references, texts), abs=1e-9
        ), kind


@pytest.mark.parity
@pytest.mark.parametrize(("hypothesis", "reference"), [("", ""), ("a b", ""), ("", "a b")])
def test_equals_jiwer_on_empty_texts(hypothesis: str, reference: str) -> None:
    jiwer = pytest.importorskip("jiwer")
    assert word_errors(hypothesis.split(), [reference.split()]).rate == jiwer.wer(
        reference, hypothesis
    )
    assert character_errors(hypothesis, [reference]).rate == jiwer.cer(reference, hypothesis)
