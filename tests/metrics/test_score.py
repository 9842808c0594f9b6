import random
from pathlib import Path
from typing import Any

import pytest

from captax.errors import CaptaxError
from captax.metrics import score
from captax.metrics.bleu import NO_BLEU_STATISTICS, bleu_statistics

HYPOTHESES = {
    "dog": "A brown dog runs on the grass.",
    "cat": "Two cats",
    "bus": "A red bus is parked on the street",
    "none": "",
}
REFERENCES = {
    "dog": ["A dog runs.", "The brown dog is on the grass", "A dog plays on grass!"],
    "cat": ["Two cats sit on a sofa.", "two cats"],
    "bus": ["A red bus is parked on the street"],
    "none": ["A man.", "."],
}


def test_metrics_of_the_corpus_and_of_each_image() -> None:
    found = score(HYPOTHESES, REFERENCES)
    metrics = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"]
    assert list(found.corpus) == metrics
    assert list(found.per_image) == list(HYPOTHESES)
    assert all(list(image) == metrics for image in found.per_image.values())
    for metric in ("ROUGE-L", "CIDEr-D"):
        mean = sum(image[metric] for image in found.per_image.values()) / 4
        assert found.corpus[metric] == pytest.approx(mean)


def test_a_caption_equal_to_its_reference_is_perfect() -> None:
    bus = score(HYPOTHESES, REFERENCES).per_image["bus"]
    assert list(bus.values()) == pytest.approx([1, 1, 1, 1, 1, 10])


def test_an_empty_caption_scores_0() -> None:
    found = score({"x": "...", "y": "a dog"}, {"x": ["a dog"], "y": ["a cat"]})
    assert set(found.per_image["x"].values()) == {0}


def test_case_and_punctuation_do_not_matter() -> None:
    shouted = {image: f" {text.upper()} !" for image, text in HYPOTHESES.items()}
    assert score(shouted, REFERENCES) == score(HYPOTHESES, REFERENCES)


def test_the_order_of_images_does_not_matter() -> None:
    order = random.Random(0).sample(list(HYPOTHESES), k=4)
    found = score({image: HYPOTHESES[image] for image in order}, REFERENCES)
    expected = score(HYPOTHESES, REFERENCES)
    assert list(found.per_image) == order
    assert found.per_image == expected.per_image
    assert found.corpus == pytest.approx(expected.corpus)


def test_a_mixed_fraction_is_two_words_to_bleu_and_one_to_rouge() -> None:
    image = score({"x": "1 1/2 cups"}, {"x": ["1 1/2 bowls"]}).per_image["x"]
    assert image["BLEU-1"] == pytest.approx(2 / 3)
    assert image["ROUGE-L"] == pytest.approx(1 / 2)


def test_very_long_captions() -> None:
    words = [f"word{n}" for n in range(3_000)]
    halves = score({"x": " ".join(words)}, {"x": [" ".join(words[::2])]}).per_image["x"]
    assert halves["BLEU-1"] == pytest.approx(1 / 2)
    # P = 1/2 and R = 1: (1 + 1.44) · 1/2 / (1 + 1.44 · 1/2).
    assert halves["ROUGE-L"] == pytest.approx(1.22 / 1.72)


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        ({}, {}, "no hypothesis to score"),
        ({"x": "a", "y": "b"}, {"x": ["a"]}, "image 'y' has a hypothesis but no references"),
        ({"x": "a"}, {"x": ["a"], "y": ["b"]}, "image 'y' has references but no hypothesis"),
        ({"x": "a"}, {"x": []}, "image 'x' has an empty list of references"),
        ({"x": "a"}, {"x": "a dog"}, "image 'x': references must be a list of captions"),
    ],
)
def test_errors_name_the_image(
    hypotheses: dict[str, str], references: dict[str, Any], message: str
) -> None:
    with pytest.raises(CaptaxError, match=message) as error:
        score(hypotheses, references)
    assert "\n" not in str(error.value)


@pytest.mark.data
def test_equals_what_the_evaluation_printed_for_1000_images(golden: Any) -> None:
    names = {f"BLEU-{n}": f"Bleu_{n}" for n in range(1, 5)}
    names |= {"ROUGE-L": "ROUGE_L", "CIDEr-D": "CIDEr"}
    for references in (golden.references, golden.tokenized):
        corpus = score(golden.hypotheses, references).corpus
        assert {names[metric]: round(value, 3) for metric, value in corpus.items()} == {
            name: golden.expected[name] for name in names.values()
        }

    total = NO_BLEU_STATISTICS
    for image, caption in golden.hypotheses.items():
        references = [reference.split() for reference in golden.tokenized[image]]
        total += bleu_statistics(caption.split(), references)
    expected = golden.expected["bleu_stats"]
    assert total.hypothesis_length == expected["testlen"]
    assert total.reference_length == expected["reflen"]
    assert list(total.matches) == expected["correct"]
    assert list(total.total) == expected["guess"]


@pytest.mark.data
def test_equals_the_evaluation_on_flickr8k(shared_data: Path) -> None:
    # What pycocoevalcap 1.2 computes with each dev picture's first caption against its others.
    folder = shared_data / "flickr8k/text"
    captions: dict[str, list[str]] = {
        image: [] for image in (folder / "Flickr_8k.devImages.txt").read_text().split()
    }
    for line in (folder / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines():
        name, caption = line.split("\t")
        image = name.partition("#")[0]
        if image in captions:
            captions[image].append(caption)
    found = score(
        {image: texts[0] for image, texts in captions.items()},
        {image: texts[1:] for image, texts in captions.items()},
    )
    assert found.corpus == pytest.approx(
        {
            "BLEU-1": 0.6275129488191882,
            "BLEU-2": 0.44342979576264063,
            "BLEU-3": 0.30708129327795985,
            "BLEU-4": 0.21160098501492874,
            "ROUGE-L": 0.49173408652537204,
            "CIDEr-D": 0.8036617887303764,
        },
        rel=1e-12,
    )
