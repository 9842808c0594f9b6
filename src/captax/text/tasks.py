"""Tasks that a model was taught by fixed questions: as data, held to transformers by tests."""

import dataclasses
import re

from captax.errors import OptionError, quoted
from captax.text.regions import (
    PARTS,
    Reading,
    boxes,
    labelled_boxes,
    labelled_boxes_or_polygons,
    located,
    phrases,
    polygons,
    quads,
)

_REGION = re.compile(r"(?:<loc_\d{1,3}>){4}")
_NUMBERS = re.compile(r"[\s,]+")
INPUT, REGION = "{text}", "{region}"


@dataclasses.dataclass(frozen=True)
class Task:
    """A task, its name in a prompt, and the question by which the model knows it.

    The question may hold a place for a text or for a region. `reading` makes regions of an answer;
    without it, the answer is a text.
    """

    token: str
    question: str
    reading: Reading | None = None

    @property
    def name(self) -> str:
        """How the task is called on the command line, such as `detailed-caption`."""
        return self.token.strip("<>").lower().replace("_", "-")

    def asked(self, text: str) -> str:
        """The question with the text that the user gave for it.

        Raises `OptionError` if the task needs one and there is none, or the reverse.
        """
        text = text.strip()
        takes = INPUT in self.question or REGION in self.question
        if takes and not text:
            what = "a region" if REGION in self.question else "a text"
            raise OptionError(f"the task {self.name} is about {what}; give it as the prompt")
        if not takes:
            if text:
                raise OptionError(f"the task {self.name} takes no prompt; leave it out")
            return self.question
        if REGION in self.question:
            return self.question.replace(REGION, _region(text))
        return self.question.replace(INPUT, text)


def _region(text: str) -> str:
    """A region's location tokens, from these or from the sides of a box."""
    if _REGION.fullmatch(text):
        return text
    try:
        left, top, right, bottom = map(float, _NUMBERS.split(text))
        if 0 <= left <= right <= 1 and 0 <= top <= bottom <= 1:
            return located((left, top, right, bottom))
    except ValueError:
        pass
    raise OptionError(
        f"the prompt {quoted(text)} is no region; give left, top, right and bottom as fractions of "
        f"the picture, such as '0.1 0.2 0.5 0.9', or four tokens from <loc_0> to <loc_{PARTS - 1}>"
    )


FLORENCE2 = (
    Task("<CAPTION>", "What does the image describe?"),
    Task("<DETAILED_CAPTION>", "Describe in detail what is shown in the image."),
    Task("<MORE_DETAILED_CAPTION>", "Describe with a paragraph what is shown in the image."),
    Task("<OD>", "Locate the objects with category name in the image.", labelled_boxes),
    Task(
        "<DENSE_REGION_CAPTION>",
        "Locate the objects in the image, with their descriptions.",
        labelled_boxes,
    ),
    Task("<REGION_PROPOSAL>", "Locate the region proposals in the image.", boxes),
    Task("<CAPTION_TO_PHRASE_GROUNDING>", "Locate the phrases in the caption: {text}", phrases),
    Task(
        "<OPEN_VOCABULARY_DETECTION>",
        "Locate {text} in the image.",
        labelled_boxes_or_polygons,
    ),
    Task("<REFERRING_EXPRESSION_SEGMENTATION>", "Locate {text} in the image with mask", polygons),
    Task("<REGION_TO_SEGMENTATION>", "What is the polygon mask of region {region}", polygons),
    Task("<REGION_TO_CATEGORY>", "What is the region {region}?"),
    Task("<REGION_TO_DESCRIPTION>", "What does the region {region} describe?"),
    Task("<REGION_TO_OCR>", "What text is in the region {region}?"),
    Task("<OCR>", "What is the text in the image?"),
    Task("<OCR_WITH_REGION>", "What is the text in the image, with regions?", quads),
)
# The tokens that Florence-2's words are followed by; Microsoft's tokenizers lack them.
FLORENCE2_TOKENS = (
    *("<od>", "</od>", "<ocr>", "</ocr>"),
    *(f"<loc_{part}>" for part in range(PARTS)),
    *("<cap>", "</cap>", "<ncap>", "</ncap>", "<dcap>", "</dcap>", "<grounding>", "</grounding>"),
    *("<seg>", "</seg>", "<sep>", "<region_cap>", "</region_cap>", "<region_to_desciption>"),
    *("</region_to_desciption>", "<proposal>", "</proposal>", "<poly>", "</poly>", "<and>"),
)
