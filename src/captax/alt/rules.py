"""Which images are left alone, and why."""

import re
from collections.abc import Set
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image

from captax.alt.found import ImageUse
from captax.alt.templates import MASK
from captax.images import ImageError, decode

# Every rule, in the order in which they are checked; the first that applies is the reason given.
RULES = {
    "has-alt": "has an alt text, which is never replaced",
    "decorative": 'is marked as decoration: alt="", role="presentation" or "none", aria-hidden',
    "named": "has a name from aria-label, aria-labelledby or title",
    "template": "its tag or its address is made by a template",
    "unclear": "is in a place where no alt text can be written safely",
    "no-src": "has no address",
    "embedded": "is in the document itself: a data URI or a notebook's attachment",
    "remote": "is on another server",
    "outside": "is outside the site's folder (--root names another)",
    "svg": "is an SVG drawing, which is not read",
    "icon": "it or its folder is named like an icon: icon, logo, sprite, badge, spacer, …",
    "small": "is less than 50 pixels wide or high, as the markup or the file says",
    "missing": "there is no such file",
    "unreadable": "is not a picture that can be read",
    "graphic": "its caption says so, or more than two thirds of it is flat, as in a plot",
    "low-score": "its caption scored below --min-score (with auto, its confidence is too low)",
    "wordless": "its caption has no words that can be an alt text",
    "repeats": "its alt text would repeat the figure's caption, the title or the link's text",
}
# Rules that judge by looks, which a user may turn off.
WAIVABLE = ("icon", "small", "graphic")

_SMALL = 50
# One photograph in a hundred reaches 0.5; scaling down and JPEG make graphics less flat.
_FLAT = 0.67
_ICON = re.compile(
    r"(?<![a-z])(icons?|logos?|logotypes?|sprites?|badges?|shields?|spacers?|pixel|blank|"
    r"favicons?|bullets?|arrows?|buttons?|btn|emojis?|avatars?|spinner|loading)(?![a-z])"
)


class Left(Exception):
    """An image is left alone because of `rule`; the message gives details."""

    def __init__(self, rule: str, detail: str = ""):
        super().__init__(detail)
        self.rule = rule


def picture_of(use: ImageUse, document: Path, root: Path, waived: Set[str] = frozenset()) -> Path:
    """The file that `use`, in `document`, shows.

    Addresses are resolved as a browser does; those that begin with "/" begin in `root`. Raises
    `Left` for an image that a rule leaves alone before its picture is read.
    """
    if use.skip is not None:
        raise Left(use.skip)
    path = _local(use.src, document, root)
    if path.suffix.lower() in (".svg", ".svgz"):
        raise Left("svg")
    inside = path.relative_to(root)
    inside = inside.with_suffix("") if inside.name else inside  # "." is the folder itself
    named = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", "/".join(inside.parts[-2:])).lower()
    if "icon" not in waived and (found := _ICON.search(named)):
        raise Left("icon", found[0])
    width, height = use.size
    if "small" not in waived and any(n is not None and n < _SMALL for n in (width, height)):
        raise Left("small", f"{width or '?'}x{height or '?'} in the markup")
    try:
        there = path.is_file()
    except (OSError, ValueError):
        there = False
    if not there:
        raise Left("missing", str(path))
    return path


def _local(src: str, document: Path, root: Path) -> Path:
    if MASK in src:
        raise Left("template")
    if not src:
        raise Left("no-src")
    try:
        address = urlsplit(src)
    except ValueError:
        raise Left("unclear", src) from None
    if address.scheme in ("data", "attachment", "blob", "cid"):
        raise Left("embedded")
    if address.scheme or address.netloc:
        raise Left("remote", src)
    name = unquote(address.path, errors="surrogateescape")
    if not name or "\0" in name:
        raise Left("no-src")
    # By its letters alone: a link in the site that leads elsewhere was put there on purpose.
    steps: list[str] = []
    parts = () if name.startswith("/") else document.parent.relative_to(root).parts
    for step in (*parts, *PurePosixPath(name.lstrip("/")).parts):
        if step != "..":
            steps.append(step)
        elif steps:
            steps.pop()
        else:
            raise Left("outside", src)
    return root.joinpath(*steps)


def look_at(path: Path, waived: Set[str] = frozenset()) -> None:
    """Raise `Left` if a rule about the picture itself leaves it alone."""
    try:
        picture = decode(path)
    except ImageError as error:
        raise Left("unreadable", str(error)) from None
    if "small" not in waived and min(picture.size) < _SMALL:
        raise Left("small", f"{picture.width}x{picture.height}")
    if "graphic" not in waived and (flat := flatness(picture)) > _FLAT:
        raise Left("graphic", f"{100 * flat:.0f}% flat")


def flatness(picture: Image.Image) -> float:
    """The share of pixels that equal the next in their row, or column: high in drawings."""
    width, height = picture.size
    rows = max(1, 2**20 // width)  # a few at a time: comparing takes more memory than the picture
    across = down = 0
    for top in range(0, height, rows):
        pixels = np.asarray(picture.crop((0, top, width, min(top + rows + 1, height))))
        down += int(np.count_nonzero((pixels[1:] == pixels[:-1]).all(axis=-1)))
        pixels = pixels[:rows]
        across += int(np.count_nonzero((pixels[:, 1:] == pixels[:, :-1]).all(axis=-1)))
    pairs = (across, height * (width - 1)), (down, (height - 1) * width)
    return max(same / count if count else 1.0 for same, count in pairs)
