"""Propose alt texts for real documentation trees and check what `captax alt` promises.

    python benchmarks/alt_trees.py TREE... [--include graphic]

The program works on a copy of each tree, with the built-in captioner, and checks four things:
the patch applies with git and gives the same bytes as `--write`; html5lib reads every changed page
as the same document except for the alt texts, and so for rendered Markdown and notebooks; an .rst
file without its new lines equals the original; and a second run proposes nothing. It prints a row
for each tree. It needs the test extra.
"""

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import html5lib
from markdown_it import MarkdownIt

import captax
from captax.alt import Proposal, Survey, propose, survey, unified_diff
from captax.compilation import persist_compiled_programs


def copied(tree: Path, to: Path) -> Path:
    """A copy that holds what links lead to; broken and circular ones are left out."""
    subprocess.run(["cp", "-rL", tree, to], stderr=subprocess.DEVNULL, check=False)
    return to


def pages(path: Path, content: bytes) -> list[bytes]:
    """What a document comes to as HTML."""
    render = MarkdownIt("commonmark").enable("table").render
    if path.suffix == ".ipynb":
        cells = json.loads(content)["cells"]
        return [render("".join(cell["source"])).encode() for cell in cells]
    return [render(content.decode()).encode()] if path.suffix == ".md" else [content]


def alt_free(page: bytes) -> tuple[list[Any], list[str]]:
    """A page as html5lib reads it without the alt texts of images, and these."""
    tree = html5lib.parse(page, namespaceHTMLElements=False)
    alts = [image.attrib.pop("alt", "") for image in tree.iter("img")]
    return [(e.tag, dict(e.attrib), e.text, e.tail) for e in tree.iter()], alts


def check(path: Path, before: bytes, after: bytes, count: int) -> None:
    """Fail unless `after` is `before` with `count` alt texts more."""
    if path.name.endswith((".rst", ".rst.txt")):
        lines = after.splitlines(keepends=True)
        old = before.splitlines(keepends=True)
        added = [line for line in lines if re.match(rb"\s*:alt: \S", line)]
        known = [line for line in old if re.match(rb"\s*:alt: \S", line)]
        assert len(added) == len(known) + count, path
        assert [line for line in lines if line not in added] == [x for x in old if x not in known]
        return
    new = 0
    for old_page, new_page in zip(pages(path, before), pages(path, after), strict=True):
        (old_tree, old_alts), (new_tree, new_alts) = alt_free(old_page), alt_free(new_page)
        assert old_tree == new_tree, path
        changed = [(was, now) for was, now in zip(old_alts, new_alts, strict=True) if was != now]
        assert all(was == "" and now for was, now in changed), path
        new += len(changed)
    assert new == count or b"{image}" in before or b"{figure}" in before, path


def edits(found: list[Proposal]) -> dict[Path, list[Proposal]]:
    """The proposals by document."""
    by_document: dict[Path, list[Proposal]] = {}
    for each in found:
        if each.rule is None:
            by_document.setdefault(each.document.path, []).append(each)
    return by_document


def run(tree: Path, captioner: captax.Captioner, waived: frozenset[str]) -> tuple[Survey, int, int]:
    """What was found, how many texts were written, in how many documents; fails if not in order."""
    with tempfile.TemporaryDirectory() as folder:
        site = copied(tree, Path(folder, "site"))
        found = survey([site], waived=waived)
        captions = {
            path: caption if isinstance(caption, Exception) else (caption.text, caption.score)
            for path, caption in zip(found.pictures, captioner.stream(found.pictures), strict=True)
        }
        proposed = edits(propose(found.found, captions, waived=waived))
        written, patch = {}, b""
        for path, each in proposed.items():
            document = each[0].document
            made = [proposal.edit for proposal in each if proposal.edit]
            written[path] = document.edited(made)
            patch += unified_diff(document, made, path.relative_to(site).as_posix())
            check(path, document.content, written[path], len(made))
        if patch:
            patched = Path(folder, "patched")
            shutil.copytree(site, patched)
            command = ["git", "apply", "--whitespace=nowarn", "-"]
            subprocess.run(command, cwd=patched, input=patch, check=True)
            for path, content in written.items():
                assert (patched / path.relative_to(site)).read_bytes() == content, path
                made = [proposal.edit for proposal in proposed[path] if proposal.edit]
                proposed[path][0].document.write(made)
        again = propose(survey([site], waived=waived).found, captions, waived=waived)
        assert not edits(again), "a second run proposes more"
        return found, sum(map(len, proposed.values())), len(proposed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trees", nargs="+", type=Path)
    parser.add_argument("--include", action="append", default=[])
    arguments = parser.parse_args()
    persist_compiled_programs()
    captioner = captax.load()
    assert isinstance(captioner, captax.Captioner)
    print(f"{'tree':<28}{'documents':>10}{'images':>8}{'with alt':>10}{'proposed':>10}  left alone")
    for tree in arguments.trees:
        found, count, _ = run(tree, captioner, frozenset(arguments.include))
        rules = Counter(each.rule for each in found.found if each.rule is not None)
        told = ", ".join(f"{n} {rule}" for rule, n in rules.most_common() if rule != "has-alt")
        print(
            f"{tree.name[:27]:<28}{found.documents:>10,}{len(found.found):>8,}"
            f"{rules['has-alt']:>10,}{count:>10,}  {told}"
        )


if __name__ == "__main__":
    main()
