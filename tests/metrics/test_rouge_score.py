from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flickr8k_captions
from captax.errors import CaptaxError
from captax.metrics.rouge_score import porter_stem, rouge_score, rouge_words

NAMES = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL"}


def test_values_by_hand() -> None:
    found = rouge_score("The brown dog runs, runs fast!", ["a brown dog runs on the lawn"])
    one, two, longest = found["ROUGE-1"], found["ROUGE-2"], found["ROUGE-L"]
    # the, brown, dog and one of two runs: 4 of 6 words and of 7.
    assert (one.precision, one.recall) == pytest.approx((4 / 6, 4 / 7))
    assert one.f == pytest.approx(8 / 13)
    # brown dog, dog runs: 2 of 5 pairs and of 6.
    assert (two.precision, two.recall) == pytest.approx((2 / 5, 2 / 6))
    # brown dog runs
    assert (longest.precision, longest.recall) == pytest.approx((3 / 6, 3 / 7))


def test_the_best_reference_counts_for_each_by_itself() -> None:
    found = rouge_score("a b c", ["c b a", "a b x y z"])
    assert found["ROUGE-1"].f == 1  # of the first
    assert found["ROUGE-2"].recall == pytest.approx(1 / 4)  # of the second
    # All of "a" is found, but it is little of the hypothesis.
    assert rouge_score("a b c d", ["a", "a b c x"])["ROUGE-1"].precision == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    ("hypothesis", "reference"), [("", "a dog"), ("a dog", ""), ("", ""), ("漢字", "漢字")]
)
def test_without_words_all_is_0(hypothesis: str, reference: str) -> None:
    for score in rouge_score(hypothesis, [reference]).values():
        assert (score.precision, score.recall, score.f) == (0, 0, 0)


def test_without_a_reference() -> None:
    with pytest.raises(CaptaxError, match="ROUGE needs a reference"):
        rouge_score("a", [])


@pytest.mark.parametrize(
    ("word", "stem"),
    [
        # Examples of Porter's paper.
        ("caresses", "caress"),
        ("ponies", "poni"),
        ("feed", "feed"),
        ("agreed", "agre"),
        ("hopping", "hop"),
        ("falling", "fall"),
        ("filing", "file"),
        ("happy", "happi"),
        ("relational", "relat"),
        ("conditional", "condit"),
        ("hopefulness", "hope"),
        ("revival", "reviv"),
        ("adoption", "adopt"),
        ("cease", "ceas"),
        ("controlling", "control"),
        # NLTK's changes to it.
        ("dies", "die"),
        ("dying", "die"),
        ("aging", "age"),
        ("enjoy", "enjoy"),
        ("spied", "spi"),
        ("geologi", "geolog"),
        ("hopefulli", "hope"),
        ("news", "news"),
    ],
)
def test_stems(word: str, stem: str) -> None:
    assert porter_stem(word) == stem


def test_words_of_up_to_three_letters_keep_their_endings() -> None:
    assert rouge_words("Its cats' ties", stem=True) == ["its", "cat", "tie"]
    assert rouge_words("Its cats' ties") == ["its", "cats", "ties"]


@given(st.text(alphabet="ab ", max_size=30), st.text(alphabet="ab ", max_size=30))
def test_swapping_the_texts_swaps_precision_and_recall(first: str, second: str) -> None:
    there, back = rouge_score(first, [second]), rouge_score(second, [first])
    for name, score in there.items():
        assert (score.precision, score.recall) == (back[name].recall, back[name].precision)
        assert 0 <= score.f <= 1


@pytest.mark.parity
@given(st.text(alphabet="abdegilnostuyz", max_size=14))
def test_stems_equal_nltks(word: str) -> None:
    porter = pytest.importorskip("nltk.stem.porter")
    assert porter_stem(word) == porter.PorterStemmer().stem(word)


@pytest.mark.data
@pytest.mark.parity
@pytest.mark.parametrize("stem", [False, True])
def test_equals_rouge_score_on_flickr8k(shared_data: Path, stem: bool) -> None:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    scorer = rouge_scorer.RougeScorer(list(NAMES.values()), use_stemmer=stem)
    captions = flickr8k_captions.read_dev(shared_data)
    for kind, hypotheses in flickr8k_captions.hypotheses(captions).items():
        # Its table of long texts is slow.
        images = list(hypotheses)[: 5 if kind == "long" else 50]
        for image in images:
            references = captions[image][1:]
            ours = rouge_score(hypotheses[image], references, stem=stem)
            theirs = scorer.score_multi(references, hypotheses[image])
            for name, score in ours.items():
                found = (score.precision, score.recall, score.f)
                assert found == pytest.approx(tuple(theirs[NAMES[name]]), abs=1e-9), (kind, image)
