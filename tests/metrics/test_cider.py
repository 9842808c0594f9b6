import json
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captax.errors import CaptaxError
from captax.metrics import CiderD, DocumentFrequencies, document_frequencies_of, score


def tokens(**captions: list[str]) -> dict[str, list[list[str]]]:
    return {image: [text.split() for text in texts] for image, texts in captions.items()}


# In two images' references "a" is in both, so its weight is log 2 - log 2 = 0; all else is in one
# and weighs log 2.
TWO = CiderD(tokens(x=["a dog"], y=["a cat"]))


@pytest.mark.parametrize(
    ("hypothesis", "expected"),
    [
        # Words and bigrams are alike, there are no longer n-grams: 10 · (1 + 1 + 0 + 0) / 4.
        ("a dog", 5.0),
        # Words alike, a length one off: 10 · 1 / 4 · exp(-1 / (2 · 6²)).
        ("dog", 2.5 * math.exp(-1 / 72)),
        # Weights (2 log 2) and (log 2) are clipped to log 2: (log 2)² / (2 log 2 · log 2) = 1 / 2.
        ("dog dog", 1.25),
        # An unseen word weighs log 2 as well: (log 2)² / (√2 log 2 · log 2) = 1 / √2.
        ("dog zebra", 2.5 / math.sqrt(2)),
        ("a cat", 0.0),
        ("", 0.0),
    ],
)
def test_by_hand(hypothesis: str, expected: float) -> None:
    found = TWO.score(["x"], [hypothesis.split()])
    assert found == pytest.approx([expected], rel=1e-12, abs=1e-12)


def test_references_are_averaged_and_counted_once_an_image() -> None:
    # "dog" is in one image of two, however many of its references have it.
    scorer = CiderD(tokens(x=["a dog", "a dog", "a", ""], y=["a cat"]))
    # 5 for each of the first two, nothing for those without a weighty word.
    assert scorer.score(["x"], [["a", "dog"]]) == pytest.approx([(5 + 5 + 0 + 0) / 4])


def test_a_caption_equal_to_all_its_references_scores_10() -> None:
    scorer = CiderD(tokens(x=["a dog runs on grass"] * 3, y=["two cats sit"]))
    assert scorer.score(["x"], [["a", "dog", "runs", "on", "grass"]]) == pytest.approx([10])


def test_a_single_image_scores_0() -> None:
    assert CiderD(tokens(x=["a dog"])).score(["x"], [["a", "dog"]]) == [0]


def test_nothing_to_score_is_no_score() -> None:
    assert TWO.score([], []).shape == (0,)


def made_up(seed: int = 0) -> tuple[dict[str, list[list[str]]], dict[str, list[str]]]:
    rng = random.Random(seed)
    references = {
        str(n): [rng.choices("abcdefgh", k=rng.randint(0, 12)) for _ in range(rng.randint(1, 4))]
        for n in range(30)
    }
    return references, {image: rng.choices("abcdefghz", k=8) for image in references}


def test_a_batch_is_scored_with_all_images_document_frequencies_in_its_order() -> None:
    references, hypotheses = made_up()
    scorer = CiderD(references)
    scores = dict(zip(hypotheses, scorer.score([*hypotheses], [*hypotheses.values()]), strict=True))
    batch = ["7", "3", "21", "7"]  # an image may come twice, as several samples of it do
    some = scorer.score(batch, [hypotheses[image] for image in batch])
    assert some.tolist() == [scores[image] for image in batch]

    shuffled = CiderD(dict(sorted(references.items(), key=lambda item: item[1])))
    again = shuffled.score([*hypotheses], [*hypotheses.values()])
    assert again.tolist() == [*scores.values()]


def by_definition(
    references: dict[str, list[list[str]]], hypotheses: dict[str, list[str]], clipped: bool
) -> list[float]:
    """Both metrics, n-gram by n-gram."""

    def counts(words: list[str], order: int) -> Counter[tuple[str, ...]]:
        return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))

    def vector(words: list[str], order: int) -> dict[tuple[str, ...], float]:
        return {
            ngram: count * (math.log(len(references)) - math.log(max(1, frequency[ngram])))
            for ngram, count in counts(words, order).items()
        }

    frequency = Counter(
        ngram
        for captions in references.values()
        for order in range(1, 5)
        for ngram in set().union(*(counts(words, order) for words in captions))
    )
    found = dict.fromkeys(hypotheses, 0.0)
    for image, words in hypotheses.items():
        for reference in references[image]:
            longer = len(words) - len(reference) if clipped else 0
            for order in range(1, 5):
                ours, theirs = vector(words, order), vector(reference, order)
                dot = sum(
                    (min(weight, theirs.get(ngram, 0)) if clipped else weight)
                    * theirs.get(ngram, 0)
                    for ngram, weight in ours.items()
                )
                norm = math.sqrt(
                    sum(w * w for w in ours.values()) * sum(w * w for w in theirs.values())
                )
                if norm:
                    similarity = dot / norm * math.exp(-(longer**2) / 72)
                    found[image] += 10 * similarity / 4 / len(references[image])
    return [*found.values()]


@pytest.mark.parametrize("seed", range(4))
def test_both_kinds_are_what_their_definition_gives(seed: int) -> None:
    references, hypotheses = made_up(seed)
    references = {image: [c or ["z"] for c in captions] for image, captions in references.items()}
    found = score(
        {image: " ".join(words) for image, words in hypotheses.items()},
        {image: [" ".join(words) for words in captions] for image, captions in references.items()},
        metrics=["cider", "cider-d"],
    ).per_image.values()
    for name, clipped in (("CIDEr", False), ("CIDEr-D", True)):
        expected = by_definition(references, hypotheses, clipped)
        assert [image[name] for image in found] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["a", "dog", "runs", "zebra"]), max_size=10))
def test_no_caption_is_better_than_its_only_reference(words: list[str]) -> None:
    scorer = CiderD(tokens(x=["a dog runs fast"], y=["a cat"], z=["the sea"]))
    value, best = scorer.score(["x", "x"], [words, ["a", "dog", "runs", "fast"]])
    assert 0 <= value <= best + 1e-12


def test_stored_document_frequencies_score_as_those_they_were_written_of(tmp_path: Path) -> None:
    references, hypotheses = made_up()
    texts = {image: [" ".join(words) for words in c] for image, c in references.items()}
    frequencies = document_frequencies_of(texts)
    frequencies.write(tmp_path / "df.json")
    stored = DocumentFrequencies.read(tmp_path / "df.json")
    assert stored.images == 30
    some = {image: references[image] for image in ("4", "9")}
    for chosen in (frequencies, stored):
        found = CiderD(some, chosen).score([*some], [hypotheses[image] for image in some])
        expected = CiderD(references).score([*some], [hypotheses[image] for image in some])
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    # Not what the two images' own frequencies give.
    own = CiderD(some).score([*some], [hypotheses[image] for image in some])
    assert np.abs(own - expected).max() > 0.01


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no document frequencies"),
        ("[]", "no document frequencies"),
        (json.dumps({"images": 2}), "'frequencies'"),
        (
            json.dumps({"images": "2", "frequencies": {}}),
            "images must be a number, and frequencies an object",
        ),
        (json.dumps({"images": 2, "frequencies": {"a": 3}}), "'a': 3 must be a count of 1 to 2"),
        (
            json.dumps({"images": 2, "frequencies": {"a b": 2}}),
            "'a' is missing, but a longer n-gram that contains it is not",
        ),
    ],
)
def test_files_that_hold_no_document_frequencies(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "df.json"
    path.write_text(text)
    with pytest.raises(CaptaxError, match=message) as error:
        DocumentFrequencies.read(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_errors_name_the_image() -> None:
    with pytest.raises(CaptaxError, match="image 'z' has no references"):
        TWO.score(["x", "z"], [["a"], ["a"]])
    with pytest.raises(CaptaxError, match="1 hypotheses for 2 images"):
        TWO.score(["x", "y"], [["a"]])
    with pytest.raises(CaptaxError, match="image 'q' has no reference: give"):
        CiderD({"p": [["a"]], "q": []})
    with pytest.raises(CaptaxError, match="needs references"):
        CiderD({})
    with pytest.raises(CaptaxError, match="at least one image"):
        document_frequencies_of({})
