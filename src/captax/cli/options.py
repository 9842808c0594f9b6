"""Options that several commands have, and where their output goes."""

import contextlib
import functools
import inspect
import re
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


class Format(StrEnum):
    """How results are written."""

    text = "text"
    jsonl = "jsonl"


Formatted = Annotated[
    Format | None,
    typer.Option("--format", help="Default: jsonl if --out ends in .jsonl, else text."),
]
Out = Annotated[Path | None, typer.Option(help="Output file. Default: the screen.")]
Revision = Annotated[
    str | None,
    typer.Option(help="Branch, tag or commit of a model on the hub. Default: its main branch."),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Use only hub models that were downloaded before.")
]
Model = Annotated[
    str | None,
    typer.Option(help="Checkpoint directory or hub name. Default: the built-in captioner."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Inputs that go through the model at once.")]


class Dtype(StrEnum):
    """Types that weights can have."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


Loaded = Annotated[
    Dtype,
    typer.Option(
        "--dtype",
        help="Type of the weights in memory. bfloat16 is fastest on TPUs, GPUs and CPUs with AMX.",
    ),
]
# What commands exit with when they went on past inputs that could not be read.
SOME_FAILED = 1


def load_captioner(name: str | PathLike[str] | None, **loading: Any) -> "Captioner":
    """The captioner of that name, loaded as `captax.load` does; its programs are kept on disk.

    Raises `CaptaxError` for what holds no captioner.
    """
    # Start-up time.
    from captax.compilation import persist_compiled_programs
    from captax.pipelines.captioner import Captioner
    from captax.pipelines.loading import load

    persist_compiled_programs()
    loaded: Any = load(name, **loading)
    if not isinstance(loaded, Captioner):
        raise CaptaxError(
            f"{name}: holds a {type(loaded).__name__}, which cannot caption; use `captax classify` "
            "for a classifier, `captax generate` for a text generator"
        )
    return loaded


class EarlyStopping(StrEnum):
    """When beam search is finished with a picture."""

    true = "true"
    false = "false"
    never = "never"


def _decoding(kind: Any, panel: str, help: str, **rules: Any) -> Any:
    # What is not given is as the checkpoint's generation_config.json has it.
    default = "0" if help.startswith("Seed") else "the checkpoint's"
    return Annotated[
        kind, typer.Option(help=help, rich_help_panel=panel, show_default=default, **rules)
    ]


_SEARCH, _LENGTH, _SAMPLING, _WORDS = "Search", "Length", "Sampling", "Words"
# By the names of `GenerationConfig`.
DECODING: dict[str, Any] = {
    "num_beams": _decoding(int | None, _SEARCH, "Beams of the search; 1 is greedy.", min=1),
    "early_stopping": _decoding(
        EarlyStopping | None,
        _SEARCH,
        "When the search for a picture ends. true: as soon as num_beams captions have ended. "
        "false: when no open beam scores better now. never: when none could at any length.",
    ),
    "num_return_sequences": _decoding(
        int | None, _SEARCH, "Captions for each input; those of a search come best first.", min=1
    ),
    "num_beam_groups": _decoding(
        int | None, _SEARCH, "Groups of beams that avoid each other's words.", min=1
    ),
    "diversity_penalty": _decoding(
        float | None, _SEARCH, "Penalty for words that earlier groups chose.", min=0
    ),
    "max_new_tokens": _decoding(int | None, _LENGTH, "Most tokens to write.", min=1),
    "min_new_tokens": _decoding(int | None, _LENGTH, "Fewest tokens to write.", min=0),
    "max_length": _decoding(int | None, _LENGTH, "Most tokens, with those of the prompt.", min=1),
    "min_length": _decoding(int | None, _LENGTH, "Fewest tokens, with those of the prompt.", min=0),
    "length_penalty": _decoding(float | None, _LENGTH, "Above 0 the search favours long texts."),
    "do_sample": _decoding(bool | None, _SAMPLING, "Draw tokens by their probabilities."),
    "seed": _decoding(
        int | None, _SAMPLING, "Seed of the draws; each input also counts by its place."
    ),
    "temperature": _decoding(float | None, _SAMPLING, "Above 1 draws more evenly."),
    "top_k": _decoding(
        int | None, _SAMPLING, "Draw among the k most probable tokens; 0 is all.", min=0
    ),
    "top_p": _decoding(
        float | None, _SAMPLING, "Draw among the most probable tokens with this total probability."
    ),
    "min_p": _decoding(
        float | None,
        _SAMPLING,
        "Draw among tokens with at least this share of the best one's probability.",
    ),
    "best_of": _decoding(
        int | None, _SAMPLING, "Draw this many texts and keep those with the best scores.", min=1
    ),
    "repetition_penalty": _decoding(
        float | None, _WORDS, "Above 1 discourages tokens that were written before."
    ),
    "no_repeat_ngram_size": _decoding(
        int | None, _WORDS, "Write no n-gram of this size twice; 0 allows all.", min=0
    ),
    "bad_words": _decoding(
        list[str] | None, _WORDS, "Word or phrase that never occurs; repeat the option for more."
    ),
    "force_words": _decoding(
        list[str] | None, _WORDS, "Word or phrase that always occurs; repeat the option for more."
    ),
    "suppress_tokens": _decoding(
        list[int] | None, _WORDS, "Token id that never occurs; repeat the option for more."
    ),
    "begin_suppress_tokens": _decoding(
        list[int] | None, _WORDS, "Token id that never comes first; repeat the option for more."
    ),
    "forced_bos_token_id": _decoding(int | None, _WORDS, "Token id to begin with."),
    "forced_eos_token_id": _decoding(int | None, _WORDS, "Token id to end with at full length."),
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


def as_json(format: Format | None, out: Path | None) -> bool:
    """Whether results are written as JSON, a record a line."""
    return format is Format.jsonl or (format is None and out is not None and out.suffix == ".jsonl")


@contextlib.contextmanager
def output(out: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears whole once all is written."""
    if out is None:
        yield sys.stdout
        return
    with replacing(out) as partial, partial.open("w", encoding="utf-8") as file:
        yield file


def spelt(message: str) -> str:
    """A message of `OptionError` with its options as they are given on the command line."""

    def option(found: re.Match[str]) -> str:
        name, value = found[1].replace("_", "-"), found[2]
        return f"--{name}" if value in (None, "True") else f"--{name} {value}"

    return re.sub(r"`(\w+)(?:=([^`]*))?`", option, message)
