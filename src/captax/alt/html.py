"""Images in HTML, each with the place where its alt text goes.

The tokenizer follows the HTML standard (section 13.2.5), as far as start tags, end tags and what
hides them need: comments, raw text, CDATA. It is our own because it must know where each attribute
ends in the document, and must allow for templates, which are masked before.
"""

import dataclasses
import html
import re
from collections.abc import Iterator

from captax.alt.budget import check
from captax.alt.found import LONGEST, Context, ImageUse
from captax.alt.templates import MASK, mask_templates

# Where browsers take the picture from once a script has run.
LAZY = ("data-src", "data-original", "data-lazy-src", "data-lazy")


@dataclasses.dataclass(frozen=True)
class Text:
    """Characters between tags."""

    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Tag:
    """A start tag, or an end tag if `closing`; `empty` if it ends with "/>".

    `attributes` are the first of each name, in lower case: its value and where that ends.
    """

    name: str
    closing: bool
    empty: bool
    start: int
    stop: int
    attributes: dict[str, tuple[str, int]]

    def value(self, name: str) -> str:
        """The value of an attribute; "" if it is missing or has no value."""
        return self.attributes.get(name, ("", 0))[0]


_NAME = re.compile(r"[\s/]*(=?[^\s/>=]+)(\s*=\s*)?", re.ASCII)
_VALUE = re.compile(r"""(?:"([^"]*)"|'([^']*)'|(?!["'])([^\s>]*))""", re.ASCII)
_END = re.compile(r"[\s/]*>", re.ASCII)
_TAG = re.compile(r"</?([a-zA-Z][^\s/>]*)", re.ASCII)
_COMMENT_END = re.compile(r"--!?>")
_IN_SCRIPT = re.compile(r"<!--|-->|<script(?=[\s/>])", re.IGNORECASE)
_WHOLE = {"<!--": "-->", "<![CDATA[": "]]>"}
_LONG_NUMBER = re.compile(r"&#[0-9]{4000,};?")  # which Python refuses to read
_RAW = ("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes")


def read_tag(text: str, start: int) -> Tag | None:
    """The tag that begins at `start`; `None` if there is no tag, or the text ends inside it."""
    named = _TAG.match(text, start)
    if named is None:
        return None
    attributes: dict[str, tuple[str, int]] = {}
    at = named.end()
    while found := _NAME.match(text, at):
        check()
        at = found.end()
        value = ""
        if found[2] is not None:
            given = _VALUE.match(text, at)
            if given is None:  # the quote is never closed
                return None
            at = given.end()
            value = unescape(given[1] or given[2] or given[3] or "")
        attributes.setdefault(found[1].lower(), (value, at))
    end = _END.match(text, at)
    if end is None:
        return None
    return Tag(
        named[1].lower(),
        text.startswith("</", start),
        text.startswith("/>", end.end() - 2) and end.end() - end.start() > 1,
        start,
        end.end(),
        attributes,
    )


def parts(text: str) -> Iterator[Tag | Text]:
    """The tags of `text` and the characters between them, without comments."""
    at = 0
    foreign = {"svg": 0, "math": 0}  # how many are open
    while at < len(text):
        start = text.find("<", at)
        if start < 0:
            start = len(text)
        if start > at:
            yield Text(at, start)
        if start == len(text):
            return
        tag = read_tag(text, start)
        if tag is not None:
            yield tag
            at = tag.stop
            within = any(foreign.values())
            if tag.name in foreign and (tag.closing or not tag.empty):
                foreign[tag.name] = max(0, foreign[tag.name] + (-1 if tag.closing else 1))
            elif tag.name == "plaintext" and not tag.closing:
                return
            elif tag.name in _RAW and not tag.closing and not (within and tag.empty):
                at = _raw_end(text, tag)
                # Raw text in HTML, but markup in SVG, and which of them this is only a parser of
                # whole documents knows; where it matters the rest is left alone.
                if within and _has_markup(text[tag.stop : at]):
                    return
        elif _TAG.match(text, start):  # a tag that never ends
            return
        else:
            at = _hidden_end(text, start, any(foreign.values()))
            if at == start:
                yield Text(start, start + 1)
                at = start + 1


def _hidden_end(text: str, start: int, foreign: bool) -> int:
    """Where a comment or the like ends that begins at `start`; `start` if none does."""
    if text.startswith("<!--", start):
        if short := re.compile(r"<!---?>").match(text, start):
            return short.end()
        end = _COMMENT_END.search(text, start + 4)
        return end.end() if end else len(text)
    closer = "]]>" if foreign and text.startswith("<![CDATA[", start) else ">"
    if text[start : start + 2] in ("<!", "<?", "</"):
        end_at = text.find(closer, start + 2)
        return end_at + len(closer) if end_at >= 0 else len(text)
    return start


def _raw_end(text: str, tag: Tag) -> int:
    """Where the end tag of raw text begins."""
    closer = re.compile(rf"</{tag.name}(?=[\s/>])", re.IGNORECASE)
    end = closer.search(text, tag.stop)
    if end and tag.name == "script" and _double_escaped(text, tag.stop, end.start()):
        # A script within a script's comment: its end tag is not the outer one's.
        end = closer.search(text, end.end()) or end
    return end.start() if end else len(text)


def _double_escaped(text: str, start: int, stop: int) -> bool:
    """Whether a script begins in a comment that is open there."""
    is_open = False
    for found in _IN_SCRIPT.finditer(text, start, stop):
        if is_open and found[0] not in _WHOLE and found[0] != "-->":
            return True
        is_open = found[0] == "<!--"
    return False


def _has_markup(text: str) -> bool:
    """Whether there is more than characters, whole comments and whole CDATA."""
    at = 0
    while (at := text.find("<", at)) >= 0:
        opener = next((each for each in _WHOLE if text.startswith(each, at)), "")
        end = text.find(_WHOLE[opener], at + len(opener)) if opener else -1
        if end < 0:
            return True
        at = end + 3
    return False


def unescape(text: str) -> str:
    """`text` with characters for its character references."""
    return html.unescape(_LONG_NUMBER.sub("\ufffd", text))


def find_html(text: str) -> list[ImageUse]:
    """The images of an HTML document or template, in order."""
    return [image_of(tag, context) for tag, context in images(mask_templates(text))]


def images(text: str) -> list[tuple[Tag, Context]]:
    """The `<img>` tags of `text`, whose templates are masked, and what is near each."""
    found: list[tuple[Tag, Context]] = []
    heading = caption = ""
    collected: dict[str, list[str]] = {}
    in_link: list[Context] = []
    in_figure: list[Context] = []
    for part in parts(text):
        check()
        if isinstance(part, Text):
            for words in collected.values():
                words.append(text[part.start : part.stop])
        elif re.fullmatch("h[1-6]|figcaption|a", part.name):
            if not part.closing:
                collected[part.name] = []
                continue
            said = " ".join(unescape("".join(collected.pop(part.name, []))).split())[:LONGEST]
            if part.name == "figcaption":
                caption = said
            elif part.name == "a":
                for context in in_link:
                    context.link = said
                in_link.clear()
            else:
                heading = said
        elif part.name == "figure":
            for context in in_figure:
                context.caption = caption
            in_figure.clear()
            caption = ""
        elif part.name == "img" and not part.closing:
            context = Context(heading, title=part.value("title"))
            found.append((part, context))
            in_figure.append(context)
            if "a" in collected:
                context.link = ""
                in_link.append(context)
    return found


def image_of(tag: Tag, context: Context) -> ImageUse:
    """The image of an `<img>` tag in text whose templates are masked."""
    name = "src"
    if not tag.value("src") or tag.value("src").startswith("data:"):
        name = next((lazy for lazy in LAZY if tag.value(lazy)), "src")
    src, place = tag.attributes.get(name, ("", tag.start + len("<img")))
    return ImageUse(
        start=place,
        stop=place,
        write=lambda alt: f' alt="{escape_html(alt)}"',
        src=src.strip(),
        skip=_markup_rule(tag) or (None if src.strip() else "no-src"),
        size=(_pixels(tag.value("width")), _pixels(tag.value("height"))),
        context=context,
    )


def _markup_rule(tag: Tag) -> str | None:
    if "alt" in tag.attributes:
        return "has-alt" if tag.value("alt").strip() else "decorative"
    if any(MASK in name or _BOUND.fullmatch(name) for name in tag.attributes):
        return "template"
    role = tag.value("role").lower().split()[:1]
    if role in (["none"], ["presentation"]) or tag.value("aria-hidden").lower() == "true":
        return "decorative"
    if any(tag.value(name).strip() for name in ("aria-label", "aria-labelledby", "title")):
        return "named"
    return None


# Attributes from which Vue, Angular, Alpine, Thymeleaf, Svelte and JSX make an alt text.
_BOUND = re.compile(r"(v-bind:|x-bind:|th:|ng-attr-|:|\[|\[attr\.)alt\]?|v-bind|th:attr|\{.*")


def _pixels(length: str) -> int | None:
    found = re.fullmatch(r"\s*(\d{1,6})(?:\.\d*)?(?:px)?\s*", length)
    return int(found[1]) if found else None


def escape_html(alt: str) -> str:
    """`alt` for a double-quoted attribute, safe in templates, and in Markdown and its tables."""
    escaped = html.escape(alt, quote=False).replace('"', "&quot;")
    return re.sub(r"[{}|`]", lambda found: f"&#{ord(found[0])};", escaped)
