"""Results as commands write them: a record for JSON, or a line of text."""

import re
from pathlib import Path
from typing import Any

from captax.files import JSON_TEXT, Kind
from captax.generation.result import Generated
from captax.images import ImageError
from captax.pipelines.classifier import Classification

# Files of the records and of the lines; lines of texts cannot be told from other people's.
CLASSIFICATION_RECORDS = Kind(
    "list of labels",
    re.compile(rb'{"path": %b, "(?:error|label)": %b[,}]' % (JSON_TEXT, JSON_TEXT)),
    (".jsonl", ".json"),
)
CLASSIFICATION_LINES = Kind(
    "list of labels", re.compile(rb"[^\n]*: [^\n]+ \(\d{1,3}\.\d%\)(?:; [^\n]+%\))*\n"), (".txt",)
)
TEXT_RECORDS = Kind(
    "list of texts",
    re.compile(rb'{"text": %b, "generated": %b, "score": ' % (JSON_TEXT, JSON_TEXT)),
    (".jsonl", ".json"),
)
TEXT_LINES = Kind("list of texts", suffixes=(".txt", ".md"))


def classification_record(path: Path | str, found: Classification | ImageError) -> dict[str, Any]:
    """A picture's path, and its labels with their probabilities or the error."""
    record: dict[str, Any] = {"path": str(path)}
    if isinstance(found, ImageError):
        return record | {"error": str(found)}
    first, *others = (
        {"label": each.label, "probability": each.probability} for each in found.alternatives
    )
    return record | first | ({"alternatives": others} if others else {})


def classification_line(path: Path | str, found: Classification) -> str:
    """A picture's path, and its labels with their probabilities in per cent."""
    labels = "; ".join(f"{each.label} ({each.probability:.1%})" for each in found.alternatives)
    return f"{path}: {labels}"


def text_record(text: str, answer: Generated) -> dict[str, Any]:
    """A text, the answer to it with its score, and the other answers that were returned."""
    others = [{"generated": each.text, "score": each.score} for each in answer.alternatives[1:]]
    record = {"text": text, "generated": answer.text, "score": answer.score}
    return record | ({"alternatives": others} if others else {})


def text_line(answer: Generated) -> str:
    """The answer on a single line."""
    return " ".join(answer.text.splitlines())
