"""Options that several commands have, and where their output goes."""

import contextlib
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from captax.files import replacing


class Format(StrEnum):
    """How results are written."""

    text = "text"
    jsonl = "jsonl"


NumBeams = Annotated[int | None, typer.Option(min=1, help="1 is greedy.")]
MaxNewTokens = Annotated[int | None, typer.Option(min=1)]
LengthPenalty = Annotated[float | None, typer.Option(help="Above 0 favours length.")]
NumReturnSequences = Annotated[int | None, typer.Option(min=1, help="How many, best first.")]
Out = Annotated[Path | None, typer.Option(help="Write here instead of to the screen.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit, of a model on the hub.")]
Offline = Annotated[
    bool, typer.Option("--offline", help="Take hub models only from what was fetched before.")
]
Model = Annotated[
    str | None,
    typer.Option(help="Checkpoint directory or hub name; default: the built-in captioner."),
]


def given(**options: Any) -> dict[str, Any]:
    """The options that were."""
    return {name: value for name, value in options.items() if value is not None}


def watched(out: Path | None) -> bool:
    """Whether a progress bar would be seen, and would not mix with the results."""
    return sys.stderr.isatty() and (out is not None or not sys.stdout.isatty())


@contextlib.contextmanager
def output(out: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears whole once all is written."""
    if out is None:
        yield sys.stdout
        return
    with replacing(out) as partial, partial.open("w", encoding="utf-8") as file:
        yield file
