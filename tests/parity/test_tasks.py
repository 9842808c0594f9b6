"""The tasks of Florence-2 against transformers: what is asked, and what answers are read as."""

import itertools
import random
from types import SimpleNamespace
from typing import Any

import pytest

from captax.text.prompt_format import FLORENCE2
from captax.text.regions import Region
from captax.text.tasks import FLORENCE2 as TASKS
from captax.text.tasks import INPUT, REGION, Task

pytest.importorskip("transformers")
pytest.importorskip("torch")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

KINDS = (
    *("ocr", "phrase_grounding", "pure_text", "description_with_bboxes", "polygons", "bboxes"),
    *("description_with_polygons", "description_with_bboxes_or_polygons"),
)
# As Microsoft's and the converted checkpoints list them.
NO_OBJECTS = """
it I me mine you your yours he him his she her hers they them their theirs one oneself we us our
ours you your yours they them their theirs mine yours his hers its ours yours theirs myself yourself
himself herself itself ourselves yourselves themselves this that these those who whom whose which
what who whom whose which that all another any anybody anyone anything each everybody everyone
everything few many nobody none one several some somebody someone something each_other one_another
myself yourself himself herself itself ourselves yourselves themselves the_image image images the a
an a_group other_objects lots a_set
"""


@pytest.fixture(scope="module")
def processor() -> Any:
    from transformers.models.florence2.processing_florence2 import Florence2Processor

    class Bare(Florence2Processor):
        def check_argument_for_proper_class(self, *args: Any) -> Any:
            return object

    tokenizer = SimpleNamespace(
        all_special_tokens=["<s>", "</s>", "<pad>"],
        image_token="<image>",
        image_token_id=9,
        bos_token="<s>",
        eos_token="</s>",
        chat_template=None,
    )
    rules: dict[str, Any] = {kind: {} for kind in KINDS}
    banned = [each.replace("_", " ") for each in NO_OBJECTS.split()]
    rules["phrase_grounding"] = {"banned_grounding_tokens": banned}
    images = SimpleNamespace(image_seq_length=577)
    return Bare(images, tokenizer, post_processor_config=rules)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_what_is_asked(processor: Any, task: Task) -> None:
    text = "<loc_1><loc_2><loc_30><loc_999>" if REGION in task.question else "a red {car}"
    text = text if INPUT in task.question or REGION in task.question else ""
    [want] = processor._construct_prompts(task.token + text)
    found, rest = FLORENCE2.task_of(task.token + text)
    assert found == task
    assert task.asked(rest) == want
    assert FLORENCE2.text(want) == f"<s>{want}</s>"


def test_all_tasks_are_there(processor: Any) -> None:
    known = processor.task_prompts_without_inputs | processor.task_prompts_with_input
    assert {task.token for task in TASKS} == known.keys()
    kinds = processor.tasks_answer_post_processing_type
    assert {task.token for task in TASKS if task.reading is None} == {
        token for token, kind in kinds.items() if kind == "pure_text"
    }


ANSWERS = [
    "",
    "a plain caption",
    "</s><s>car<loc_1><loc_20><loc_300><loc_999>wheel<loc_0><loc_0><loc_5><loc_6></s>",
    "car<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7><loc_8>",
    "car<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6>",
    "car<loc_1><loc_2><loc_3>dog<loc_1><loc_2><loc_3><loc_4>",
    "the image<loc_1><loc_2><loc_3><loc_4> A caf\u00e9 <loc_5><loc_6><loc_7><loc_8>it<loc_5><loc_6>"
    "<loc_7><loc_8>犬<loc_5><loc_6><loc_7><loc_8>",
    "<loc_1><loc_2><loc_3><loc_4><loc_10><loc_20><loc_30><loc_40>",
    "<od>car<loc_1><loc_2><loc_3><loc_4></od>",
    "<ground>car<loc_1><loc_2><loc_3><loc_4>",
    "STOP<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7><loc_8>\nGO <loc_9><loc_8><loc_7><loc_6>"
    "<loc_5><loc_4><loc_3><loc_2>",
    "<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><sep><loc_7><loc_8><loc_9><loc_1><loc_2>",
    "car<poly><loc_1><loc_2><loc_3><loc_4><sep><loc_5><loc_6></poly><poly><loc_9><loc_8><loc_7>"
    "</poly>",
    "car<poly><loc_1><loc_2><loc_3><loc_4><loc_5>",
    "<poly><loc_1><loc_2></poly>",
    "a<b<loc_1><loc_2><loc_3><loc_4>",
    "<loc_1><sep><loc_2><sep><loc_3>",
    "car <box> x<loc_1><loc_2><loc_3><loc_4>",
]
_PIECES = [
    *("<loc_1>", "<loc_22>", "<loc_333>", "<loc_999>", "<sep>", "<poly>", "</poly>", "car", " "),
    *("the image", "\n", "<od>", "</s>", "<", "\u00e9"),
]
_RANDOM = random.Random(0)
ANSWERS += [
    "".join(_RANDOM.choices(_PIECES, [9, 9, 9, 9, 2, 1, 1, 3, 1, 1, 1, 1, 1, 1, 1], k=40))
    for _ in range(300)
]
ANSWERS += [
    "".join(
        "".join(piece)
        for piece in itertools.chain.from_iterable(
            (("car", "dog", "")[_RANDOM.randrange(3)], "<loc_7>" * _RANDOM.randrange(12))
            for _ in range(5)
        )
    )
    for _ in range(100)
]


def parts(points: Any) -> list[int]:
    """Places as numbers of parts: what transformers gives for pictures of 1000 x 1000."""
    return [int(1000 * each) for each in points]


def ours(task: Task, answer: str) -> dict[str, Any]:
    assert task.reading is not None
    found: list[Region] = task.reading(answer)
    shaped = [each for each in found if each.polygons is not None]
    outlines = [[parts(points) for points in each.polygons or ()] for each in shaped]
    of_outlines = [each.label for each in shaped]
    if task.token == "<OCR_WITH_REGION>":
        corners = [parts(each.quad) for each in found]
        return {"quad_boxes": corners, "labels": [each.label for each in found]}
    boxed = [each for each in found if each.box is not None]
    sides, of_boxes = [parts(each.box) for each in boxed], [each.label for each in boxed]
    if task.token == "<OPEN_VOCABULARY_DETECTION>":
        return {
            "bboxes": sides,
            "bboxes_labels": of_boxes,
            "polygons": outlines,
            "polygons_labels": of_outlines,
        }
    if "SEGMENTATION" in task.token:
        assert not boxed
        return {"polygons": outlines, "labels": of_outlines}
    assert not shaped
    return {"bboxes": sides, "labels": of_boxes}


@pytest.mark.parametrize("task", [task for task in TASKS if task.reading], ids=lambda t: t.name)
def test_answers_are_read_as_transformers_reads_them(processor: Any, task: Task) -> None:
    found = 0
    for answer in ANSWERS:
        want = processor.post_process_generation(
            text=answer, task=task.token, image_size=(1000, 1000)
        )[task.token]
        got = ours(task, answer)
        assert got == want, answer
        found += any(want.values())
    assert found > 20
