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


def mask_templates(text: str) -> str:
    """`text` with `MASK` for each character of a template expression; line ends stay."""
    # A "<%" that nothing closes is hidden, or each would be looked after until the end of the text.
    closed = max(text.rfind("%>"), 0)
    visible = text[:closed] + text[closed:].replace("<%", "\0%")
    pieces, at = [], 0
    for found in _EXPRESSION.finditer(visible):
        check()
        pieces += [text[at : found.start()], re.sub(r"[^\r\n]", MASK, found[0])]
        at = found.end()
    return "".join([*pieces, text[at:]])
