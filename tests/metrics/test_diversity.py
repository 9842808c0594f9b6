from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flickr8k_captions
from captax.errors import CaptaxError
from captax.metrics import ptb_tokenize
from captax.metrics.diversity import distinct_n, mbleu, novel_share, vocabulary_size

CAPTIONS = [["a", "dog", "runs"], ["a", "dog", "sits"], ["a"], []]


def test_distinct_n_is_of_all_tokens() -> None:
    assert distinct_n(CAPTIONS, 1) == 4 / 7
    assert distinct_n(CAPTIONS, 2) == 3 / 7  # a dog, dog runs, dog sits
    assert distinct_n(CAPTIONS, 4) == 0
    assert distinct_n([[]], 1) == 0
    with pytest.raises(CaptaxError, match="distinct-0: n-grams have at least 1 token"):
        distinct_n(CAPTIONS, 0)


def test_vocabulary_size() -> None:
    assert vocabulary_size(CAPTIONS) == 4
    assert vocabulary_size([]) == 0


def test_novel_share() -> None:
    assert novel_share(CAPTIONS, [["a", "dog", "runs"], ["a", "dog"]]) == 3 / 4
    assert novel_share(CAPTIONS, CAPTIONS) == 0
    with pytest.raises(CaptaxError, match="needs captions"):
        novel_share([], CAPTIONS)


def test_mbleu_by_hand() -> None:
    # First captions: "a dog runs" has 2 of 3 words and 1 of 2 pairs in "a dog sits"; "a b c d e"
    # 4 of 5 and 3 of 4 in "a b c d f". Second captions the same. Lengths are equal.
    captions = {"x": ["a dog runs", "a dog sits"], "y": ["a b c d e", "a b c d f"]}
    found = mbleu({image: [text.split() for text in two] for image, two in captions.items()})
    assert found[0] == pytest.approx(6 / 8)
    assert found[1] == pytest.approx((6 / 8 * 4 / 6) ** 0.5)


def test_captions_all_the_same_have_an_mbleu_of_1() -> None:
    same = ["a", "dog", "runs", "on", "the", "grass"]
    assert mbleu({"x": [same] * 3, "y": [same[1:]] * 3}) == pytest.approx([1] * 4)


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ({}, "give at least one image"),
        ({"x": [["a"]]}, "image 'x' has 1 caption, but"),
        ({"x": [["a"]] * 3, "y": [["a"]] * 2}, "image 'y' has 2 captions, but others have 3"),
    ],
)
def test_mbleu_of_what_cannot_be_compared(captions: Any, message: str) -> None:
    with pytest.raises(CaptaxError, match=message):
        mbleu(captions)


pairs = st.lists(st.sampled_from("abc"), max_size=6)


@given(st.lists(st.tuples(pairs, pairs), min_size=1, max_size=4), st.randoms())
def test_the_order_of_images_does_not_matter(images: list[Any], random: Any) -> None:
    captions = {str(n): list(image) for n, image in enumerate(images)}
    shuffled = dict(random.sample(list(captions.items()), k=len(captions)))
    assert mbleu(shuffled) == pytest.approx(mbleu(captions))
    assert all(0 <= value <= 1 + 1e-9 for value in mbleu(captions))


@pytest.mark.data
@pytest.mark.parity
def test_mbleu_equals_the_loop_over_pycocoevalcap_on_flickr8k(shared_data: Path) -> None:
    # As https://github.com/ruotianluo/self-critical.pytorch has it, whose BLEU this is.
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
    texts = [*flickr8k_captions.read_dev(shared_data).items()][:300]
    captions = {image: [ptb_tokenize(text) for text in five] for image, five in texts}
    joined = {image: [" ".join(tokens) for tokens in five] for image, five in captions.items()}
    scores = []
    for place in range(5):
        ours = {image: [five[place]] for image, five in joined.items()}
        others = {image: five[:place] + five[place + 1 :] for image, five in joined.items()}
        scores.append(bleu.Bleu(4).compute_score(others, ours, verbose=0)[0])
    assert mbleu(captions) == pytest.approx(np.mean(scores, axis=0).tolist(), abs=1e-9)
