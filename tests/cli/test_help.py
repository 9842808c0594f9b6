"""What `--help` says of every command: each option, its default, in lines that terminals break."""

import re
from typing import Any

import pytest
import typer.main

from captax.cli.main import app


def commands(group: Any, path: str = "captax") -> dict[str, Any]:
    """Every command by the words that call it."""
    found = {}
    for name, command in group.commands.items():
        nested = hasattr(command, "commands")
        found |= commands(command, f"{path} {name}") if nested else {f"{path} {name}": command}
    return found


COMMANDS = commands(typer.main.get_command(app))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_that_names_its_default(name: str) -> None:
    for each in COMMANDS[name].params:
        assert each.help, each.name
        has_none = each.default in (None, "", [], ()) and not each.required
        # An option that is only switched on needs no word on what happens without it.
        if has_none and not getattr(each, "is_flag", False):
            assert re.search("default|without", each.help, re.IGNORECASE), each.name


@pytest.mark.parametrize("name", COMMANDS)
def test_terminals_break_the_lines(name: str) -> None:
    texts = [COMMANDS[name].help, *(each.help for each in COMMANDS[name].params)]
    assert [text for text in texts if re.search(r"[^\n]\n[^\n]", text)] == []
