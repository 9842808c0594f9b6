"""Imports follow docs/architecture.md: no circle, no arrow upwards, no import without a reason."""

import ast
import importlib
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "captax"
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
# Written next to every import inside a function.
REASONS = ("an extra", "start-up time")


def modules() -> dict[str, Path]:
    """Modules by name; `export/bundle` is copied into exports and imports nothing of captax."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        if "bundle" not in path.parts:
            parts = path.relative_to(SOURCE.parent).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules of captax that a tree imports anywhere, in functions too."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.split(".")[0] == "captax":
                yield name if name in MODULES else name.rpartition(".")[0]


def room(module: str) -> str:
    return module.split(".")[1]


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {name: set(imported(ast.parse(path.read_text()))) for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def floors() -> dict[str, int]:
    """The floor of each room, 0 the highest, as the document draws them."""
    [line] = re.findall(r"^cli  ->  .*$", DOCUMENT, re.MULTILINE)
    rows = [row.split(", ") for row in line.split("  ->  ")]
    return {name: floor for floor, row in enumerate(rows) for name in row}


def test_no_arrow_runs_upwards() -> None:
    floor = floors()
    rooms = {room(name) for name in MODULES if "." in name} - {"__main__"}
    assert rooms == floor.keys()
    upwards = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        if "." in name and room(name) != "__main__"
        for other in imported(ast.parse(path.read_text()))
        if room(other) != room(name) and floor[room(other)] <= floor[room(name)]
    ]
    assert upwards == []


def inner_imports(path: Path) -> Iterator[tuple[int, bool]]:
    """The first line of each block of imports inside a function; whether a reason stands there."""
    lines = path.read_text(encoding="utf-8").splitlines()
    tree = ast.parse("\n".join(lines))
    inside = {
        node.lineno: node.end_lineno or node.lineno
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    ends = set(inside.values())
    for first, last in sorted(inside.items()):
        above = first - 1
        while not lines[above - 1].strip():
            above -= 1
        if above not in ends:
            said = " ".join(lines[above - 1 : last]).lower()
            yield first, "#" in said and any(reason in said for reason in REASONS)


def test_imports_inside_functions_have_a_reason() -> None:
    without = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in MODULES.values()
        for line, reason in inner_imports(path)
        if not reason
    ]
    assert without == []


def test_the_document_names_every_room_and_file() -> None:
    listing = DOCUMENT.split("```")[1]
    missing = [
        str(path.relative_to(SOURCE))
        for path in MODULES.values()
        if path.name not in ("__init__.py", "__main__.py")
        and path.parent.name not in ("cli", "metrics")
        and path.name not in listing
    ]
    assert missing == []


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.name)
def test_what_a_benchmark_imports_is_there(path: Path) -> None:
    # They take too long to be run here.
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("captax."):
            assert node.module is not None
            module = importlib.import_module(node.module)
            lacking = {alias.name for alias in node.names} - {*dir(module)}
            assert not {name for name in lacking if f"{node.module}.{name}" not in MODULES}
