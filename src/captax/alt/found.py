"""What is known of an image that a document shows, whatever the document is written in."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass
class Context:
    """What a reader finds near an image.

    Attributes:
        heading: the heading above it.
        caption: that of its figure.
        title: its title.
        link: the other text of the link that it is in; `None` in no link, "" alone in one.
    """

    heading: str = ""
    caption: str = ""
    title: str = ""
    link: str | None = None

    def repeats(self, alt: str) -> bool:
        """Whether a reader would hear `alt` twice."""
        said = {_bare(text) for text in (self.caption, self.title, self.link or "")}
        return _bare(alt) in said


@dataclasses.dataclass(frozen=True)
class ImageUse:
    """An image in a document, and where its alt text would go.

    Attributes:
        start: of the characters of the document that an alt text takes the place of.
        stop: their end; equal to `start` where nothing is there yet.
        write: an alt text in the document's own writing, escaped: what goes there.
        src: which picture, as the document says it.
        skip: the rule by which the markup alone says to leave it, if one does.
        size: width and height in pixels as the markup says them, `None` where it does not.
    """

    start: int
    stop: int
    write: Callable[[str], str]
    src: str = ""
    skip: str | None = None
    size: tuple[int | None, int | None] = (None, None)
    context: Context = dataclasses.field(default_factory=Context)


def _bare(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())
