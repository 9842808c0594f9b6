"""Run the cells of a tutorial, in order, in the current folder: `python run.py PAGE.md [--write]`.

With `--write`, the printed output of the cells is put into the page, and the pictures that they
make are put beside it, so a page shows exactly what its cells give. The program needs only captax.
notebooks.py makes notebooks of the same pages.
"""

import contextlib
import io
import re
import shutil
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parent / "images" / "tutorials"
PAGES = [page for page in sorted(HERE.glob("*.md")) if page.name != "README.md"]
# A cell, and the block of its printed output that may follow.
CELL = re.compile(
    r"(?P<cell>```\{code-cell\}[^\n]*\n(?P<options>(?::[^\n]*\n)*)(?P<code>.*?)```\n)"
    r"(?:\n```text\n(?P<printed>.*?)```\n)?",
    re.DOTALL,
)


def run(page: Path, *, write: bool = False) -> None:
    """Execute the cells of the page as one program; errors are raised unchanged."""
    sys.path.insert(0, str(HERE))
    text = page.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "__main__"}
    parts, end = [], 0
    for cell in CELL.finditer(text):
        # With this, tracebacks give the line in the page.
        before = text.count("\n", 0, cell.start("code"))
        program = compile("\n" * before + cell["code"], str(page), "exec")
        printed, started = io.StringIO(), time.perf_counter()
        with contextlib.redirect_stdout(printed):
            exec(program, names)
        said = printed.getvalue()
        print(f"{page.name}, line {before}: {time.perf_counter() - started:.1f} s", flush=True)
        print(said, end="", flush=True)
        shown = said.strip() and "remove-output" not in cell["options"]
        block = f"\n```text\n{said.rstrip()}\n```\n" if shown else ""
        parts += [text[end : cell.start()], cell["cell"], block]
        end = cell.end()
    if write:
        page.write_text("".join([*parts, text[end:]]), encoding="utf-8")
        for name in re.findall(r"\]\(\.\./images/tutorials/([^)]+)\)", text):
            shutil.copyfile(name, IMAGES / name)


if __name__ == "__main__":
    run(Path(sys.argv[1]).resolve(), write="--write" in sys.argv)
