"""Template expressions in HTML and Markdown, which parsers of these languages do not know."""

import re

from captax.alt.budget import check

# Stands in for every character of a template expression: no letter, space or markup of a document.
MASK = "\ue000"

# What holds the beginning of another expression is not one; PHP may stay open to the end.
_EXPRESSION = re.compile(
    r"""\{\{(?:(?!\{\{|\}\}).)*\}\}\}?    # Jinja, Django, Handlebars, Vue, Liquid, Hugo
    | \{%(?:(?!\{%|%\}).)*%\}             # Jinja, Django, Twig, Liquid
    | \{\#(?:(?!\{\#|\#\}).)*\#\}         # their comments
    | <\?(?:(?!\?>).)*(?:\?>|\Z)          # PHP, XML
    | <%(?:(?!%>).)*%>                    # ERB, EJS, ASP, Mako
    | \$\{[^{}<>\0]*\}                    # JavaScript, Mako, Thymeleaf
    """,
    re.DOTALL | re.VERBOSE,
)


# Blocks whose body is code, a literal or a comment, and not part of the page as it stands.
_BLOCK = re.compile(
    r"(?:\{%[-+]?|\{\{[<%])\s*(?P<end>end|/\s*)?"
    r"(?P<name>highlight|raw|comment|verbatim|literal|codeblock|code|prism)\b"
)


def mask_templates(text: str) -> str:
    """`text` with `MASK` for each character of a template expression; line ends stay.

    The body of a block that holds code, a literal or a comment is masked as well.
    """
    # A "<%" that nothing closes is hidden, or each would be looked after until the end of the text.
    closed = max(text.rfind("%>"), 0)
    visible = text[:closed] + text[closed:].replace("<%", "\0%")
    spans: list[tuple[int, int]] = []
    opened: tuple[str, int, int] | None = None  # its name, its place and that of its span
    for found in _EXPRESSION.finditer(visible):
        check()
        block = _BLOCK.match(found[0])
        if opened is not None and block and block["end"] and block["name"] == opened[0]:
            del spans[opened[2] :]
            spans.append((opened[1], found.end()))
            opened = None
            continue
        if opened is None and block and not block["end"]:
            opened = block["name"], found.start(), len(spans)
        spans.append(found.span())
    pieces, at = [], 0
    for start, end in spans:
        pieces += [text[at:start], re.sub(r"[^\r\n]", MASK, text[start:end])]
        at = end
    return "".join([*pieces, text[at:]])
