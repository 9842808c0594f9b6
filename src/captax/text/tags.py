"""Tags of pictures: how they are read from a tagger's table, and how they are written."""

import csv
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captax.errors import CaptaxError, quoted
from captax.files import CONFIG_LIMIT, read_text

RATING, GENERAL, CHARACTER = "rating", "general", "character"
# Danbooru's numbers of categories, and 9 as WD taggers have it.
_CATEGORIES = {"0": GENERAL, "1": "artist", "3": "copyright", "4": CHARACTER, "5": "meta"}
_CATEGORIES |= {"9": RATING}
_LONGEST = 1000  # characters of a tag
# Tags that are faces; their underscores are part of the face.
_FACES = frozenset(
    [
        *("0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<", "3_3"),
        *("6_9", ">_o", "@_@", "^_^", "o_o", "u_u", "x_x", "|_|", "||_||", "d_d", "c_c", ";_;"),
        *("T_T", "t_t"),
    ]
)


class TagError(CaptaxError):
    """A table of tags cannot be used."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tag:
    """A tag of a picture: its name, its category, and how probable it is."""

    tag: str
    category: str
    probability: float

    def write(self) -> dict[str, Any]:
        """The tag as a JSON object, which `read` turns back into the same tag."""
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Tag":
        """The tag that `write` wrote. Raises `TypeError` or `ValueError` for anything else."""
        tag = cls(**values)
        if not isinstance(tag.tag, str) or not isinstance(tag.category, str):
            raise TypeError("a tag and its category are strings")
        tag.tag.encode()  # half of a surrogate pair cannot be written
        return cls(tag.tag, tag.category, float(tag.probability))


@dataclasses.dataclass(frozen=True)
class Spelling:
    """How tags are written.

    Attributes:
        keep_underscores: leave underscores as they are; by default they become spaces, except in
            faces such as `>_<`.
        escape_parentheses: write a backslash before parentheses, which trainers and prompts take
            for a weight otherwise.
    """

    keep_underscores: bool = False
    escape_parentheses: bool = False

    def __call__(self, tag: str) -> str:
        """A tag as it is written."""
        if not self.keep_underscores and tag not in _FACES:
            tag = tag.replace("_", " ")
        return re.sub(r"([()])", r"\\\1", tag) if self.escape_parentheses else tag


def read_tags(path: Path, count: int) -> tuple[tuple[str, str], ...]:
    """The names and categories in a `selected_tags.csv`, in the order of the model's outputs.

    Raises `TagError` if the file is not such a table of `count` tags.
    """
    try:
        text = read_text(path, limit=CONFIG_LIMIT)
        reader = csv.DictReader(text.splitlines())
        columns = reader.fieldnames or ()
        if not {"name", "category"} <= set(columns):
            raise TagError(f"{path}: has no columns `name` and `category`; download it again")
        found = []
        for row in reader:
            name, category = row["name"] or "", row["category"] or ""
            if not name.strip() or len(name) > _LONGEST or not name.isprintable():
                raise TagError(
                    f"{path}, line {reader.line_num}: {quoted(name[:100])} is not a tag; download "
                    "the file again"
                )
            found.append((name, _CATEGORIES.get(category.strip(), quoted(category[:20]))))
            if len(found) > count:
                break
    except FileNotFoundError:
        raise TagError(
            f"{path}: no such file; it names a tagger's tags, so download it with the model"
        ) from None
    except OSError as error:
        raise TagError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise TagError(f"{path}: not a table of tags ({error}); download it again") from None
    if len(found) != count:
        several = f"more than {count:,}" if len(found) > count else f"{len(found):,}"
        raise TagError(
            f"{path}: has {several} tags, and the model has {count:,} outputs; download both from "
            "the same place"
        )
    return tuple(found)
