"""METEOR's program is played by a script, so that no Java is needed; the real one if it is here."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flickr8k_captions
from captax.errors import CaptaxError
from captax.metrics import ptb_tokenize
from captax.metrics.java import find_package
from captax.metrics.meteor import MeteorUnavailableError, meteor, meteor_available

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
def install(tmp_path: Path, play_java: Callable[..., Path]) -> Install:
    """Puts a script in Java's place and an empty pycocoevalcap beside it."""

    def with_java(script: str) -> Path:
        script = script.format(python=sys.executable, log=str(tmp_path / "log.json"))
        return play_java(script, "meteor/meteor-1.5.jar", "meteor/data/paraphrase-en.gz")

    return with_java


def test_asks_for_statistics_and_then_for_scores(install: Install, tmp_path: Path) -> None:
    folder = install(JAVA)
    assert meteor_available()
    corpus, images = meteor(
        {"x": ["a", "|||", "dog"], "y": []},
        {"x": [["the", "dog"], ["dog\nhouse\r"]], "y": [["naïve"]]},
    )
    assert corpus == 0.75
    assert images.tolist() == [0.0, 0.1]

    command, *lines = json.loads((tmp_path / "log.json").read_text())
    assert command[command.index("-jar") + 1] == f"{folder}/pycocoevalcap/meteor/meteor-1.5.jar"
    assert command[-1] == f"{folder}/pycocoevalcap/meteor/data/paraphrase-en.gz"
    assert lines == [
        "SCORE ||| the dog ||| dog house  ||| a  dog",
        "SCORE ||| naïve ||| ",
        "EVAL ||| statistics 2 ||| statistics 3",
    ]


@pytest.mark.parametrize("first", ["", "print('1 2 3', flush=True)"])
def test_a_program_that_dies_is_reported_with_its_first_line(install: Install, first: str) -> None:
    install(f"#!{{python}}\nimport sys\n{first}\nsys.exit('no memory\\nat Meteor.main')")
    with pytest.raises(
        MeteorUnavailableError,
        match=r"meteor-1\.5\.jar failed with: no memory; run again, or leave meteor out",
    ):
        meteor({"x": ["a"], "y": ["b"]}, {"x": [["a"]], "y": [["b"]]})


def test_without_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not meteor_available()
    with pytest.raises(MeteorUnavailableError, match="METEOR needs Java"):
        meteor({"x": ["a"]}, {"x": [["a"]]})


def test_without_the_package(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = install(JAVA)
    (folder / "pycocoevalcap/meteor/meteor-1.5.jar").unlink()
    assert not meteor_available()
    with pytest.raises(MeteorUnavailableError, match=r"pip install 'captax\[java-metrics\]'"):
        meteor({"x": ["a"]}, {"x": [["a"]]})


def test_without_hypotheses(install: Install) -> None:
    install(JAVA)
    with pytest.raises(CaptaxError, match="METEOR needs hypotheses"):
        meteor({}, {})


needs_meteor = pytest.mark.skipif(not meteor_available(), reason="needs Java and pycocoevalcap")


@pytest.mark.data
@needs_meteor
def test_equals_what_the_evaluation_printed(golden: Any) -> None:
    corpus, _ = meteor(
        {image: ptb_tokenize(text) for image, text in golden.hypotheses.items()},
        {image: [text.split() for text in five] for image, five in golden.tokenized.items()},
    )
    assert round(corpus, 3) == golden.expected["METEOR"]


@pytest.mark.parity
@pytest.mark.data
@needs_meteor
def test_equals_pycocoevalcap_in_a_folder_with_spaces(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = find_package()
    assert package is not None
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "pycocoevalcap").symlink_to(package)
    monkeypatch.delitem(sys.modules, "pycocoevalcap", raising=False)
    monkeypatch.syspath_prepend(folder)
    assert find_package() == folder / "pycocoevalcap"
    # "physician" is a synonym of "doctor", "now" a paraphrase of "at the moment".
    hypotheses = {"synonyms": ["a", "physician", "now"]}
    references = {"synonyms": [["a", "doctor", "at", "the", "moment"]]}
    captions = flickr8k_captions.read_dev(shared_data)
    for kind, texts in flickr8k_captions.hypotheses(captions).items():
        for image in [*captions][:20]:
            hypotheses[f"{kind} {image}"] = ptb_tokenize(texts[image])
            references[f"{kind} {image}"] = [ptb_tokenize(text) for text in captions[image][1:]]
    corpus, images = meteor(hypotheses, references)
    # What pycocoevalcap 1.2's own Meteor computes of them; it takes seconds more to start.
    assert corpus == pytest.approx(0.12463649166219308, abs=1e-12)
    assert images.mean() == pytest.approx(0.14636974424497118, abs=1e-12)
    assert images[0] == pytest.approx(0.6463178294573643, abs=1e-12)
