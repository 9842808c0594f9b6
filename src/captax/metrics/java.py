"""Where Java and the programs in it are that the package pycocoevalcap carries."""

import importlib.util
import shutil
from pathlib import Path

from captax.errors import CaptaxError


def find_java() -> str | None:
    """The Java that a shell would run."""
    return shutil.which("java")


def find_package(*files: str) -> Path | None:
    """The folder of pycocoevalcap if it is installed and has all `files`. Nothing of it is run."""
    spec = importlib.util.find_spec("pycocoevalcap")
    folders = spec.submodule_search_locations if spec else None
    for folder in map(Path, folders or ()):
        if all((folder / file).is_file() for file in files):
            return folder
    return None


def require(metric: str, *files: str, error: type[CaptaxError]) -> tuple[str, Path]:
    """Java and the folder of pycocoevalcap with `files`, which `metric` needs.

    Raises:
        error: one of them is missing.
    """
    java, package = find_java(), find_package(*files)
    if java is None:
        raise error(f"{metric} needs Java: no `java` on the PATH; install a JRE")
    if package is None:
        raise error(f"{metric} needs its program: `pip install 'captax[java-metrics]'`")
    return java, package


def complaint(said: bytes) -> str:
    """The line of what a failing program said that tells why."""
    lines = said.decode(errors="replace").strip().splitlines() or ["nothing"]
    return next((line for line in lines if "Exception" in line or "Error" in line), lines[0])
