"""Find Java, and the Java programs inside the package pycocoevalcap."""

import importlib.util
import shutil
from pathlib import Path

from captax.errors import CaptaxError


def find_java() -> str | None:
    """The path of the `java` that a shell would run, or None."""
    return shutil.which("java")


def find_package(*files: str) -> Path | None:
    """The folder of pycocoevalcap if it has all `files`, else None. None of its code is run."""
    spec = importlib.util.find_spec("pycocoevalcap")
    folders = spec.submodule_search_locations if spec else None
    for folder in map(Path, folders or ()):
        if all((folder / file).is_file() for file in files):
            return folder
    return None


def require(metric: str, *files: str, error: type[CaptaxError]) -> tuple[str, Path]:
    """Find what `metric` needs: the path of Java, and the folder of pycocoevalcap with `files`.

    Raises:
        error: Java, the package or one of its files is missing.
    """
    java, package = find_java(), find_package(*files)
    if java is None:
        raise error(f"{metric} needs Java, and there is no `java` on the PATH: install a JRE")
    if package is None:
        raise error(f"{metric} needs its Java program: run `pip install 'captax[java-metrics]'`")
    return java, package


def complaint(said: bytes) -> str:
    """The line of a failed program's output that gives the reason."""
    lines = said.decode(errors="replace").strip().splitlines() or ["nothing"]
    return next((line for line in lines if "Exception" in line or "Error" in line), lines[0])
