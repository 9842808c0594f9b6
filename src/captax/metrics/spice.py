"""SPICE 1.0, computed by its authors' Java program, which the package pycocoevalcap contains.

Anderson, Fernando, Johnson and Gould, "SPICE: Semantic Propositional Image Caption Evaluation",
ECCV 2016. It parses captions with Stanford CoreNLP 3.6.0, which the package does not contain.
captax never downloads it: the error says where to get it and where to put it.
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
    """SPICE was asked for, but something that it needs is missing, or its program failed."""


def spice_available() -> bool:
    """Whether SPICE can be computed here: Java 8, pycocoevalcap and CoreNLP are installed."""
    try:
        find_spice()
    except SpiceUnavailableError:
        return False
    return True


def find_spice() -> tuple[str, Path]:
    """Find Java 8, and the folder of pycocoevalcap with SPICE and CoreNLP in it.

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
        # CoreNLP 3.6.0 needs JAXB, which Java 11 removed; SPICE needs Nashorn, which 15 removed.
        raise SpiceUnavailableError(
            f"SPICE's program runs only on Java 8, but the version of {java} is {version}: "
            "put a Java 8 first on the PATH"
        )
    return java, package


def spice(
    hypotheses: Mapping[str, Sequence[str]], references: Mapping[str, Sequence[Sequence[str]]]
) -> tuple[float, Float[np.ndarray, " images"]]:
    """Compute SPICE, in [0, 1].

    It is the F-measure of the propositions (objects, attributes, relations) in the scene graph of
    the hypothesis and in that of all references together. Synonyms count as equal.

    Args:
        hypotheses: image id -> the hypothesis' tokens.
        references: image id -> the tokens of each reference.

    Returns:
        The mean over the images, and the SPICE of each image in the order of `hypotheses`.

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
        # Only ASCII, because Java reads it the same under every locale.
        given.write_text(json.dumps(captions), encoding="ascii")
        command = [java, "-Xmx8G", "-jar", str(package / _JAR), str(given)]
        # Without -cache: the cache of parses would be a database inside the package.
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
                f"SPICE's program {package / _JAR} failed with: {complaint(program.stderr)}; run "
                "again, or leave spice out of --metrics"
            ) from error
    return float(images.mean()), images


def _version(java: str) -> str:
    """The major version: 8 for Java 1.8, 17 for Java 17."""
    said = subprocess.run([java, "-version"], capture_output=True, text=True, errors="replace")
    number = re.search(r'version "(?:1\.)?(\d+)', said.stderr)
    return number[1] if number else "unknown"
