"""What is wrong with the examples of a dataset, as its check and training tell it."""

import enum
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captax.files import is_file
from captax.images.decode import ImageError

# Metrics and tokenizers take memory for every word.
LONGEST_CAPTION = 100_000  # characters; a page of a book has 2,000
LONGEST_SOURCE = 10_000_000  # characters; the longest novels have five million


class Kind(enum.Enum):
    """Kinds of faults; the values say how one, and how several, are counted."""

    unreadable = "picture cannot be read", "pictures cannot be read"
    missing = "picture does not exist", "pictures do not exist"
    uncaptioned = "picture has no caption", "pictures have no caption"
    empty = "picture has an empty caption", "pictures have an empty caption"
    long = "text is too long", "texts are too long"
    text = "file of captions cannot be read", "files of captions cannot be read"
    unpictured = "list has captions without a picture", "lists have captions without a picture"
    blank = "pair has an empty text", "pairs have an empty text"
    dataset = "dataset has a fault", "datasets have faults"

    @property
    def of_example(self) -> bool:
        """Whether it is gone once what has the fault is left out."""
        return self is not Kind.dataset


@dataclass(frozen=True)
class Fault:
    """What is wrong: its kind, and a line that names the example or the file."""

    kind: Kind
    told: str


def counted(faults: Iterable[Fault]) -> str:
    """How many faults there are of each kind, in words."""
    counts = Counter(fault.kind for fault in faults)
    return ", ".join(f"{counts[k]:,} {k.value[counts[k] > 1]}" for k in Kind if counts[k])


def text_fault(example: Any) -> Kind | None:
    """What is wrong with the texts of an example: a picture's captions, or a pair."""
    captions: Sequence[str] | None = getattr(example, "captions", None)
    if captions is None:
        pair = [(getattr(example, name, "-"), most) for name, most in _PAIR.items()]
        if any(len(text) > most for text, most in pair):
            return Kind.long
        return None if all(text for text, _ in pair) else Kind.blank
    if not captions:
        return Kind.uncaptioned
    if any(len(caption) > LONGEST_CAPTION for caption in captions):
        return Kind.long
    return None if all(captions) else Kind.empty


_PAIR = {"source": LONGEST_SOURCE, "target": LONGEST_CAPTION}


def picture_fault(example: Any, look: Callable[[Any], object]) -> tuple[Kind, str] | None:
    """What is wrong with the picture of an example, of which `look` raises an `ImageError`."""
    image = None
    try:
        image = example.image
        look(image)
    except ImageError as error:
        gone = isinstance(image, Path) and not is_file(image)
        reason = str(error)
        if str(image).endswith(example.id):  # whoever tells of it names the example
            reason = reason.removeprefix(str(ImageError(f"{image}: ")))
        return (Kind.missing if gone else Kind.unreadable), reason
    return None
