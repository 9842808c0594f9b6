"""SPICE 1.0, by its authors' Java program as the package pycocoevalcap ships it.

Anderson, Fernando, Johnson and Gould, "SPICE: Semantic Propositional Image Caption Evaluation",
ECCV 2016. It parses captions with Stanford CoreNLP 3.6.0, which the package lacks and which is
never downloaded unasked: the error says where to get it and where to put it.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from captax.errors import CaptaxError
from captax.metrics.java import complaint, require

_JAR = "spice/spice-1.0.jar"
_CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_DOWNLOAD = "https://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip"


class SpiceUnavailableError(CaptaxError):
    """SPICE was asked for where something that it needs is missing, or its program failed."""


def spice_available() -> bool:
    """Whether SPICE can be computed here: Java 8, pycocoevalcap and CoreNLP are installed."""
    try:
        find_spice()
    except SpiceUnavailableError:
        return False
    return True


def find_spice() -> tuple[str, Path]:
    """Java 8 and the folder of pycocoevalcap that has SPICE and what it needs.

    Raises:
        SpiceUnavailableError: one of them is missing.
    """
    java, package = require("SPICE", _JAR, error=SpiceUnavailableError)
    folder = package / "spice/lib"
    if missing := [jar for jar in _CORENLP if not (folder / jar).is_file()]:
        raise SpiceUnavailableError(
            f"SPICE needs {' and '.join(missing)} in {folder}: take them out of {_DOWNLOAD}"
        )
    if (version := _version(java)) != "8":
        # CoreNLP 3.6.0 needs JAXB, gone in Java 9 and 11; SPICE writes by Nashorn, gone in 15.
        raise SpiceUnavailableError(
            f"SPICE's program runs on Java 8 alone, and {java} is {version}: "
            "put a Java 8 first on the PATH"
        )
    return java, package


def spice(
    hypotheses: Mapping[str, Sequence[str]], references: Mapping[str, Sequence[Sequence[str]]]
) -> tuple[float, Float[np.ndarray, " images"]]:
    """The mean and each image's SPICE, in the order of `hypotheses`: id -> tokens in both.

    It is the F-measure of the propositions (objects, attributes, relations) in the scene graphs of
    the hypothesis and of all references together, synonyms taken for the same, in [0, 1].

    Raises:
        CaptaxError: there is no hypothesis.
        SpiceUnavailableError: Java 8, pycocoevalcap or CoreNLP is missing, or the program failed.
    """
    if not hypotheses:
        raise CaptaxError("SPICE needs hypotheses: give at least one image")
    java, package = find_spice()
    captions = [
        {
            "image_id": number,
            "test": " ".join(hypothesis),
            "refs": [" ".join(reference) for reference in references[image]],
        }
        for number, (image, hypothesis) in enumerate(hypotheses.items())
    ]
    with tempfile.TemporaryDirectory() as scratch:
        given, found = Path(scratch, "captions.json"), Path(scratch, "scores.json")
        # ASCII alone, which Java reads the same under every locale.
        given.write_text(json.dumps(captions), encoding="ascii")
        command = [java, "-Xmx8G", "-jar", str(package / _JAR), str(given)]
        # Its cache of parses would be a database inside the package.
        command += ["-out", str(found), "-silent"]
        program = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            scores = {
                entry["image_id"]: float(entry["scores"]["All"]["f"])
                for entry in json.loads(found.read_bytes())
            }
            images = np.array([scores[number] for number in range(len(captions))])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise SpiceUnavailableError(
                f"SPICE's program {package / _JAR} failed, saying: {complaint(program.stderr)}"
            ) from error
    return float(images.mean()), images


def _version(java: str) -> str:
    """8 of Java 1.8, 17 of Java 17."""
    said = subprocess.run([java, "-version"], capture_output=True, text=True, errors="replace")
    number = re.search(r'version "(?:1\.)?(\d+)', said.stderr)
    return number[1] if number else "of no known version"
