"""Tags as the captions of a collection: what is asked of a tagger, and its answer as a record."""

import dataclasses
from typing import Any, ClassVar

from captax.collection.captioning import PictureOptions
from captax.pipelines.tagger import (
    CHARACTER_THRESHOLD,
    GENERAL_THRESHOLD,
    Tagging,
    mean_probability,
)
from captax.text.tags import Spelling, Tag


@dataclasses.dataclass(frozen=True)
class TagOptions(PictureOptions):
    """What is asked of a tagger.

    Attributes:
        general: the threshold for tags of all categories but characters.
        character: the threshold for characters.
        exclude: tags that never count.
        spelling: how tags are written.
        rating: whether the rating is written too, as `rating:general` before the tags.
    """

    done: ClassVar[str] = "tagged"

    general: float = GENERAL_THRESHOLD
    character: float = CHARACTER_THRESHOLD
    exclude: tuple[str, ...] = ()
    spelling: Spelling = dataclasses.field(default_factory=Spelling)
    rating: bool = False

    def arguments(self) -> dict[str, Any]:
        return {"general": self.general, "character": self.character, "exclude": self.exclude}

    def settings(self) -> dict[str, Any]:
        spelt = dataclasses.asdict(self.spelling)
        return {**super().settings(), **spelt, "rating": self.rating}

    def said(self, found: Any) -> dict[str, Any] | None:
        """The tags and their text; its score is their mean probability, without the rating's."""
        if not isinstance(found, Tagging):
            return None
        text = found.text(**dataclasses.asdict(self.spelling), rating=self.rating)
        told = [dataclasses.replace(each, tag=self.spelling(each.tag)) for each in found.tags]
        first: list[Tag] = [found.rating] if self.rating and found.rating is not None else []
        return {
            "captions": ((text, mean_probability(found.tags)),),
            "tags": (*first, *told),
        }
