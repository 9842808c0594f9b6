"""Images in Markdown: `![](x.png)`, `![][id]`, raw `<img>`, and MyST's `{image}` and `{figure}`.

A parser of CommonMark says what is an image and what is code, a comment or an escaped bracket; what
MkDocs adds is shown to it as lists. It keeps no places within lines, so every place that could be
an image gets a mark, and the parser is then asked which marks became alt texts or attributes.
"""

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import accumulate

from markdown_it import MarkdownIt
from markdown_it.token import Token

from captax.alt import html
from captax.alt.budget import check
from captax.alt.found import LONGEST, Context, ImageUse
from captax.alt.templates import MASK, mask_templates
from captax.errors import CaptaxError

# One step of the parser, after which the budget is checked, takes up to 4 seconds for so many.
MOST_CHARACTERS = 1_000_000
# Characters that are parsed to find the marks that change what is around them.
_MOST_PARSED = 2_000_000
_LONGEST_SRC = 5000  # more than a path may have
_CANDIDATE = re.compile(r"!\[(?P<blank>[ \t]*)\]|<img(?=[\s/>])", re.IGNORECASE)
_FRONT_MATTER = re.compile(r"\A(---|\+\+\+)[ \t]*\r?\n.*?^\1[ \t]*$", re.DOTALL | re.MULTILINE)
_PUNCTUATION = re.compile(r"[\\`*_\[\]<>&$~|{}#^!]")


# What holds blocks that are indented by 4, in the Markdown of MkDocs: admonitions, tabs, footnotes
# and definitions. To CommonMark these blocks are code.
_HOLDER = re.compile(
    r"""^(?P<before>[ \t>]*)(?P<mark>
        (?: (?:!!!|\?\?\?\+?)[ ]?[\w-]+(?:[ ]+[\w-]+)*(?:[ ]+"[^"\r\n]*")?
          | ===[!+]{0,2}[ ]+(?:"[^"\r\n]*"|'[^'\r\n]*') ) (?=[ \t]*\r?$)
      | \[\^[^\]\s]+\]:
      | :(?=[ ]{1,3}\S) )""",
    re.MULTILINE | re.VERBOSE,
)


class MarkdownError(CaptaxError):
    """A text is too long to be read as Markdown."""


def find_markdown(text: str, heading: str = "") -> list[ImageUse]:
    """The images of a Markdown document, in order; `heading` is the one above its beginning.

    Raises `MarkdownError` if it is too long.
    """
    if len(text) > MOST_CHARACTERS:
        raise MarkdownError(
            f"has {len(text):,} characters of Markdown, and {MOST_CHARACTERS:,} are read; split it"
        )
    masked = mask_templates(text)
    if front := _FRONT_MATTER.match(masked):
        masked = re.sub(r"[^\r\n]", " ", front[0]) + masked[front.end() :]
    masked = _HOLDER.sub(_as_item, masked)
    mark = "captaxmark" + "q" * _longest_run(text.lower(), "captaxmark")
    plain = _PARSER.parse(masked)
    candidates = [found for found in _CANDIDATE.finditer(masked) if not _escaped(masked, found)]
    uses = [*_described(masked, plain), *_directives(masked, plain, heading)]
    shape = _shape(plain)
    left = max(_MOST_PARSED, 8 * len(masked))

    def read(some: Sequence[re.Match[str]]) -> Iterator[ImageUse]:
        nonlocal left
        left -= len(masked)
        if left < 0:
            yield from map(_unclear, some)
            return
        marked = _PARSER.parse(_marked(masked, some, mark))
        if _shape(marked) == shape:
            yield from _read(masked, some, marked, mark, heading)
        elif len(some) > 1:  # a mark made something else of what is around it; most do not
            for part in (some[: len(some) // 2], some[len(some) // 2 :]):
                yield from read(part)
        elif not _is_target(masked, some[0]):
            yield _unclear(some[0])

    uses += read(candidates)
    return sorted(uses, key=lambda use: use.start)


def _as_item(holder: re.Match[str]) -> str:
    """The same number of characters that begin a list's item, which holds the same blocks."""
    mark = holder["mark"]
    if mark == ":":
        return f"{holder['before']}-"
    fifth = "x" if mark[4:5] == " " else mark[4:5]  # one more space would begin code
    return f"{holder['before']}-   {fifth}{mark[5:]}"


def _longest_run(text: str, mark: str) -> int:
    """How many "q" must follow `mark` at least, so that `text` does not have it."""
    return max((len(found[1]) + 1 for found in re.finditer(f"{mark}(q*)", text)), default=0)


def last_heading(text: str) -> str:
    """The text of the last heading of a Markdown document; "" if it has none."""
    headings = [heading for _, heading in _under_headings(_PARSER.parse(text), "")]
    return headings[-1] if headings else ""


def escape_markdown(alt: str) -> str:
    """`alt` escaped for the brackets of an image."""
    return _PUNCTUATION.sub(r"\\\g<0>", alt)


class _Parser(MarkdownIt):
    """A parser that checks the budget before each token, and each step of which is short."""

    def __init__(self) -> None:
        super().__init__("commonmark")
        self.enable("table")
        everywhere = ["paragraph", "reference", "blockquote", "list"]
        self.block.ruler.before("table", "budget", check, {"alt": everywhere})
        self.inline.ruler.after("text", "budget", check)
        self.inline.ruler2.before("balance_pairs", "budget", check)

    def normalizeLink(self, url: str) -> str:
        """`url` with its characters escaped; long ones and templates lead to no file."""
        if len(url) > _LONGEST_SRC or MASK in url:
            return url
        return super().normalizeLink(url)


_PARSER = _Parser()


def _escaped(text: str, candidate: re.Match[str]) -> bool:
    at = candidate.start()
    while at and text[at - 1] == "\\":
        at -= 1
    return (candidate.start() - at) % 2 == 1


def _is_target(text: str, candidate: re.Match[str]) -> bool:
    """Whether what looks like a tag is the address of a link, as in `![](<img/a b.jpg>)`."""
    if candidate["blank"] is not None:
        return False
    return text[max(0, candidate.start() - 100) : candidate.start()].rstrip().endswith(("](", "]:"))


def _marked(text: str, candidates: Sequence[re.Match[str]], mark: str) -> str:
    pieces, at = [], 0
    for number, candidate in enumerate(candidates):
        image = candidate["blank"] is not None
        place = candidate.start() + 2 if image else candidate.end()
        pieces += [text[at:place], f"{mark}{number}x" if image else f' {mark}{number}x=""']
        at = place
    return "".join([*pieces, text[at:]])


def _shape(tokens: Sequence[Token]) -> list[object]:
    """What marks must not change: the tokens, their places, and the targets of links and images."""
    return [
        (token.type, token.map, [(child.type, child.attrs) for child in token.children or ()])
        for token in tokens
    ]


def _read(
    text: str, candidates: Sequence[re.Match[str]], tokens: Sequence[Token], mark: str, above: str
) -> Iterator[ImageUse]:
    """The candidates that are images, found by their marks in `tokens`."""
    marked = re.compile(rf"{mark}(\d+)x")
    for token, heading in _under_headings(tokens, above):
        if token.type == "html_block":
            for tag, context in html.images(token.content):
                context.heading = context.heading or heading
                yield from _raw(text, candidates, tag, context, marked)
        inside: list[Context] | None = None
        words: list[str] = []
        for child in token.children or ():
            context = Context(heading, link=None if inside is None else "")
            if child.type == "image" and (found := marked.fullmatch(child.content.strip())):
                candidate = candidates[int(found[1])]
                context.title = str(child.attrs.get("title", ""))
                yield ImageUse(
                    start=candidate.start("blank"),
                    stop=candidate.end("blank"),
                    write=escape_markdown,
                    src=_src(child),
                    context=context,
                )
            elif child.type == "html_inline":
                for tag, _ in html.images(child.content):
                    context.title = tag.value("title")
                    yield from _raw(text, candidates, tag, context, marked)
            if child.type == "link_open" or _LINK.match(child.content):
                inside, words = [], []
            elif child.type == "link_close" or child.content.lower() == "</a>":
                said = " ".join("".join(words).split())[:LONGEST]
                for each in inside or ():
                    each.link = said
                inside = None
            elif inside is not None:
                inside.append(context)
                words.append(child.content if child.type in ("text", "code_inline") else " ")


_LINK = re.compile(r"<a\s", re.IGNORECASE)


def _raw(
    text: str,
    candidates: Sequence[re.Match[str]],
    tag: html.Tag,
    context: Context,
    marked: re.Pattern[str],
) -> Iterator[ImageUse]:
    """The image of a raw tag, by the mark among its attributes."""
    values = {name: value for name, (value, _) in tag.attributes.items()}
    [number] = [int(found[1]) for name in values if (found := marked.fullmatch(name))] or [-1]
    if number < 0:
        return
    candidate = candidates[number]
    source = html.read_tag(text, candidate.start())
    here = {} if source is None else {name: value[0] for name, value in source.attributes.items()}
    if source and here == {name: v for name, v in values.items() if not marked.fullmatch(name)}:
        yield html.image_of(source, context)
    else:  # a quotation's ">" or the like stands between its lines
        yield _unclear(candidate)


def _unclear(candidate: re.Match[str]) -> ImageUse:
    return ImageUse(candidate.start(), candidate.start(), escape_markdown, skip="unclear")


def _src(image: Token) -> str:
    """The address of an image; very many can share a long one."""
    return _cut(str(image.attrs["src"]))


@lru_cache(1000)
def _cut(src: str) -> str:
    return src if len(src) <= _LONGEST_SRC else src[:_LONGEST_SRC]


def _described(text: str, tokens: Sequence[Token]) -> Iterator[ImageUse]:
    """Images that have an alt text; the place of each is the beginning of its block."""
    starts = [0, *(end.end() for end in re.finditer("\n", text))]
    for token in tokens:
        for child in token.children or ():
            if child.type == "image" and child.content.strip() and token.map:
                place = starts[token.map[0]]
                src = _src(child)
                yield ImageUse(place, place, escape_markdown, src=src, skip="has-alt")


_DIRECTIVE = re.compile(r"\{(?:image|figure)\}[ \t]*(?P<argument>.*)")
_OPENING_FENCE = re.compile(r"(?P<indent>[ ]*)(?:```|~~~)[^\r\n]*(?P<ending>\r\n|\r|\n)")
# MyST's options are YAML, which reads such a text without quotes.
_PLAIN = re.compile(r"[A-Za-z][\w ,.()'-]*")


def _directives(text: str, tokens: Sequence[Token], above: str) -> Iterator[ImageUse]:
    """MyST's directives, which are fences; an option goes in a line of its own."""
    lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)
    places = list(accumulate(map(len, lines), initial=0))
    for token, heading in _under_headings(tokens, above):
        found = _DIRECTIVE.fullmatch(token.info) if token.type == "fence" else None
        if found is None or token.map is None:
            continue
        number = token.map[0]
        place = places[number]
        block = token.content.startswith("---\n")  # of YAML, instead of lines of options
        colon = "" if block else ":"
        described = re.findall(rf"^{colon}alt:[ \t]*(.*)$", token.content, re.MULTILINE)
        opening = _OPENING_FENCE.fullmatch(lines[number])
        skip = None
        if described:
            skip = "has-alt" if described[0].strip() else "decorative"
        elif opening is None or not found["argument"]:
            skip = "unclear"  # in a quotation, or on a list's bullet
        end = places[number + block] + len(lines[number + block].rstrip("\r\n"))
        yield ImageUse(
            start=place if skip else end,
            stop=place if skip else end,
            write=partial(
                _option, "" if opening is None else opening["ending"] + opening["indent"] + colon
            ),
            src=found["argument"].strip(),
            skip=skip,
            context=Context(heading),
        )


def _option(before: str, alt: str) -> str:
    plain = _PLAIN.fullmatch(alt)
    return f"{before}alt: {alt if plain else json.dumps(alt, ensure_ascii=False)}"


def _under_headings(tokens: Sequence[Token], heading: str) -> Iterator[tuple[Token, str]]:
    """Each token and the text of the heading above it."""
    opened = False
    for token in tokens:
        check()
        if opened and token.type == "inline":
            words = [child.content for child in token.children or () if child.type != "image"]
            heading = " ".join("".join(words).split())[:LONGEST]
        opened = token.type == "heading_open"
        yield token, heading
