"""Tags of pictures as hints inside the prompts of a captioner."""

import dataclasses
from pathlib import Path

from captax.collection.beside import SIDECAR_LIMIT, TextSidecars
from captax.collection.item import Item
from captax.files import read_text
from captax.images import ImageError

_TAGS = "{tags}"
MOST = 4000  # characters of the tags of a picture
_AFTER = f" The picture's tags: {_TAGS}."


@dataclasses.dataclass(frozen=True)
class Hints:
    """The texts of pictures in a `folder`, as sidecars that mirror the pictures' own folders."""

    folder: Path

    def prompt(self, prompt: str, tags: str) -> str:
        """`prompt` with a place for the tags, `{tags}`, if there are any."""
        return f"{prompt}{_AFTER if tags and _TAGS not in prompt else ''}"

    def tags(self, item: Item) -> str:
        """The tags of a picture.

        Raises `ImageError` if the folder has no text for the picture.
        """
        file = TextSidecars().file(self.folder / item.place)
        try:
            tags = " ".join(read_text(file, limit=SIDECAR_LIMIT).split())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ImageError(f"{file}: its tags cannot be read ({reason})") from None
        if len(tags) > MOST:
            raise ImageError(f"{file}: its tags have more than {MOST:,} characters; shorten them")
        return tags
