"""The result for one picture."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from captax.text.kinds import graphic_in
from captax.text.regions import Region
from captax.text.tags import Tag

# Names that the files of captions have for what captax writes.
_OWN = re.compile(
    r"path|error|alternatives|copy_of|confidence|graphic|looped|(?:caption|score)(?:_\d+)?"
)
# The fields that come from the pipeline, and not from the job.
SAID = (*("captions", "confidence", "regions", "looped", "tags", "removed", "language", "facts"),)


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A picture's captions, or why it has none.

    Attributes:
        name: the name of the item.
        captions: the texts with their scores, the best first; None is a score that is not known.
        confidence: the confidence in the best caption, if the checkpoint has a calibration.
        error: why the picture has no caption.
        copy_of: the earlier picture that looks the same, from which the captions were taken.
        fingerprint: its perceptual hash, if the job looks for copies.
        target: the picture that the caption is written beside, if the output does so.
        before: the text that was there when the caption was made.
        columns: the other columns of the list that names the picture, as outputs have them.
        replaced: the text there that this job wrote for an earlier state of the picture; the new
            text takes its place.
        stamp: the state of the picture, as `captax.collection.stamps` tells it.
        regions: what the best caption says of parts of the picture, if it was asked for that.
        looped: whether the best caption said the same again and again, until it was cut.
        tags: the tags that the caption is made of, as they are written in it, if it is.
        removed: the preamble that was removed from the best caption.
        language: the code of the language that captions were asked for in.
        facts: what the prompt told of the picture, by name; None is a fact that was not known.
    """

    name: str
    captions: tuple[tuple[str, float | None], ...] = ()
    error: str = ""
    copy_of: str = ""
    fingerprint: int | None = None
    target: str | None = None
    before: str = ""
    confidence: float | None = None
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)
    replaced: str = ""
    stamp: str = ""
    regions: tuple[Region, ...] | None = None
    looped: bool = False
    tags: tuple[Tag, ...] | None = None
    removed: str = ""
    language: str = ""
    facts: dict[str, str | None] = dataclasses.field(default_factory=dict)

    @property
    def text(self) -> str:
        """The best caption."""
        return self.captions[0][0]

    @property
    def score(self) -> float | None:
        """The best caption's score, if it is known."""
        return self.captions[0][1]

    @property
    def graphic(self) -> str | None:
        """What kind of graphic the best caption says that the picture is, if it says so."""
        return graphic_in(self.text) if self.tags is None else None

    def write(self) -> dict[str, Any]:
        """The record as a JSON object, which `read` turns back into the same record."""
        values = dataclasses.asdict(self)
        empty: tuple[Any, ...] = ((), "", None, {})
        written = {k: v for k, v in values.items() if v not in empty and v is not False}
        if self.regions is not None:
            written["regions"] = [region.write() for region in self.regions]
        if self.tags is not None:
            written["tags"] = [tag.write() for tag in self.tags]
        return written

    @classmethod
    def read(cls, values: dict[str, Any]) -> "Record":
        """The record that `write` wrote. Raises `TypeError` or `ValueError` for anything else."""
        if not isinstance(values, dict):
            raise TypeError("a record is an object")
        captions = tuple(
            (text, None if score is None else float(score))
            for text, score in values.get("captions", ())
        )
        regions = values.get("regions")
        if regions is not None:
            regions = tuple(map(Region.read, regions))
        tags = values.get("tags")
        if tags is not None:
            tags = tuple(map(Tag.read, tags))
        record = cls(**{**values, "captions": captions, "regions": regions, "tags": tags})
        texts = [record.name, record.error, record.copy_of, record.target or "", record.before]
        texts += [record.replaced, record.stamp, record.removed, record.language]
        texts += [text for text, _ in captions]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("texts are strings")
        for text, _ in captions:
            text.encode()  # half of a surrogate pair cannot be written
        if not isinstance(record.columns, dict) or not isinstance(record.facts, dict):
            raise TypeError("columns and facts are objects")
        if not all(isinstance(value, str | None) for value in record.facts.values()):
            raise TypeError("facts are strings, or null")
        if not isinstance(record.fingerprint, int | None):
            raise TypeError("fingerprints are numbers")
        if not isinstance(record.confidence, float | None):
            raise TypeError("a confidence is a number")
        if not isinstance(record.looped, bool):
            raise TypeError("whether a caption looped is true or false")
        if not (captions or record.error):
            raise ValueError("a record has captions or an error")
        return record


def utf8(name: str) -> str:
    """A name as text that can be written: bytes that are not UTF-8 are escaped."""
    return name.encode(errors="backslashreplace").decode()


def as_line(value: Any) -> str:
    """JSON on a line, readable in every language; names that are not UTF-8 stay what they are.

    Python holds bytes that are not UTF-8 as halves of surrogate pairs, which are escaped.
    """
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value)
    return text + "\n"


def columns_of(row: Mapping[str, Any], picture: str) -> dict[str, Any]:
    """The columns of a list's row, without that of the picture, for a record.

    A column that has a name of captax's own gets `list_` before it. If the list was written by
    captax, such columns are left out: they are written anew.
    """
    ours = {"path", "caption", "score"} <= row.keys()
    columns = {}
    for name, value in row.items():
        own = _OWN.fullmatch(name) is not None
        if name == picture or (own and ours):
            continue
        if isinstance(value, float) and not math.isfinite(value):
            value = str(value)  # JSON has no such numbers
        columns[f"list_{name}" if own else name] = value
    return columns


def cell(value: Any) -> str:
    """The value of a column as text."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)
