"""METEOR's program is played by a script, so that no Java is needed; the real one if it is here."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captax.metrics import MeteorUnavailableError, meteor_available, score
from captax.metrics.meteor import meteor

JAVA = """#!{python}
import json, pathlib, sys
said = [sys.argv[1:]]
for line in sys.stdin:
    said.append(line.rstrip("\\n"))
    pathlib.Path({log!r}).write_text(json.dumps(said))
    if line.startswith("EVAL"):
        images = line.count("|||")
        print("\\n".join(str(n / 10) for n in range(images)), 0.75, sep="\\n", flush=True)
    else:
        print(f"statistics {{len(said)}}", flush=True)
"""

Install = Callable[[str], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a script in Java's place and an empty pycocoevalcap beside it."""

    def with_java(script: str) -> Path:
        folder = tmp_path / "a folder"
        meteor_folder = folder / "pycocoevalcap/meteor"
        (meteor_folder / "data").mkdir(parents=True)
        (folder / "pycocoevalcap/__init__.py").touch()
        (meteor_folder / "meteor-1.5.jar").touch()
        (meteor_folder / "data/paraphrase-en.gz").touch()
        java = folder / "java"
        java.write_text(script.format(python=sys.executable, log=str(tmp_path / "log.json")))
        java.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.syspath_prepend(folder)
        return folder

    return with_java


def test_asks_for_statistics_and_then_for_scores(install: Install, tmp_path: Path) -> None:
    folder = install(JAVA)
    assert meteor_available()
    corpus, images = meteor(
        {"x": ["a", "|||", "dog"], "y": []}, {"x": [["the", "dog"], ["dog"]], "y": [["naïve"]]}
    )
    assert corpus == 0.75
    assert images.tolist() == [0.0, 0.1]

    command, *lines = json.loads((tmp_path / "log.json").read_text())
    assert command[command.index("-jar") + 1] == f"{folder}/pycocoevalcap/meteor/meteor-1.5.jar"
    assert command[-1] == f"{folder}/pycocoevalcap/meteor/data/paraphrase-en.gz"
    assert lines == [
        "SCORE ||| the dog ||| dog ||| a  dog",
        "SCORE ||| naïve ||| ",
        "EVAL ||| statistics 2 ||| statistics 3",
    ]


def test_scores_hold_meteor_when_asked_for(install: Install) -> None:
    install(JAVA)
    found = score({"x": "A dog", "y": "A cat"}, {"x": ["a dog"], "y": ["cat"]}, meteor=True)
    assert found.corpus["METEOR"] == 0.75
    assert [image["METEOR"] for image in found.per_image.values()] == [0.0, 0.1]


@pytest.mark.parametrize("first", ["", "print('1 2 3', flush=True)"])
def test_a_program_that_dies_is_reported_with_its_first_line(install: Install, first: str) -> None:
    install(f"#!{{python}}\nimport sys\n{first}\nsys.exit('no memory\\nat Meteor.main')")
    with pytest.raises(
        MeteorUnavailableError, match=r"meteor-1\.5\.jar failed, saying: no memory$"
    ):
        meteor({"x": ["a"], "y": ["b"]}, {"x": [["a"]], "y": [["b"]]})


def test_without_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not meteor_available()
    with pytest.raises(MeteorUnavailableError, match="METEOR needs Java"):
        score({"x": "a"}, {"x": ["a"]}, meteor=True)


def test_without_the_package(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = install(JAVA)
    (folder / "pycocoevalcap/meteor/meteor-1.5.jar").unlink()
    assert not meteor_available()
    with pytest.raises(MeteorUnavailableError, match="pip install --no-deps pycocoevalcap"):
        score({"x": "a"}, {"x": ["a"]}, meteor=True)


@pytest.mark.data
@pytest.mark.skipif(not meteor_available(), reason="needs Java and pycocoevalcap")
def test_equals_what_the_evaluation_printed(golden: Any) -> None:
    found = score(golden.hypotheses, golden.references, meteor=True)
    assert round(found.corpus["METEOR"], 3) == golden.expected["METEOR"]
