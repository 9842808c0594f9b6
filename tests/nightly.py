"""Long tests by turns: CI runs one of each kind, chosen by the commit, `make nightly` all of them.

A test of `@pytest.mark.nightly("kind")` is run as any other; only under `--sample COMMIT` is it
left out unless it is the one of its kind whose turn it is.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pytest


def others(kinds: Sequence[str | None], turn: int) -> list[int]:
    """The places of all whose turn it is not; None stands for a test that is of no kind."""
    places = defaultdict(list)
    for place, kind in enumerate(kinds):
        if kind is not None:
            places[kind].append(place)
    return [
        place
        for same in places.values()
        for number, place in enumerate(same)
        if number != turn % len(same)
    ]


def kind_of(item: pytest.Item) -> str | None:
    """What the nearest mark says."""
    mark = item.get_closest_marker("nightly")
    return mark.args[0] if mark else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sample",
        metavar="COMMIT",
        type=lambda text: int(text, 16),
        help="run one test of each nightly kind: the one whose turn this commit makes it",
    )


@pytest.hookimpl(trylast=True)  # after -m and -k have left out theirs
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    turn = config.option.sample
    if turn is None:
        return
    kinds = [kind_of(item) for item in items]
    left = set(others(kinds, turn))
    lines = []
    for kind, count in Counter(filter(None, kinds)).items():
        places = [place for place, each in enumerate(kinds) if each == kind and place not in left]
        lines.append(f"{kind}: {items[places[0]].nodeid}, 1 of {count}")
    config.stash[CHOSEN] = lines
    config.hook.pytest_deselected(items=[items[place] for place in sorted(left)])
    items[:] = [item for place, item in enumerate(items) if place not in left]


CHOSEN = pytest.StashKey[list[str]]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist tells who started it."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["chosen"] = session.config.stash.get(CHOSEN, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """All workers have chosen the same."""
    node.config.stash[CHOSEN] = getattr(node, "workeroutput", {}).get("chosen", [])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    chosen = config.stash.get(CHOSEN, [])
    if chosen:
        terminalreporter.section("by turns (make nightly runs all)")
        for line in chosen:
            terminalreporter.line(line)
