"""Put captions into a template, and join them with existing text."""

import dataclasses
import string
from pathlib import PurePosixPath

from captax.collection.choices import OnExists
from captax.collection.item import CollectionError
from captax.collection.record import utf8
from captax.errors import quoted

FIELDS = ("caption", "name", "folder")


@dataclasses.dataclass(frozen=True)
class CaptionTemplate:
    """A template for captions.

    `{caption}` is the caption, `{name}` the picture's name without its suffix, and `{folder}` the
    name of its folder; `{{` and `}}` are braces. `prefix` and `suffix`, such as a trainer's trigger
    words, are put before and after the result, and braces in them have no meaning.
    """

    template: str = "{caption}"
    prefix: str = ""
    suffix: str = ""

    def __post_init__(self) -> None:
        try:
            fields = {
                name
                for _, name, _, _ in string.Formatter().parse(self.template)
                if name is not None
            }
            self.template.format_map(dict.fromkeys(FIELDS, ""))
        except (ValueError, KeyError, IndexError, AttributeError) as error:
            known = ", ".join(f"{{{name}}}" for name in FIELDS)
            raise CollectionError(
                f"--template {quoted(self.template)} cannot be filled in ({error}); it may hold "
                f"{known}, "
                "and {{ for a brace"
            ) from None
        if "caption" not in fields:
            raise CollectionError(
                f"--template {quoted(self.template)} does not contain {{caption}}; add it"
            )

    def __call__(self, caption: str, name: str) -> str:
        """The text to write for the picture of that name."""
        path = PurePosixPath(utf8(name))
        values = {"caption": caption, "name": path.stem, "folder": path.parent.name}
        return f"{self.prefix}{self.template.format_map(values)}{self.suffix}"


def merged(policy: OnExists, before: str, texts: list[str], separator: str) -> list[str]:
    """The captions to write, by `policy`, where the text `before` already exists."""
    kept = before.rstrip()
    if not kept or policy not in (OnExists.append, OnExists.prepend):
        return texts
    if not any(texts):
        return [kept, *texts[1:]]
    if policy is OnExists.append:
        return [f"{kept}{separator}{texts[0]}", *texts[1:]]
    return [*texts[:-1], f"{texts[-1]}{separator}{kept}"]
