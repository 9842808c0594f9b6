"""Recipes can be run as the pages and the recipes' own comments say."""

import re
import shlex
from pathlib import Path

import pytest

from captax.training.recipe import load_recipe, recipe_names

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "src" / "captax" / "recipes"


def _commands() -> list[tuple[str, str]]:
    """The pages' `captax train` commands, and what comments in recipes add to their own."""
    found = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = re.findall(r"```(?:console|bash|sh)\n(.*?)```", text, re.DOTALL)
        for line in "\n".join(blocks).splitlines():
            found += [(page.name, each) for each in re.findall(r"captax train [^&|#]*", line)]
    for recipe in sorted(RECIPES.glob("*.yaml")):
        lines = recipe.read_text(encoding="utf-8").splitlines()
        text = " ".join(line.removeprefix("#") for line in lines if line.startswith("#"))
        for options in re.findall(r"`(--set [^`]*)`", text):
            found.append((recipe.name, f"captax train {recipe.stem} {options}"))
    return found


@pytest.mark.parametrize(("where", "command"), _commands())
def test_a_command_of_the_docs_names_what_there_is(where: str, command: str) -> None:
    recipe, *rest = shlex.split(command)[2:]
    if recipe not in recipe_names():
        pytest.skip("a file of the reader's")
    options = iter(rest)
    settings = []
    for option in options:
        assert option.startswith("--"), f"{option} is no option, so the command would refuse it"
        value = option.partition("=")[2] or next(options)
        settings += [value] if option == "--set" else []
    given = {each.partition("=")[0] for each in settings}
    load_recipe(recipe, [*settings, *(["data.root=DATA"] if "data.root" not in given else [])])
