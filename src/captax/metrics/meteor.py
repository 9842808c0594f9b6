"""METEOR 1.5, by its authors' Java program as the package pycocoevalcap ships it.

Denkowski and Lavie, "Meteor Universal: Language Specific Translation Evaluation for Any Target
Language", WMT 2014. Synonyms and paraphrases are data of that program, so it is run, not rewritten.
"""

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from captax.errors import CaptaxError

_JAR = Path("meteor", "meteor-1.5.jar")
_PARAPHRASES = Path("meteor", "data", "paraphrase-en.gz")


class MeteorUnavailableError(CaptaxError):
    """METEOR was asked for where Java or pycocoevalcap is missing, or its program failed."""


def meteor_available() -> bool:
    """Whether METEOR can be computed here: Java and the package pycocoevalcap are installed."""
    return shutil.which("java") is not None and _package() is not None


def meteor(
    hypotheses: Mapping[str, Sequence[str]], references: Mapping[str, Sequence[Sequence[str]]]
) -> tuple[float, Float[np.ndarray, " images"]]:
    """The corpus' METEOR and each image's, in the order of `hypotheses`: id -> tokens in both.

    The corpus' is computed from the summed statistics of all images; it is not their mean.

    Raises:
        MeteorUnavailableError: Java or pycocoevalcap is missing, or the program failed.
    """
    java, package = shutil.which("java"), _package()
    if java is None:
        raise MeteorUnavailableError("METEOR needs Java: no `java` on the PATH; install a JRE")
    if package is None:
        raise MeteorUnavailableError(
            "METEOR needs its program: `pip install --no-deps pycocoevalcap`"
        )
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
            said = errors.read().decode(errors="replace").strip().splitlines() or ["nothing"]
            raise MeteorUnavailableError(
                f"METEOR's program {package / _JAR} failed, saying: {said[0]}"
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
    """The tokens as the program reads them: "|||" would end the caption."""
    return " ".join(tokens).replace("|||", "")


def _package() -> Path | None:
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None:
        return None
    for folder in map(Path, spec.submodule_search_locations or ()):
        if (folder / _JAR).is_file() and (folder / _PARAPHRASES).is_file():
            return folder
    return None
