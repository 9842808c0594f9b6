"""Answers that name places: texts with location tokens, as Florence-2 writes them, to regions.

A location token such as `<loc_52>` is one of a thousand equal parts of the picture's width or
height. The rules are those of transformers' `Florence2PostProcessor`, for answers of any form.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

PARTS = 1000  # of the width, and of the height
_LOCATION = re.compile(r"<loc_(\d+)>")
_AROUND = re.compile(r"<s>|</s>|<pad>")
_BOX = re.compile(r"<loc_(\d+)>" * 4)
_QUAD = re.compile(r"(.+?)" + r"<loc_(\d+)>" * 8)
# What may stand after a label.
_MARKS = "<od>|</od>|<box>|</box>|<bbox>|</bbox>|<loc_"
_LABEL = re.compile(rf"^\s*(.*?)(?={_MARKS})")
_LABELLED_BOXES = re.compile(r"[^<]+(?:<loc_\d+>){4,}")
_BOXES = re.compile(r"(?:<loc_\d+>){4,}")
_POLYGON_LABEL = re.compile(rf"^\s*(.*?)(?={_MARKS}|<poly>)")
_PARTS_OF_POLYGONS = r"(?:<loc_\d+>|<sep>|<poly>|</poly>){4,}"
_LABELLED_POLYGONS = re.compile(rf"[^<]+{_PARTS_OF_POLYGONS}")
_POLYGONS = re.compile(_PARTS_OF_POLYGONS)
_ONE_OF_SEVERAL = re.compile(r"<poly>(.*?)</poly>")
_OUTLINE = re.compile(r"((?:<loc_\d+>)+)(?:<sep>|$)")
# Phrases that stand for no object of their own.
_PRONOUNS = """
it I me mine you your yours he him his she her hers they them their theirs one oneself we us our
ours its myself yourself himself herself itself ourselves yourselves themselves this that these
those who whom whose which what all another any anybody anyone anything each everybody everyone
everything few many nobody none several some somebody someone something image images the a an lots
"""
_NO_OBJECTS = frozenset(_PRONOUNS.split()) | {
    *("each other", "one another", "the image", "a group", "other objects", "a set")
}

Points = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Region:
    """A part of a picture, with its label, which may be empty.

    It has one of a `box` (left, top, right, bottom), a `quad` of four corners (x, y, x, y, ...) and
    `polygons`, each of any number of corners. All numbers are fractions of the upright picture's
    width and height.
    """

    label: str
    box: Points | None = None
    quad: Points | None = None
    polygons: tuple[Points, ...] | None = None

    def write(self) -> dict[str, Any]:
        """The region as a JSON object, which `read` turns back into the same region."""
        said: dict[str, Any] = {"label": self.label}
        for name in ("box", "quad"):
            if (points := getattr(self, name)) is not None:
                said[name] = list(points)
        if self.polygons is not None:
            said["polygons"] = list(map(list, self.polygons))
        return said

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Region":
        """The region that `write` wrote. Raises `TypeError` or `ValueError` for anything else."""
        said = dict(values)
        label, box, quad, shapes = map(said.pop, ("label", "box", "quad", "polygons"), [None] * 4)
        if said or not isinstance(label, str):
            raise TypeError("a region has a label, which is a string, and a form")
        if (box is not None and len(box) != 4) or (quad is not None and len(quad) != 8):
            raise ValueError("a box has four sides, and a quad four corners")
        return cls(
            label,
            None if box is None else tuple(map(float, box)),
            None if quad is None else tuple(map(float, quad)),
            None if shapes is None else tuple(tuple(map(float, each)) for each in shapes),
        )

    @property
    def outlines(self) -> tuple[Points, ...]:
        """The corners of each of its parts: x, y, x, y and so on."""
        if self.box is not None:
            left, top, right, bottom = self.box
            return ((left, top, right, top, right, bottom, left, bottom),)
        return self.polygons or () if self.quad is None else (self.quad,)


def quads(answer: str) -> list[Region]:
    """Lines of text and the four corners of each."""
    return [
        Region(text.strip(), quad=_fractions(corners))
        for text, *corners in _QUAD.findall(_AROUND.sub("", answer))
    ]


def labelled_boxes(answer: str) -> list[Region]:
    """Labels with one box or several."""
    return list(_boxes(answer, _LABELLED_BOXES))


def phrases(answer: str) -> list[Region]:
    """Phrases of a text with one box or several, without those that name no object."""
    return list(_boxes(answer, _LABELLED_BOXES, _NO_OBJECTS))


def boxes(answer: str) -> list[Region]:
    """Boxes without labels."""
    return list(_boxes(answer, _BOXES))


def polygons(answer: str) -> list[Region]:
    """Outlines without labels."""
    return list(_outlined(answer, _POLYGONS))


def labelled_boxes_or_polygons(answer: str) -> list[Region]:
    """Labels with their outlines if the answer has any, else with boxes."""
    return (
        list(_outlined(answer, _LABELLED_POLYGONS))
        if "<poly>" in answer
        else labelled_boxes(answer)
    )


def _boxes(
    answer: str, pattern: re.Pattern[str], left_out: frozenset[str] = frozenset()
) -> Iterator[Region]:
    for found in pattern.findall(_AROUND.sub("", answer)):
        label = _LABEL.search(found)
        if label is None or label[0].strip() in left_out:
            continue
        for corners in _BOX.findall(found):
            yield Region(_ascii(label[0].strip()), box=_fractions(corners))


def _outlined(answer: str, pattern: re.Pattern[str]) -> Iterator[Region]:
    for found in pattern.findall(_AROUND.sub("", answer)):
        label = _POLYGON_LABEL.search(re.sub(r"^<loc_\d+>", "", found, count=1))
        if label is None:
            continue
        several = "<poly>" in found and "</poly>" in found
        for part in _ONE_OF_SEVERAL.findall(found) if several else [found]:
            outlines = []
            for outline in _OUTLINE.findall(part):
                numbers = _LOCATION.findall(outline)
                outlines.append(_fractions(numbers[: len(numbers) // 2 * 2]))
            if outlines:
                yield Region(label[0].strip(), polygons=tuple(outlines))


def _fractions(parts: Any) -> Points:
    """The middles of parts of the width or height."""
    return tuple((int(part) + 0.5) / PARTS for part in parts)


def _ascii(text: str) -> str:
    return text.encode("ascii", "ignore").decode("ascii")


def located(box: Points) -> str:
    """The location tokens of a box, whose sides are fractions."""
    parts = (min(max(int(side * PARTS), 0), PARTS - 1) for side in box)
    return "".join(f"<loc_{part}>" for part in parts)


Reading = Callable[[str], list[Region]]
