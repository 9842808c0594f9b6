"""Results as the records and lines that commands write."""

from pathlib import Path

from captax.generation.result import Alternative, Generated
from captax.images import ImageError
from captax.pipelines.classifier import Candidate, Classification
from captax.pipelines.records import (
    classification_line,
    classification_record,
    text_line,
    text_record,
)

PICTURE = Path("a b.png")
DOG, CAT = Candidate("dog", 0.75), Candidate("cat", 0.125)


def test_labels_are_listed_with_the_most_probable_first() -> None:
    found = Classification("dog", 0.75, (DOG, CAT))
    assert classification_record(PICTURE, found) == {
        "path": "a b.png",
        "label": "dog",
        "probability": 0.75,
        "alternatives": [{"label": "cat", "probability": 0.125}],
    }
    assert classification_line(PICTURE, found) == "a b.png: dog (75.0%); cat (12.5%)"


def test_a_single_label_has_no_alternatives() -> None:
    record = classification_record(PICTURE, Classification("dog", 0.75, (DOG,)))
    assert record == {"path": "a b.png", "label": "dog", "probability": 0.75}


def test_a_picture_that_cannot_be_read_has_its_error() -> None:
    record = classification_record(PICTURE, ImageError("a b.png: not a picture"))
    assert record == {"path": "a b.png", "error": "a b.png: not a picture"}


def test_an_answer_is_written_with_its_text_and_the_other_answers() -> None:
    first, second = Alternative("a red\nbox", -0.5), Alternative("a box", -1.0)
    alone = Generated("a red\nbox", -0.5, (1, 2), (first,))
    record = {"text": "a red", "generated": "a red\nbox", "score": -0.5}
    assert text_record("a red", alone) == record
    several = Generated("a red\nbox", -0.5, (1, 2), (first, second))
    others = [{"generated": "a box", "score": -1.0}]
    assert text_record("a red", several) == record | {"alternatives": others}
    assert text_line(several) == "a red box"
