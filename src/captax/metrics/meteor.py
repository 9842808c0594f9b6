"""METEOR 1.5, by its authors' Java program as the package pycocoevalcap ships it.

Denkowski and Lavie, "Meteor Universal: Language Specific Translation Evaluation for Any Target
Language", WMT 2014. Synonyms and paraphrases are data of that program, so it is run, not rewritten.
"""

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from captax.errors import CaptaxError
from captax.metrics.java import complaint, find_java, find_package, require

_JAR = "meteor/meteor-1.5.jar"
_PARAPHRASES = "meteor/data/paraphrase-en.gz"


class MeteorUnavailableError(CaptaxError):
    """METEOR was asked for where Java or pycocoevalcap is missing, or its program failed."""


def meteor_available() -> bool:
    """Whether METEOR can be computed here: Java and the package pycocoevalcap are installed."""
    return find_java() is not None and find_package(_JAR, _PARAPHRASES) is not None


def meteor(
    hypotheses: Mapping[str, Sequence[str]], references: Mapping[str, Sequence[Sequence[str]]]
) -> tuple[float, Float[np.ndarray, " images"]]:
    """The corpus' METEOR and each image's, in the order of `hypotheses`: id -> tokens in both.

    The corpus' is computed from the summed statistics of all images; it is not their mean.
    Options of the program are those of the COCO caption evaluation: `-l en -norm`.

    Raises:
        CaptaxError: there is no hypothesis.
        MeteorUnavailableError: Java or pycocoevalcap is missing, or the program failed.
    """
    if not hypotheses:
        raise CaptaxError("METEOR needs hypotheses: give at least one image")
    java, package = require("METEOR", _JAR, _PARAPHRASES, error=MeteorUnavailableError)
    command = [java, "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", str(package / _JAR)]
    command += ["-", "-", "-stdio", "-l", "en", "-norm"]
    # By default it looks beside its jar, in a way that fails on paths with spaces.
    command += ["-a", str(package / _PARAPHRASES)]
    with tempfile.TemporaryFile() as errors:
        try:
            with subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
            ) as program:
                corpus, images = _converse(program, hypotheses, references)
        except (BrokenPipeError, ValueError) as error:
            errors.seek(0)
            raise MeteorUnavailableError(
                f"METEOR's program {package / _JAR} failed, saying: {complaint(errors.read())}"
            ) from error
    return corpus, np.array(images)


def _converse(
    program: "subprocess.Popen[str]",
    hypotheses: Mapping[str, Sequence[str]],
    references: Mapping[str, Sequence[Sequence[str]]],
) -> tuple[float, list[float]]:
    """A line of statistics per image, then from all of them a line per image and one for all."""
    statistics = []
    for image, hypothesis in hypotheses.items():
        captions = [*references[image], hypothesis]
        line = " ||| ".join(["SCORE", *map(_text, captions)])
        statistics.append(_ask(program, line))
    images = [float(_ask(program, " ||| ".join(["EVAL", *statistics])))]
    images += [float(_answer(program)) for _ in statistics[1:]]
    return float(_answer(program)), images


def _ask(program: "subprocess.Popen[str]", line: str) -> str:
    assert program.stdin is not None
    program.stdin.write(line + "\n")
    program.stdin.flush()
    return _answer(program)


def _answer(program: "subprocess.Popen[str]") -> str:
    assert program.stdout is not None
    answer = program.stdout.readline().strip()
    if not answer:
        raise ValueError("the program ended early")
    return answer


def _text(tokens: Sequence[str]) -> str:
    """The tokens as the program reads them: "|||" would end the caption, and a new line all."""
    return re.sub(r"[\r\n]", " ", " ".join(tokens).replace("|||", ""))
