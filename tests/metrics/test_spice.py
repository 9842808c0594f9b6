"""SPICE's program is played by a script: CoreNLP, which it needs, can only be had by hand."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captax.errors import CaptaxError
from captax.metrics.java import find_java, find_package
from captax.metrics.spice import SpiceUnavailableError, spice, spice_available

JAVA = """#!{python}
import json, pathlib, sys
if sys.argv[1] == "-version":
    sys.exit('openjdk version "{version}" 2015-07-21')
{program}
"""
# Scores by the captions, in an order of its own.
PROGRAM = """
log = pathlib.Path({log!r})
given = pathlib.Path(sys.argv[sys.argv.index("-jar") + 2]).read_text(encoding="ascii")
log.write_text(json.dumps([sys.argv[1:], json.loads(given)]))
scores = {scores!r}
found = [
    {{"image_id": entry["image_id"], "scores": {{"All": {{"pr": 1, "f": scores[entry["test"]]}}}}}}
    for entry in json.loads(given)
]
print("Parsing reference captions", file=sys.stderr)
pathlib.Path(sys.argv[sys.argv.index("-out") + 1]).write_text(json.dumps(found[::-1]))
"""
FAILS = """
print("Parsing reference captions", file=sys.stderr)
sys.exit("Exception in thread main: java.lang.OutOfMemoryError\\n\\tat Spice.main")
"""

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, play_java: Callable[..., Path]) -> Install:
    """Puts a script in Java's place and an empty pycocoevalcap, with CoreNLP, beside it."""

    def with_java(
        scores: dict[str, float] | None = None, version: str = "1.8.0_51", program: str = PROGRAM
    ) -> Path:
        program = program.format(log=str(tmp_path / "log.json"), scores=scores)
        return play_java(
            JAVA.format(python=sys.executable, version=version, program=program),
            "spice/spice-1.0.jar",
            "spice/lib/stanford-corenlp-3.6.0.jar",
            "spice/lib/stanford-corenlp-3.6.0-models.jar",
        )

    return with_java


def test_scores_come_in_the_order_of_the_hypotheses(install: Install, tmp_path: Path) -> None:
    folder = install({"a dog": 0.5, "naïve": 0, "": 1})
    assert spice_available()
    mean, images = spice(
        {"y": ["a", "dog"], "x": ["naïve"], "z": []},
        {"x": [["cat"]], "y": [["the", "dog"], ["ünder"]], "z": [[]]},
    )
    assert mean == 0.5
    assert images.tolist() == [0.5, 0, 1]

    command, given = json.loads((tmp_path / "log.json").read_text())
    assert command[command.index("-jar") + 1] == f"{folder}/pycocoevalcap/spice/spice-1.0.jar"
    assert given[0] == {"image_id": 0, "test": "a dog", "refs": ["the dog", "ünder"]}
    # Nothing is written into the package.
    names = {path.name for path in (folder / "pycocoevalcap/spice").iterdir()}
    assert names == {"lib", "spice-1.0.jar"}


def test_a_program_that_fails_is_reported_with_the_line_that_tells_why(install: Install) -> None:
    install(program=FAILS)
    with pytest.raises(
        SpiceUnavailableError,
        match=r"spice-1\.0\.jar failed with: Exception in thread main: .*OutOfMemoryError; "
        "run again, or leave spice out of --metrics$",
    ):
        spice({"x": ["a"]}, {"x": [["a"]]})


def test_scores_that_are_missing_are_an_error(install: Install) -> None:
    program = PROGRAM.replace("found[::-1]", "found[1:]")
    install({"a": 1.0, "b": 1.0}, program=program)
    with pytest.raises(SpiceUnavailableError, match="failed"):
        spice({"x": ["a"], "y": ["b"]}, {"x": [["a"]], "y": [["b"]]})


@pytest.mark.parametrize(("version", "shown"), [("17.0.15", "17"), ("1.7.0_80", "7")])
def test_another_java_than_8(install: Install, version: str, shown: str) -> None:
    folder = install({}, version=version)
    assert not spice_available()
    with pytest.raises(
        SpiceUnavailableError,
        match=f"only on Java 8, but the version of {folder}/java is {shown}: put a Java 8",
    ):
        spice({"x": ["a"]}, {"x": [["a"]]})


def test_without_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not spice_available()
    with pytest.raises(SpiceUnavailableError, match="SPICE needs Java"):
        spice({"x": ["a"]}, {"x": [["a"]]})


def test_without_the_package(install: Install) -> None:
    folder = install({})
    (folder / "pycocoevalcap/spice/spice-1.0.jar").unlink()
    with pytest.raises(SpiceUnavailableError, match=r"pip install 'captax\[java-metrics\]'"):
        spice({"x": ["a"]}, {"x": [["a"]]})


def test_without_corenlp(install: Install) -> None:
    folder = install({})
    lib = folder / "pycocoevalcap/spice/lib"
    (lib / "stanford-corenlp-3.6.0-models.jar").unlink()
    assert not spice_available()
    with pytest.raises(
        SpiceUnavailableError,
        match=f"SPICE needs stanford-corenlp-3.6.0-models.jar in {lib}: take them out of https://",
    ) as error:
        spice({"x": ["a"]}, {"x": [["a"]]})
    assert "\n" not in str(error.value)


def test_without_hypotheses(install: Install) -> None:
    install({})
    with pytest.raises(CaptaxError, match="SPICE needs hypotheses"):
        spice({}, {})


@pytest.mark.data
def test_the_mean_is_what_the_evaluation_printed(
    install: Install, shared_data: Path, golden: Any
) -> None:
    path = shared_data / "coco-caption-golden" / "spice_per_image.json"
    stored = {image: found["f"] for image, found in json.loads(path.read_text()).items()}
    install(stored)
    mean, images = spice({image: [image] for image in stored}, {image: [["a"]] for image in stored})
    assert round(mean, 3) == golden.expected["SPICE"]
    assert images.tolist() == list(stored.values())


@pytest.mark.parity
@pytest.mark.skipif(
    find_java() is None or find_package("spice/spice-1.0.jar") is None or spice_available(),
    reason="needs Java and pycocoevalcap without CoreNLP",
)
def test_nothing_is_downloaded() -> None:
    package = find_package()
    assert package is not None
    before = sorted(package.rglob("*.jar"))
    with pytest.raises(SpiceUnavailableError, match=r"stanford-corenlp|on Java 8 alone"):
        spice({"x": ["a"]}, {"x": [["a"]]})
    assert sorted(package.rglob("*.jar")) == before
