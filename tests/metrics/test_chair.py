from typing import Any

import pytest

from captax.errors import CaptaxError
from captax.metrics.chair import COCO_OBJECTS, chair, mentioned_objects


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("a man and two women with a dog", ["person", "person", "dog"]),
        ("people flying kites", ["person", "kite"]),
        ("three children on buses", ["person", "bus"]),
        ("knives and mice by geese", ["knife", "mouse", "bird"]),
        ("puppies on couches under watches", ["dog", "couch"]),
        # Of two words, not of each.
        ("a hot dog by a teddy bear", ["hot dog", "teddy bear"]),
        ("wine glasses and drinking glasses", ["wine glass"]),
        ("stop lights and street lights", ["traffic light", "traffic light"]),
        ("a baseball bat and ball", ["baseball bat", "sports ball"]),
        ("a motor bike in a suit case", ["motorcycle", "suitcase"]),
        # What looks like a person or a chair and is none.
        ("a baby elephant with an adult zebra", ["elephant", "zebra"]),
        ("a baby animal", []),
        ("a baby with a passenger", ["person", "person"]),
        ("a passenger train", ["train"]),
        ("a toilet seat", ["toilet"]),
        ("the seat of a toilet", ["toilet"]),
        ("the seats of a train", ["chair", "train"]),
        ("his bow tie and an orange", ["tie", "orange"]),
        ("skis and a ski", ["skis", "skis"]),
        ("scissors", ["scissors"]),
        ("the sky over a mountain", []),
        ("", []),
    ],
)
def test_objects(caption: str, objects: list[str]) -> None:
    assert mentioned_objects(caption.split()) == objects


def test_every_object_is_found_by_its_name() -> None:
    assert len(COCO_OBJECTS) == 80
    for name in COCO_OBJECTS:
        assert mentioned_objects(f"a {name} here".split()) == [name]


CAPTIONS = {
    "x": "a dog and a cat on a sofa",
    "y": "two cats",
    "z": "a bench by a bench",
    "none": "a red wall",
}
HYPOTHESES = {image: caption.split() for image, caption in CAPTIONS.items()}
OBJECTS = {"x": ["dog", "couch"], "y": ["cat"], "z": [], "none": ["person"]}


def test_shares_by_hand() -> None:
    found = chair(HYPOTHESES, OBJECTS)
    # Of 3 + 1 + 2 objects the cat and both benches are not there, in 2 of 4 captions.
    assert found.instances == 3 / 6
    assert found.sentences == 2 / 4
    assert found.hallucinated == {"x": ["cat"], "y": [], "z": ["bench", "bench"], "none": []}
    assert found.mentioned["x"] == ["dog", "cat", "couch"]


def test_what_references_speak_of_is_there() -> None:
    references: dict[str, Any] = {image: [] for image in HYPOTHESES}
    references |= {"x": [["a", "kitten"]], "z": [["a", "wall"], ["benches"]]}
    found = chair(HYPOTHESES, OBJECTS, references)
    assert (found.sentences, found.instances) == (0, 0)


def test_captions_of_no_object_hallucinate_none() -> None:
    found = chair({"x": ["wall"]}, {"x": []})
    assert (found.sentences, found.instances) == (0, 0)


@pytest.mark.parametrize(
    ("hypotheses", "objects", "references", "message"),
    [
        ({}, {}, None, "CHAIR needs hypotheses"),
        ({"x": ["a"]}, {}, None, "image 'x' has a caption but no list of objects"),
        (
            {"x": ["a"]},
            {"x": ["dogg"]},
            None,
            "image 'x': COCO has no object 'dogg': .* mean 'dog'",
        ),
        ({"x": ["a"]}, {"x": ["qqq"]}, None, "no object 'qqq': use COCO's names"),
        ({"x": ["a"]}, {"x": ["dog"]}, {}, "image 'x' has a caption but no references"),
    ],
)
def test_errors_name_the_image(
    hypotheses: Any, objects: Any, references: Any, message: str
) -> None:
    with pytest.raises(CaptaxError, match=message):
        chair(hypotheses, objects, references)
