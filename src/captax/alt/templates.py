"""Template expressions in HTML and Markdown, which parsers of these languages do not know."""

import re

# Stands in for every character of a template expression: no letter, space or markup of a document.
MASK = "\ue000"

# What holds the beginning of another expression is not one; PHP may stay open to the end.
_EXPRESSION = re.compile(
    r"""\{\{(?:(?!\{\{|\}\}).)*\}\}\}?    # Jinja, Django, Handlebars, Vue, Liquid, Hugo
    | \{%(?:(?!\{%|%\}).)*%\}             # Jinja, Django, Twig, Liquid
    | \{\#(?:(?!\{\#|\#\}).)*\#\}         # their comments
    | <\?(?:(?!\?>).)*(?:\?>|\Z)          # PHP, XML
    | <%(?:(?!%>).)*%>                    # ERB, EJS, ASP, Mako
    | \$\{[^{}<>]*\}                      # JavaScript, Mako, Thymeleaf
    """,
    re.DOTALL | re.VERBOSE,
)


def mask_templates(text: str) -> str:
    """`text` with `MASK` for each character of a template expression; line ends stay."""
    return _EXPRESSION.sub(lambda found: re.sub(r"[^\r\n]", MASK, found[0]), text)
