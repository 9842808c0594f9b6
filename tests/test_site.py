"""The site of the documentation: it is made without a warning, and no link in it is dead."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from lxml import html

import captax

DOCS = Path(__file__).resolve().parents[1] / "docs"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    options = ("--quiet", "--fail-on-warning", "--keep-going")
    program = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(folder)]
    run = subprocess.run(program, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder


def test_every_page_is_in_the_table_of_contents(site: Path) -> None:
    pages = {page.relative_to(DOCS).with_suffix(".html") for page in DOCS.rglob("*.md")}
    front = html.parse(site / "index.html")
    links = front.xpath("//*[contains(@class, 'sidebar-tree')]//a/@href")
    assert {str(page) for page in pages} - {"index.html"} == {*links} - {"#"}


def test_no_link_is_dead(site: Path) -> None:
    trees = {page: html.parse(page) for page in site.rglob("*.html")}
    anchors = {
        page: {*tree.xpath("//@id"), *tree.xpath("//a/@name")} for page, tree in trees.items()
    }
    dead = []
    for page, tree in trees.items():
        for link in (*tree.xpath("//a/@href"), *tree.xpath("//img/@src")):
            if re.match(r"\w+:|//", link):
                continue
            file, _, anchor = unquote(link).partition("#")
            target = (page.parent / file.partition("?")[0]).resolve() if file else page
            known = anchors.get(target)
            if not target.is_file() or (anchor and known is not None and anchor not in known):
                dead.append((page.name, link))
    assert dead == []


def test_all_public_names_are_documented(site: Path) -> None:
    described = {*html.parse(site / "api.html").xpath("//dt/@id")}
    assert {f"captax.{name}" for name in captax.__all__} <= described
