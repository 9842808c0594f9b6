"""Options that several commands have, and where their output goes."""

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from captax.errors import CaptaxError
from captax.files import replacing

if TYPE_CHECKING:
    from captax.pipelines.captioner import Captioner


class LineFormat(StrEnum):
    """How results are written."""

    text = "text"
    jsonl = "jsonl"


Formatted = Annotated[
    LineFormat | None,
    typer.Option("--format", help="Default: jsonl for an --out of that suffix, else text."),
]
Out = Annotated[Path | None, typer.Option(help="Write here instead of to the screen.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit, of a model on the hub.")]
Offline = Annotated[
    bool, typer.Option("--offline", help="Take hub models only from what was fetched before.")
]
Model = Annotated[
    str | None,
    typer.Option(help="Checkpoint directory or hub name; default: the built-in captioner."),
]


class Dtype(StrEnum):
    """Types that weights can have."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


Loaded = Annotated[
    Dtype,
    typer.Option(
        "--dtype",
        help="Of the weights in memory; bfloat16 is quickest where products of it are: on TPUs, "
        "GPUs and CPUs with AMX.",
    ),
]
# What commands exit with when they went on past inputs that could not be read.
SOME_FAILED = 1


def load_captioner(name: str | PathLike[str] | None, **loading: Any) -> "Captioner":
    """The captioner of that name, loaded as `captax.load` does; its programs are kept on disk.

    Raises `CaptaxError` for what holds no captioner.
    """
    from captax.compilation import persist_compiled_programs
    from captax.pipelines.captioner import Captioner
    from captax.pipelines.loading import load

    persist_compiled_programs()
    loaded: Any = load(name, **loading)
    if not isinstance(loaded, Captioner):
        raise CaptaxError(
            f"{name}: holds a {type(loaded).__name__}, which cannot caption; `captax classify` is "
            "for classifiers, `captax generate` for text generators"
        )
    return loaded


class EarlyStopping(StrEnum):
    """When beam search is finished with a picture."""

    true = "true"
    false = "false"
    never = "never"


def _decoding(kind: Any, panel: str, help: str, **rules: Any) -> Any:
    return Annotated[kind, typer.Option(help=help, rich_help_panel=panel, **rules)]


_SEARCH, _LENGTH, _SAMPLING, _WORDS = "Search", "Length", "Sampling", "Words"
# By the names of `GenerationConfig`; what is not given is as the checkpoint has it.
DECODING: dict[str, Any] = {
    "num_beams": _decoding(int | None, _SEARCH, "1 is greedy.", min=1),
    "early_stopping": _decoding(
        EarlyStopping | None,
        _SEARCH,
        "Stop at num_beams ends (true), when none could do better now (false), or at all (never).",
    ),
    "num_return_sequences": _decoding(int | None, _SEARCH, "How many; best first of beams.", min=1),
    "num_beam_groups": _decoding(int | None, _SEARCH, "Groups that avoid one another.", min=1),
    "diversity_penalty": _decoding(float | None, _SEARCH, "For words of earlier groups.", min=0),
    "max_new_tokens": _decoding(int | None, _LENGTH, "At most so many tokens.", min=1),
    "min_new_tokens": _decoding(int | None, _LENGTH, "At least so many tokens.", min=0),
    "max_length": _decoding(int | None, _LENGTH, "At most so many with the prompt's.", min=1),
    "min_length": _decoding(int | None, _LENGTH, "At least so many with the prompt's.", min=0),
    "length_penalty": _decoding(float | None, _LENGTH, "Above 0 favours length."),
    "do_sample": _decoding(bool | None, _SAMPLING, "Draw words by their probabilities."),
    "seed": _decoding(int | None, _SAMPLING, "Of the draws, with each one's place in the input."),
    "temperature": _decoding(float | None, _SAMPLING, "Above 1 draws more evenly."),
    "top_k": _decoding(int | None, _SAMPLING, "Among the k most probable; 0: all.", min=0),
    "top_p": _decoding(float | None, _SAMPLING, "Among the most probable of that mass."),
    "min_p": _decoding(float | None, _SAMPLING, "Among those at least so probable as the best."),
    "best_of": _decoding(int | None, _SAMPLING, "Draw so many, return the best by score.", min=1),
    "repetition_penalty": _decoding(float | None, _WORDS, "Above 1 discourages repeats."),
    "no_repeat_ngram_size": _decoding(int | None, _WORDS, "No n-gram of it twice.", min=0),
    "bad_words": _decoding(list[str] | None, _WORDS, "Never say it; may be repeated."),
    "force_words": _decoding(list[str] | None, _WORDS, "Always say it; may be repeated."),
    "suppress_tokens": _decoding(list[int] | None, _WORDS, "Never this token id; repeatable."),
    "begin_suppress_tokens": _decoding(list[int] | None, _WORDS, "Not as the first; repeatable."),
    "forced_bos_token_id": _decoding(int | None, _WORDS, "Begin with this token id."),
    "forced_eos_token_id": _decoding(int | None, _WORDS, "End with this token id at the longest."),
}


def decoding(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the decoding options; its `options` are those that the user gave."""

    @functools.wraps(command)
    def with_options(**arguments: Any) -> None:
        values = {name: arguments.pop(name) for name in DECODING}
        options = {name: value for name, value in values.items() if value not in (None, [])}
        if "early_stopping" in options:
            stop = options["early_stopping"]
            options["early_stopping"] = "never" if stop == "never" else stop == "true"
        command(**arguments, options=options)

    own = inspect.signature(command)
    kept = [each for name, each in own.parameters.items() if name != "options"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in DECODING.items()
    ]
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in kept] + added
    with_options.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_options


def watched(out: Path | None) -> bool:
    """Whether a progress bar would be seen, and would not mix with the results."""
    return sys.stderr.isatty() and (out is not None or not sys.stdout.isatty())


def as_json(format: LineFormat | None, out: Path | None) -> bool:
    """Whether results are written as JSON, a record a line."""
    return format is LineFormat.jsonl or (
        format is None and out is not None and out.suffix == ".jsonl"
    )


@contextlib.contextmanager
def output(out: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears whole once all is written."""
    if out is None:
        yield sys.stdout
        return
    with replacing(out) as partial, partial.open("w", encoding="utf-8") as file:
        yield file
