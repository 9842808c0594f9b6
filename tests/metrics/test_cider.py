import math
import random

import numpy as np
import pytest

from captax.errors import CaptaxError
from captax.metrics import CiderD


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
    assert TWO.score_image("x", hypothesis.split()) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_references_are_averaged_and_counted_once_an_image() -> None:
    # "dog" is in one image of two, however many of its references have it.
    scorer = CiderD(tokens(x=["a dog", "a dog", "a", ""], y=["a cat"]))
    # 5 for each of the first two, nothing for those without a weighty word.
    assert scorer.score_image("x", ["a", "dog"]) == pytest.approx((5 + 5 + 0 + 0) / 4)


def test_a_caption_equal_to_all_its_references_scores_10() -> None:
    scorer = CiderD(tokens(x=["a dog runs on grass"] * 3, y=["two cats sit"]))
    mean, images = scorer.score({"x": ["a", "dog", "runs", "on", "grass"]})
    assert mean == pytest.approx(10)
    assert images == pytest.approx([10])


def test_a_single_image_scores_0() -> None:
    assert CiderD(tokens(x=["a dog"])).score({"x": ["a", "dog"]})[0] == 0


def test_a_batch_is_scored_with_all_images_document_frequencies_in_its_order() -> None:
    rng = random.Random(0)
    references = {
        str(n): [rng.choices("abcdefgh", k=rng.randint(0, 12)) for _ in range(3)] for n in range(30)
    }
    hypotheses = {image: rng.choices("abcdefghz", k=8) for image in references}
    scorer = CiderD(references)
    mean, images = scorer.score(hypotheses)
    assert mean == pytest.approx(images.mean())
    assert images.dtype == np.float64

    batch = ["7", "3", "21"]
    _, some = scorer.score({image: hypotheses[image] for image in batch})
    assert some.tolist() == [images[int(image)] for image in batch]

    shuffled = dict(sorted(references.items(), key=lambda item: item[1]))
    again = CiderD(shuffled).score(hypotheses)[1]
    np.testing.assert_allclose(again, images, rtol=1e-12)


def test_errors_name_the_image() -> None:
    with pytest.raises(CaptaxError, match="image 'z' has no references"):
        TWO.score({"x": ["a"], "z": ["a"]})
    with pytest.raises(CaptaxError, match="image 'q' has no reference: give"):
        CiderD({"p": [["a"]], "q": []})
    with pytest.raises(CaptaxError, match="needs references"):
        CiderD({})
    with pytest.raises(CaptaxError, match="needs hypotheses"):
        TWO.score({})
