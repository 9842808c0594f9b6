"""How Sphinx makes the site of these pages (`make site`)."""

import importlib.metadata
from pathlib import Path

from sphinx.application import Sphinx

project = "captax"
author = "the authors of captax"
copyright = "the authors of captax"
version = release = importlib.metadata.version("captax")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
# Notebooks are made from the tutorials, which are pages already.
exclude_patterns = ["_build", "notebooks"]

# Pages show what their cells print; `make notebooks` and the tests run them.
nb_execution_mode = "off"
# As GitHub names the anchors of headings.
myst_heading_anchors = 4
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
# A JSON file of one's own has "..." in it.
suppress_warnings = ["misc.highlighting_failure"]

default_role = "code"  # as docstrings mean single backquotes
toc_object_entries = False
napoleon_use_ivar = True  # attributes are documented once
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "inherited-members": True, "undoc-members": False}

html_theme = "furo"
html_title = f"captax {version}"
html_show_sphinx = False

# Links of README lead from the root of the project to these pages.
LINKS = {
    "docs/": "",
    "CONTRIBUTING.md": "contributing.md",
    "src/captax/assets/captax-lite/README.md": "captax-lite.md",
}


def _with_readme(app: Sphinx, page: str, source: list[str]) -> None:
    """The front page is README, and the table of contents after it."""
    if page == "index":
        text = (Path(app.srcdir).parent / "README.md").read_text(encoding="utf-8")
        for begin, here in LINKS.items():
            text = text.replace(f"]({begin}", f"]({here}")
        source[0] = f"{text}\n{source[0]}"


def setup(app: Sphinx) -> None:
    """Add to Sphinx what this site needs."""
    app.connect("source-read", _with_readme)
    # Links to notebooks are downloads; without this, MyST-NB expects pages.
    app.registry.source_suffix.pop(".ipynb")
