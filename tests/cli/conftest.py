"""The command run in this process, as a shell would see it."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from captax.cli.main import main
from captax.pipelines.captioner import Captioner


@dataclasses.dataclass
class Result:
    """What a shell sees of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """`run("caption", path, ...)`: run the command line with these arguments."""
    monkeypatch.setenv("COLUMNS", "100")
    # On a busy machine any compilation may take long enough to be told of.
    monkeypatch.setattr("captax.generation.programs.PATIENCE", 600.0)

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["captax", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        code = stop.value.code
        assert isinstance(code, int | None)
        assert "Traceback" not in captured.err
        return Result(code or 0, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def model(tiny_captioner: Captioner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a small captioner."""
    directory = tmp_path_factory.mktemp("model") / "tiny"
    tiny_captioner.save(directory)
    return directory
