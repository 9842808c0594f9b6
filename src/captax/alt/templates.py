"""Template expressions within HTML and Markdown, which no parser of these languages knows."""

import re

# Stands in for every character of a template expression: no letter, space or markup of a document.
MASK = "\ue000"

# An expression that holds the beginning of another is none; PHP may be left open to the end.
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
    """`text`, each character of a template expression replaced by `MASK`, ends of lines kept."""
    return _EXPRESSION.sub(lambda found: re.sub(r"[^\r\n]", MASK, found[0]), text)
