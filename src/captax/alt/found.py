"""What is known about an image in a document, in whichever language that is written."""

import dataclasses
from collections.abc import Callable

# Characters of a heading, a caption or a link's text that are kept. Very many images can be near
# the same one, and each is compared with it and reported with it.
LONGEST = 2000


@dataclasses.dataclass
class Context:
    """What a reader finds near an image.

    Attributes:
        heading: the heading above it.
        caption: the caption of its figure.
        title: its title.
        link: the other text of the link around it; `None` without a link, "" alone in one.
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
        start: the place of the first character of the document that an alt text replaces.
        stop: the place after the last; equal to `start` if it replaces nothing.
        write: turns an alt text into what goes there, escaped for the document.
        src: the address of the picture as the document writes it.
        skip: the rule that leaves the image alone because of its markup; `None` if none does.
        size: width and height in pixels from the markup, `None` where it gives none.
        context: what a reader finds near the image.
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
