"""Images in reStructuredText: `image` and `figure` directives without an `:alt:`."""

import re

from captax.alt.budget import check
from captax.alt.found import LONGEST, Context, ImageUse

_DIRECTIVE = re.compile(r"(?P<indent>[ ]*)\.\. (?P<name>[\w:+.-]+)::(?:[ ]+(?P<argument>.*))?")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_OPTION = re.compile(r"(?P<indent>[ \t]+):(?P<name>[\w-]+):[ ]*(?P<value>.*)")
_UNDERLINE = re.compile(r"([^\w\s])\1{2,}[ ]*")
# Directives that hold more of the same language; all others may show it as an example.
_CONTAINERS = re.compile(
    r"""note|warning|tip|hint|important|caution|danger|attention|error|admonition|seealso|todo
    |only|container|compound|topic|sidebar|epigraph|pull-quote|highlights|centered|class
    |table|list-table|hlist|figure|version(?:added|changed|removed)|deprecated
    |details|dropdown|collapse|toggle|card|grid(?:-item(?:-card)?)?|tab(?:s|-set|-item)?|group-tab
    |(?:py|c|cpp|js):[\w-]+""",
    re.VERBOSE,
)


def find_rst(text: str) -> list[ImageUse]:
    """The `image` and `figure` directives of a reStructuredText document, in order.

    Directives inside literal blocks, comments and directives that may hold examples are left out.
    """
    uses: list[ImageUse] = []
    heading = ""
    around: list[tuple[int, bool]] = []  # indents of what we are in, and whether it holds prose
    lines = _LINE.findall(text)
    places = [0]
    for line in lines:
        places.append(places[-1] + len(line))
    bare = [line.rstrip("\r\n") for line in lines]
    for number, line in enumerate(bare):
        check()
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        while around and around[-1][0] >= indent:
            around.pop()
        if around and not all(prose for _, prose in around):
            continue
        if found := _DIRECTIVE.fullmatch(line.rstrip(" ")):
            name = found["name"]
            around.append((indent, _CONTAINERS.fullmatch(name) is not None))
            if name in ("image", "figure"):
                end = places[number] + len(line)
                ending = lines[number][len(line) :] or "\n"
                uses.append(_use(found, bare, number, end, ending, heading))
        elif line.lstrip().startswith(".. ") or line.strip() == "..":
            around.append((indent, False))  # a comment, or a target, which holds nothing
        elif line.rstrip().endswith("::"):
            around.append((indent, False))
        elif number + 1 < len(bare) and indent == 0 and _UNDERLINE.fullmatch(bare[number + 1]):
            heading = line.strip()[:LONGEST]
    return uses


def _use(
    found: re.Match[str], lines: list[str], number: int, end: int, ending: str, heading: str
) -> ImageUse:
    indent, argument = found["indent"], found["argument"] or ""
    options: dict[str, str] = {}
    inner = indent + "   "
    for line in map(lines.__getitem__, range(number + 1, len(lines))):
        option = _OPTION.fullmatch(line)
        if option is None or len(option["indent"]) <= len(indent):
            break
        if not options:
            inner = option["indent"]
        options[option["name"]] = option["value"]
    after = lines[number + 1 + len(options) : number + 3 + len(options)]
    skip = None
    if "alt" in options:
        skip = "has-alt" if options["alt"].strip() else "decorative"
    elif not argument or (after and _deeper(after[0], indent)):
        skip = "unclear"  # its address or an option goes on in the next line
    caption = ""
    if found["name"] == "figure" and len(after) > 1 and not after[0].strip():
        caption = " ".join(after[1].split())[:LONGEST] if _deeper(after[1], indent) else ""
    link = "" if "target" in options else None
    return ImageUse(
        start=end,
        stop=end,
        write=lambda alt: f"{ending}{inner}:alt: {alt}",
        src=argument,
        skip=skip,
        size=(_pixels(options.get("width")), _pixels(options.get("height"))),
        context=Context(heading, caption, link=link),
    )


def _deeper(line: str, indent: str) -> bool:
    """Whether `line` belongs to a directive with that indent."""
    return bool(line.strip()) and len(line) - len(line.lstrip()) > len(indent)


def _pixels(length: str | None) -> int | None:
    found = re.fullmatch(r"(\d{1,6})(?:\.\d*)?\s*(?:px)?", (length or "").strip())
    return int(found[1]) if found else None
