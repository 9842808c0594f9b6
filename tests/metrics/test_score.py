import inspect
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flickr8k_captions
from captax.errors import CaptaxError
from captax.metrics import SpiceUnavailableError, bootstrap, compare, ptb_tokenize, score
from captax.metrics.diversity import mbleu

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


texts = st.lists(st.sampled_from(["a", "dog", "Runs", ".", "isn't", "1", "é"]), max_size=9)
caption = texts.map(" ".join)
corpora = st.lists(st.tuples(caption, st.lists(caption, min_size=1, max_size=3)), min_size=1)


@settings(max_examples=60)
@given(corpora, st.randoms(use_true_random=False))
def test_of_any_captions(images: list[tuple[str, list[str]]], rng: random.Random) -> None:
    ids = {str(number): image for number, image in enumerate(images)}
    hypotheses = {id: hypothesis for id, (hypothesis, _) in ids.items()}
    references = {id: texts for id, (_, texts) in ids.items()}
    metrics = ["bleu", "rouge-l", "cider-d", "cider"]
    found = score(hypotheses, references, metrics=metrics)
    best = score({id: texts[0] for id, texts in references.items()}, references, metrics=metrics)
    for id, values in found.per_image.items():
        for name, value in values.items():
            assert 0 <= value <= (10 if "CIDEr" in name else 1) + 1e-9
            # The shorter of two references has the smaller share of guards against zero.
            if len(references[id]) == 1 and "BLEU" not in name:
                assert value <= best.per_image[id][name] + 1e-9
    order = rng.sample([*ids], len(ids))
    again = score({id: hypotheses[id] for id in order}, references, metrics=metrics)
    assert again.per_image == found.per_image
    assert again.corpus == pytest.approx(found.corpus, rel=1e-12, abs=1e-300)


def test_a_mixed_fraction_is_two_words_to_bleu_and_one_to_rouge() -> None:
    image = score({"x": "1 1/2 cups"}, {"x": ["1 1/2 bowls"]}).per_image["x"]
    assert image["BLEU-1"] == pytest.approx(2 / 3)
    assert image["ROUGE-L"] == pytest.approx(1 / 2)


def test_what_is_asked_for_is_computed() -> None:
    found = score(HYPOTHESES, REFERENCES, metrics=["cider", "rouge-l"])
    assert list(found.corpus) == ["ROUGE-L", "CIDEr"]
    assert found.per_image["bus"] == pytest.approx({"ROUGE-L": 1, "CIDEr": 10})
    with pytest.raises(CaptaxError, match="no metric 'blue'; use one of bleu, rouge-l"):
        score(HYPOTHESES, REFERENCES, metrics=["blue"])


def test_error_rates_of_a_corpus_are_of_all_its_words() -> None:
    # One word of six and none of two: 1 of 8, and not the mean of 1/6 and 0.
    hypotheses = {"x": "a dog runs on the grass", "y": "two cats"}
    references = {"x": ["a dog ran on the grass", "it"], "y": ["cats", "two cats"]}
    found = score(hypotheses, references, metrics=["wer", "cer"])
    assert found.per_image["x"] == pytest.approx({"WER": 1 / 6, "CER": 2 / 22})
    assert found.per_image["y"] == {"WER": 0, "CER": 0}
    assert found.corpus == pytest.approx({"WER": 1 / 8, "CER": 2 / 30})
    assert score({"x": ""}, {"x": ["."]}, metrics=["wer"]).corpus == {"WER": 0}


def test_diversity_is_of_the_corpus() -> None:
    captions = {"x": "A dog.", "y": "a cat", "z": "a dog"}
    references = {image: ["a dog"] for image in captions}
    found = score(captions, references, metrics=["diversity"], training_captions=["A cat!"])
    assert found.corpus == pytest.approx(
        {"distinct-1": 3 / 6, "distinct-2": 2 / 6, "vocabulary": 3, "novel": 2 / 3}
    )
    assert found.per_image == {"x": {}, "y": {}, "z": {}}
    assert "novel" not in score(captions, references, metrics=["diversity"]).corpus


def test_hallucinated_objects_are_of_all_that_captions_speak_of() -> None:
    hypotheses = {"x": "A dog and two cats.", "y": "a bus", "z": "a man on a bench"}
    references = {"x": ["a puppy"], "y": ["a wall"], "z": ["a bench"]}
    objects = {"x": ["couch"], "y": ["bus"], "z": {"person"}, "elsewhere": ["cat"]}
    found = score(hypotheses, references, metrics=["chair"], objects=objects)
    # Of the dog, the cat, the bus, the man and the bench, the cat is not there.
    assert found.corpus == pytest.approx({"CHAIRs": 1 / 3, "CHAIRi": 1 / 5})
    assert found.per_image["x"] == {"CHAIRs": 1, "CHAIRi": 1 / 2}
    assert found.per_image["z"] == {"CHAIRs": 0, "CHAIRi": 0}
    with pytest.raises(CaptaxError, match="CHAIR needs the objects"):
        score(hypotheses, references, metrics=["chair"])


def test_mbleu_is_of_all_hypotheses() -> None:
    several = {"x": ["A red dog runs.", "a red dog sits"], "y": ["two cats!", "two dogs"]}
    hypotheses = {image: texts[0] for image, texts in several.items()}
    references = {image: ["a bird"] for image in several}
    found = score(hypotheses, references, metrics=["mbleu"], all_hypotheses=several)
    tokens = {image: [ptb_tokenize(text) for text in texts] for image, texts in several.items()}
    assert [*found.corpus.values()] == pytest.approx(mbleu(tokens))
    # 3 + 1 of 6 words, and 2 of 4 pairs, are in the other caption.
    assert found.corpus["mBLEU-1"] == pytest.approx(4 / 6)
    assert found.corpus["mBLEU-2"] == pytest.approx((4 / 6 * 2 / 4) ** 0.5)
    assert found.per_image["y"]["mBLEU-1"] == pytest.approx(1 / 2)
    with pytest.raises(CaptaxError, match="mBLEU needs several captions of each image"):
        score(hypotheses, references, metrics=["mbleu"])
    three = {image: [*texts, "a"] for image, texts in several.items()}
    more = score(hypotheses, references, metrics=["mbleu"], all_hypotheses=three)
    with pytest.raises(CaptaxError, match="mBLEU-1 needs the same number of captions an image"):
        compare(found.statistics, more.statistics)


def test_rouge_score_is_of_summaries() -> None:
    # 2 of 3 words and of 4; the COCO evaluation's weighs recall more.
    captions = {"x": "the dogs-run"}, {"x": ["a cat", "The dogs may run"]}
    found = score(*captions, metrics=["rouge-score", "rouge-l"]).corpus
    assert list(found) == ["ROUGE-L", "rouge1", "rouge2", "rougeL"]
    assert found["rouge1"] == found["rougeL"] == pytest.approx(2 * 3 / (3 + 4))
    assert found["rouge2"] == pytest.approx(2 * 1 / (2 + 3))


def test_javas_metrics_get_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    def program(ours: Any, theirs: Any) -> tuple[float, np.ndarray]:
        assert ours == {"x": ["a", "dog"], "y": []}
        assert theirs == {"x": [["dogs"]], "y": [["a", "cat"], ["cats"]]}
        return 0.7, np.array([0.25, 0.5])

    for name in ("compute_meteor", "spice"):
        monkeypatch.setattr(f"captax.metrics.{name}", program)
    monkeypatch.setattr("captax.metrics.find_spice", lambda: None)
    captions = {"x": "A dog.", "y": "!"}, {"x": ["Dogs"], "y": ["a cat", "cats"]}
    found = score(*captions, metrics=["spice", "rouge-l", "meteor"])
    assert found.corpus["METEOR"] == 0.7
    assert found.corpus["SPICE"] == 0.375
    assert [image["METEOR"] for image in found.per_image.values()] == [0.25, 0.5]
    assert [image["SPICE"] for image in found.per_image.values()] == [0.25, 0.5]
    assert [each.names for each in found.statistics] == [("ROUGE-L",), ("SPICE",)]
    only = score(*captions, metrics=["meteor"])
    assert bootstrap(only.statistics) == compare(only.statistics, only.statistics) == {}


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
        (
            {"x": ["a"]},
            {"x": ["a"]},
            "image 'x': the hypothesis must be a text, and is of type list",
        ),
        ({"x": "a"}, {"x": [["a"]]}, "image 'x': each reference must be a text"),
        (["a"], {"x": ["a"]}, r"of type list; for a list, give dict\(enumerate\(hypotheses\)\)"),
        ({0: "a"}, [["a"]], r"of type list; for a list, give dict\(enumerate\(references\)\)"),
    ],
)
def test_errors_name_the_image(hypotheses: Any, references: Any, message: str) -> None:
    # As callers have it, whose types nothing checks.
    with pytest.raises(CaptaxError, match=message) as error:
        inspect.unwrap(score)(hypotheses, references)
    assert "\n" not in str(error.value)


@pytest.mark.data
def test_equals_what_the_evaluation_printed_for_1000_images(golden: Any) -> None:
    names = {f"BLEU-{n}": f"Bleu_{n}" for n in range(1, 5)}
    names |= {"ROUGE-L": "ROUGE_L", "CIDEr-D": "CIDEr"}
    for references in (golden.references, golden.tokenized):
        found = score(golden.hypotheses, references)
        corpus = found.corpus
        assert {names[metric]: round(value, 3) for metric, value in corpus.items()} == {
            name: golden.expected[name] for name in names.values()
        }

        bleu = found.statistics[0].rows.sum(0).tolist()
        counts = golden.expected["bleu_stats"]
        assert bleu[:2] == [counts["testlen"], counts["reflen"]]
        assert bleu[2:6] == counts["correct"] and bleu[6:] == counts["guess"]


@pytest.mark.data
def test_equals_the_evaluation_on_flickr8k(shared_data: Path) -> None:
    # What pycocoevalcap 1.2 computes with each dev picture's first caption against its others.
    captions = flickr8k_captions.read_dev(shared_data)
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


def test_a_missing_spice_is_told_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    # Both lack Java; METEOR would have been the first to say so.
    with pytest.raises(SpiceUnavailableError, match="SPICE needs Java"):
        score(HYPOTHESES, REFERENCES, metrics=["meteor", "spice"])
