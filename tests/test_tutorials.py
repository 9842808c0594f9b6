"""The tutorials' pages and notebooks run as they stand, and show pictures that there are."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
PAGES = sorted(page for page in TUTORIALS.glob("*.md") if page.name != "README.md")
MODEL = "HuggingFaceTB/SmolVLM-256M-Instruct"


def test_every_tutorial_is_there() -> None:
    recipes = {"flickr8k-vit", "food101-vit", "flickr8k-resnet50", "vit-gpt2", "git-finetune"}
    assert {page.stem for page in PAGES} == {*recipes, "smolvlm"}


@pytest.mark.parametrize("page", sorted(TUTORIALS.glob("*.md")), ids=lambda page: page.stem)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).is_file()]
    assert missing == []


@pytest.fixture
def notebook_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.syspath_prepend(str(TUTORIALS))
    from notebooks import notebook_of  # the path is this fixture's

    return notebook_of


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_notebook_is_made_from_its_page(page: Path, notebook_of: Callable[..., Any]) -> None:
    import nbformat  # of the docs extra

    kept = nbformat.read(ROOT / "docs" / "notebooks" / f"{page.stem}.ipynb", 4)
    assert kept == notebook_of(page), "run `make notebooks`"
    nbformat.validate(kept)
    text = "".join(cell.source for cell in kept.cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / "docs" / "notebooks" / link).is_file()] == []


@pytest.mark.slow
def test_colab_opens_a_notebook_of_a_published_project(notebook_of: Callable[..., Any]) -> None:
    made = notebook_of(PAGES[0], repository="https://github.com/a/b")
    address = (
        f"https://colab.research.google.com/github/a/b/blob/main/docs/notebooks/{PAGES[0].stem}"
    )
    assert f"({address}.ipynb)" in made.cells[1].source


@pytest.mark.slow
@pytest.mark.nightly("tutorials")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_notebook_runs_and_shows_its_pictures(
    page: Path,
    notebook_of: Callable[..., Any],
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from nbclient import NotebookClient  # of the docs extra

    # As a reader's process would be: without what makes the suite's own programs quick to compile.
    for name in [each for each in os.environ if each.startswith(("JAX_", "XLA_"))]:
        monkeypatch.delenv(name)
    shutil.copytree(checkpoint("smolvlm"), tmp_path / MODEL)
    notebook = notebook_of(page)
    for cell in notebook.cells:  # the stand-in's tiles are smaller
        cell.source = cell.source.replace("longest_edge=1024", "longest_edge=64")
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [
        output.data["image/png" if "image/png" in output.data else "image/jpeg"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "data" in output and any(kind.startswith("image/") for kind in output.data)
    ]
    pictures = re.findall(r"\]\(\.\./images/tutorials/([^)]+)\)", page.read_text())
    assert len(shown) == len(pictures)
    assert [name for name in pictures if not (tmp_path / name).is_file()] == []


def test_a_page_gets_what_its_cells_print(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    cell = "```{code-cell} python\nprint('a cat')\n```\n"
    page.write_text(f"# A page\n\n{cell}\n```text\na dog\n```\n\nThe end.\n")
    program = [sys.executable, str(TUTORIALS / "run.py"), str(page), "--write"]
    subprocess.run(program, check=True, capture_output=True)
    assert page.read_text() == f"# A page\n\n{cell}\n```text\na cat\n```\n\nThe end.\n"
