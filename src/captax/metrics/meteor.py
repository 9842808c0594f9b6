"""METEOR 1.5, computed by its authors' Java program, which the package pycocoevalcap contains.

Denkowski and Lavie, "Meteor Universal: Language Specific Translation Evaluation for Any Target
Language", WMT 2014. The program is run and not rewritten because its synonyms and paraphrases are
large data files of its own.
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
    """METEOR was asked for, but Java or pycocoevalcap is missing, or its program failed."""


def meteor_available() -> bool:
    """Whether METEOR can be computed here: Java and the package pycocoevalcap are installed."""
    return find_java() is not None and find_package(_JAR, _PARAPHRASES) is not None


def meteor(
    hypotheses: Mapping[str, Sequence[str]], references: Mapping[str, Sequence[Sequence[str]]]
) -> tuple[float, Float[np.ndarray, " images"]]:
    """Compute METEOR with the options of the COCO caption evaluation, `-l en -norm`.

    Args:
        hypotheses: image id -> the hypothesis' tokens.
        references: image id -> the tokens of each reference.

    Returns:
        The METEOR of the corpus, which is computed from the summed statistics of all images and is
        not their mean, and that of each image in the order of `hypotheses`.

    Raises:
        CaptaxError: there is no hypothesis.
        MeteorUnavailableError: Java or pycocoevalcap is missing, or the program failed.
    """
    if not hypotheses:
        raise CaptaxError("METEOR needs hypotheses: give at least one image")
    java, package = require("METEOR", _JAR, _PARAPHRASES, error=MeteorUnavailableError)
    command = [java, "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", str(package / _JAR)]
    command += ["-", "-", "-stdio", "-l", "en", "-norm"]
    # The program's default path, beside its jar, does not work if the path has spaces.
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
                f"METEOR's program {package / _JAR} failed with: {complaint(errors.read())}; run "
                "again, or leave meteor out of --metrics"
            ) from error
    return corpus, np.array(images)


def _converse(
    program: "subprocess.Popen[str]",
    hypotheses: Mapping[str, Sequence[str]],
    references: Mapping[str, Sequence[Sequence[str]]],
) -> tuple[float, list[float]]:
    """Ask for the statistics of each image, then for all scores and the corpus' score."""
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
    """The tokens as the program reads them: "|||" would end the caption, a new line the command."""
    return re.sub(r"[\r\n]", " ", " ".join(tokens).replace("|||", ""))
