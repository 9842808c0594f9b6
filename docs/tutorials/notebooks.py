"""Make the notebooks of the tutorials: `python notebooks.py` writes ../notebooks/NAME.ipynb.

A notebook has the text and the cells of its page. What cells print and draw is left out, since it
appears when they run: pictures of the page become cells that show the file. It installs captax
where it is missing, and brings drawings.py, so that a copy of it alone runs anywhere.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from run import CELL, HERE, PAGES

NOTEBOOKS = HERE.parent / "notebooks"
INSTALL = """\
import importlib.util

if importlib.util.find_spec("captax") is None:
    %pip install --quiet captax"""
# A picture that cells of the page have made.
FIGURE = re.compile(r"!\[(?P<alt>[^]]*)\]\(\.\./images/tutorials/(?P<file>[^)]+)\)")


def notebook_of(page: Path, *, repository: str | None = None) -> nbformat.NotebookNode:
    """The notebook of a page. `repository` is the address on GitHub that Colab opens it from."""
    text = re.sub(r"\A---\n.*?\n---\n", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    cells, end = [], 0
    for cell in CELL.finditer(text):
        cells += _prose(text[end : cell.start()])
        tags = re.findall(r"^:tags: \[(.*)\]$", cell["options"], re.MULTILINE)
        cells.append(new_code_cell(cell["code"].strip(), metadata={"tags": tags} if tags else {}))
        end = cell.end()
    cells += _prose(text[end:])
    own = [new_code_cell(INSTALL)]
    if "import drawings" in text:
        drawings = (HERE / "drawings.py").read_text(encoding="utf-8").strip()
        own.append(new_code_cell(f"%%writefile drawings.py\n{drawings}"))
    if repository:
        link = f"{repository.removeprefix('https://github.com/')}/blob/main/docs/notebooks"
        badge = (
            "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
            f"(https://colab.research.google.com/github/{link}/{page.stem}.ipynb)"
        )
        own.insert(0, new_markdown_cell(badge))
    notebook = new_notebook(cells=[cells[0], *own, *cells[1:]])
    notebook.metadata.kernelspec = {"display_name": "Python 3", "name": "python3"}
    notebook.metadata.language_info = {"name": "python"}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # the same whenever it is made
    return notebook


def _prose(text: str) -> Iterator[nbformat.NotebookNode]:
    """The cells of text between two cells of code."""
    begin = 0
    for figure in FIGURE.finditer(text):
        yield from _words(text[begin : figure.start()])
        show = f'IPython.display.Image("{figure["file"]}", alt="{figure["alt"]}")'
        yield new_code_cell(f"import IPython.display\n\n{show}")
        begin = figure.end()
    yield from _words(text[begin:])


def _words(text: str) -> Iterator[nbformat.NotebookNode]:
    """The cell of some text, if there is any, whose links lead from the notebooks' folder."""
    text = re.sub(r"\]\(([\w-]+)\.md", r"](\1.ipynb", text.strip())
    text = re.sub(r"\]\(([\w-]+\.py)\)", r"](../tutorials/\1)", text)
    if text:
        yield new_markdown_cell(text)


def repository() -> str | None:
    """Where the project's files are on GitHub, if pyproject.toml says so."""
    project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    return project["project"].get("urls", {}).get("Repository")


if __name__ == "__main__":
    NOTEBOOKS.mkdir(exist_ok=True)
    for page in PAGES:
        made = notebook_of(page, repository=repository())
        nbformat.write(made, NOTEBOOKS / f"{page.stem}.ipynb")
