"""The fuzzing of `fuzz/` still runs: its seeds are read, or refused as they should be."""

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "fuzz"


@pytest.mark.slow
@pytest.mark.nightly("fuzzing")
@pytest.mark.skipif(sys.platform != "linux", reason="it measures memory as Linux tells it")
@pytest.mark.parametrize("target", [path.stem for path in sorted(FUZZ.glob("targets/*.py"))])
def test_seeds_are_no_findings(target: str) -> None:
    command = [sys.executable, str(FUZZ / "run.py"), target, "--minutes=0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
