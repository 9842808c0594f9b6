"""The tutorials' pages run as they stand, and show pictures that there are."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted((DOCS / "tutorials").glob("*.md"))


def test_every_tutorial_is_there() -> None:
    recipes = {"flickr8k-vit", "food101-vit", "flickr8k-resnet50", "vit-gpt2", "git-finetune"}
    assert {page.stem for page in PAGES} == recipes


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).is_file()]
    assert missing == []


@pytest.mark.slow
@pytest.mark.nightly("tutorials")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_and_makes_its_pictures(page: Path, tmp_path: Path) -> None:
    # As a reader's process would be: without what makes the suite's own programs quick to compile.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    program = [sys.executable, str(DOCS / "tutorials" / "run.py"), str(page)]
    run = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    pictures = re.findall(r"\]\(\.\./images/tutorials/([^)]+)\)", page.read_text())
    assert pictures
    assert [name for name in pictures if not (tmp_path / name).is_file()] == []
