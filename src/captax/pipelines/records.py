"""Results as commands write them: a record for JSON, or a line of text."""

from pathlib import Path
from typing import Any

from captax.generation.result import Generated
from captax.images import ImageError
from captax.pipelines.classifier import Classification


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
