"""Options that several commands have, and where their output goes."""

import contextlib
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from captax.checkpoints.names import DEFAULT
from captax.errors import CaptaxError
from captax.files import NOT_REPLACED, lies_in, read_text, replacing, text_file

if TYPE_CHECKING:
    from captax.pipelines.captioner import Captioner


class LineFormat(StrEnum):
    """How results are written."""

    text = "text"
    jsonl = "jsonl"


Formatted = Annotated[
    LineFormat | None,
    typer.Option(
        "--format",
        help="How results are written. Default: jsonl if --out ends in .jsonl, else text.",
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="The file to write; its folders are made. Default: the screen.")
]
Revision = Annotated[
    str | None,
    typer.Option(help="The branch, tag or commit of a hub model. Default: its main branch."),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Use only hub models that were downloaded before.")
]
FollowLinks = Annotated[
    bool,
    typer.Option(
        "--follow-links", help="Also write where links lead out of the folders that were given."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="A checkpoint directory or hub name. Default: the built-in captioner, `default`."
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the checkpoint that is there.")
]

Replace = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Also replace files that captax did not make; what is read is never replaced.",
    ),
]


class Dtype(StrEnum):
    """Types that weights can have."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class LoadedDtype(StrEnum):
    """Types that weights can be loaded as."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"
    int4 = "int4"


Loaded = Annotated[
    LoadedDtype | None,
    typer.Option(
        "--dtype",
        help="The type of weights in memory; auto is the checkpoint's own. bfloat16 is fastest on "
        "TPUs, GPUs and CPUs with AMX. int8 and int4 take the least memory. Default: float32, and "
        "auto for a checkpoint that is quantised.",
    ),
]


def _number_or_all(value: str | None) -> str | None:
    if value not in (None, "all") and not value.isdecimal():
        raise typer.BadParameter(f"{value!r} is not a number; give one, or all")
    return value


Devices = Annotated[
    str | None,
    typer.Option(
        metavar="INTEGER|all",
        callback=_number_or_all,
        help="How many of this machine's devices compute, each its own batches. Default: one, or "
        "as many as --tensor-parallel.",
    ),
]
TensorParallel = Annotated[
    int,
    typer.Option(
        help="How many devices divide the weights and compute a batch together, for a model that "
        "one cannot hold.",
        min=1,
    ),
]


def on_devices(devices: str | None, tensor_parallel: int) -> dict[str, Any]:
    """The arguments of `captax.load` for these options."""
    count = int(devices) if devices is not None and devices.isdecimal() else devices
    return {"devices": count, "tensor_parallel": tensor_parallel}


ImageSize = Annotated[
    int | None,
    typer.Option(
        help="The pixels of a picture's longer side, for a model that sees tiles: fewer are "
        "faster. Default: the checkpoint's.",
        min=1,
    ),
]
ImageSplitting = Annotated[
    bool | None,
    typer.Option(
        help="Whether a model that sees tiles is shown any, or only the whole picture, which is "
        "much faster. Default: the checkpoint's."
    ),
]
MinPixels = Annotated[
    int | None,
    typer.Option(
        help="The fewest pixels of a picture, for a model that sees it at its own size. Default: "
        "the checkpoint's.",
        min=1,
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        help="The most pixels of a picture, for a model that sees it at its own size: fewer are "
        "faster. Default: the checkpoint's.",
        min=1,
    ),
]
Frames = Annotated[
    int | None,
    typer.Option(
        help="How many frames of a video a model that reads videos is shown, evenly over its "
        "length; 0 leaves videos out. Default: 8, or what the model was taught, such as 6.",
        min=0,
    ),
]
System = Annotated[
    str,
    typer.Option(
        help="What a vision-language model is told before the prompt. Default: nothing.",
        show_default=False,
    ),
]
Raw = Annotated[
    bool,
    typer.Option(
        "--raw",
        help="Give a vision-language model the prompt as it is, after the picture and without its "
        "prompt format. Default: no.",
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
            "for a classifier, `captax tag` for a tagger, `captax generate` for a text generator"
        )
    return loaded


AUTO = "auto"


def _number_or_auto(value: str | None) -> str | None:
    if value not in (None, AUTO):
        try:
            float(value)
        except ValueError:
            raise typer.BadParameter(f"{value!r} is not a number; give one, or auto") from None
    return value


def min_score_option(help: str, **rules: Any) -> Any:
    """The option for the lowest score, a number or `auto`; `help` says what it does."""
    return typer.Option(
        metavar="FLOAT|auto",
        callback=_number_or_auto,
        help=f"{help} With auto, the confidence counts instead, against the checkpoint's own "
        "threshold. Default: any score.",
        **rules,
    )


def lowest_of(min_score: str | None) -> float | None:
    """The lowest score of `--min-score`; None where it is not given or `auto`."""
    return None if min_score in (None, AUTO) else float(min_score)


def threshold_of(captioner: "Captioner") -> float:
    """The lowest confidence at which the checkpoint is sure, which `--min-score auto` uses.

    Raises `CaptaxError` if the checkpoint has no calibration.
    """
    if captioner.calibration is None:
        raise CaptaxError(
            "--min-score auto needs a calibration, which this checkpoint does not have; make one "
            "with captax calibrate, or give a number"
        )
    return captioner.calibration.threshold


class EarlyStopping(StrEnum):
    """When beam search is finished with a picture."""

    true = "true"
    false = "false"
    never = "never"


def _decoding(kind: Any, panel: str, help: str, **rules: Any) -> Any:
    return Annotated[kind, typer.Option(help=help, rich_help_panel=panel, **rules)]


_SEARCH, _LENGTH, _SAMPLING, _WORDS = "Search", "Length", "Sampling", "Words"
# By the names of `GenerationConfig`. What is not given is as the checkpoint has it, or else as
# the help says.
DECODING: dict[str, Any] = {
    "num_beams": _decoding(
        int | None,
        _SEARCH,
        "Beams to search with; 1 is greedy. Default: the checkpoint's.",
        min=1,
    ),
    "early_stopping": _decoding(
        EarlyStopping | None,
        _SEARCH,
        "When beam search ends: at num_beams finished captions (true), once no "
        "better one is likely (false), or once none is possible (never). "
        "Default: the checkpoint's, or false.",
    ),
    "num_return_sequences": _decoding(
        int | None,
        _SEARCH,
        "Captions to return, the best first. Default: the checkpoint's, or 1.",
        min=1,
    ),
    "num_beam_groups": _decoding(
        int | None,
        _SEARCH,
        "Groups of beams that avoid one another's words. Default: the checkpoint's, or 1.",
        min=1,
    ),
    "diversity_penalty": _decoding(
        float | None,
        _SEARCH,
        "How much words of earlier groups cost. Default: the checkpoint's, or 0.",
        min=0,
    ),
    "max_new_tokens": _decoding(
        int | None, _LENGTH, "The most tokens to write. Default: the checkpoint's, or 20.", min=1
    ),
    "min_new_tokens": _decoding(
        int | None, _LENGTH, "The fewest tokens to write. Default: the checkpoint's, or 0.", min=0
    ),
    "max_length": _decoding(
        int | None, _LENGTH, "The most tokens, with the prompt's. Default: the checkpoint's.", min=1
    ),
    "min_length": _decoding(
        int | None,
        _LENGTH,
        "The fewest tokens, with the prompt's. Default: the checkpoint's, or 0.",
        min=0,
    ),
    "max_words": _decoding(
        int | None,
        _LENGTH,
        "The most words to write, as white space divides them. Default: the checkpoint's, or any.",
        min=1,
    ),
    "length_penalty": _decoding(
        float | None,
        _LENGTH,
        "Above 0 favours long captions, below 0 short ones. Default: the checkpoint's, or 1.",
    ),
    "do_sample": _decoding(
        bool | None,
        _SAMPLING,
        "Draw words by their probabilities. Default: the checkpoint's, or no.",
    ),
    "seed": _decoding(
        int | None, _SAMPLING, "What random draws depend on, with each input's place. Default: 0."
    ),
    "temperature": _decoding(
        float | None,
        _SAMPLING,
        "Above 1 draws more evenly, below 1 less. Default: the checkpoint's, or 1.",
    ),
    "top_k": _decoding(
        int | None,
        _SAMPLING,
        "Draw among the k most probable tokens; 0 is all. Default: the checkpoint's, or 50.",
        min=0,
    ),
    "top_p": _decoding(
        float | None,
        _SAMPLING,
        "Draw among the most probable tokens that add up to this. Default: the checkpoint's, or 1.",
    ),
    "min_p": _decoding(
        float | None,
        _SAMPLING,
        "Draw among tokens at least this probable, relative to the best. "
        "Default: the checkpoint's, or no limit.",
    ),
    "best_of": _decoding(
        int | None,
        _SAMPLING,
        "Draw this many and return the best by score. Default: as many as are returned.",
        min=1,
    ),
    "repetition_penalty": _decoding(
        float | None, _WORDS, "Above 1 discourages repeats. Default: the checkpoint's, or 1."
    ),
    "no_repeat_ngram_size": _decoding(
        int | None,
        _WORDS,
        "No n-gram of this length comes twice. Default: the checkpoint's, or 0 (allowed).",
        min=0,
    ),
    "end_loops": _decoding(
        bool | None,
        _WORDS,
        "End a text that says the same again and again for 64 tokens or more, and cut the copies. "
        "Default: the checkpoint's, or yes.",
    ),
    "bad_words": _decoding(
        list[str] | None, _WORDS, "A word or phrase never to say; may be repeated. Default: none."
    ),
    "force_words": _decoding(
        list[str] | None, _WORDS, "A word or phrase always to say; may be repeated. Default: none."
    ),
    "stop_strings": _decoding(
        list[str] | None,
        _WORDS,
        "A text before which to end; may be repeated. Default: the checkpoint's, or none.",
    ),
    "json_schema": _decoding(
        Path | None,
        _WORDS,
        "File of a JSON schema; texts are JSON that it describes. Default: any text.",
    ),
    "preamble": _decoding(
        bool | None,
        _WORDS,
        "Whether texts may begin with words about the picture, such as 'This image shows'; else "
        "these are not written, or are removed. Default: the checkpoint's, or yes.",
    ),
    "suppress_tokens": _decoding(
        list[int] | None,
        _WORDS,
        "A token id never to write; may be repeated. Default: the checkpoint's.",
    ),
    "begin_suppress_tokens": _decoding(
        list[int] | None,
        _WORDS,
        "A token id never to begin with; may be repeated. Default: the checkpoint's.",
    ),
    "forced_bos_token_id": _decoding(
        int | None, _WORDS, "The token id to begin with. Default: the checkpoint's, or any."
    ),
    "forced_eos_token_id": _decoding(
        int | None,
        _WORDS,
        "The token id to end with at the greatest length. Default: the checkpoint's, or any.",
    ),
}


_LARGEST_SCHEMA = 2**20


def _schema(path: Path) -> str:
    try:
        return read_text(path, limit=_LARGEST_SCHEMA)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is no text"
        raise CaptaxError(f"--json-schema {path}: cannot be read ({why}); give a schema") from None


def decoding(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the decoding options; its `options` are those that the user gave."""

    @functools.wraps(command)
    def with_options(**arguments: Any) -> None:
        values = {name: arguments.pop(name) for name in DECODING}
        options = {name: value for name, value in values.items() if value not in (None, [])}
        if "early_stopping" in options:
            stop = options["early_stopping"]
            options["early_stopping"] = "never" if stop == "never" else stop == "true"
        if "json_schema" in options:
            options["json_schema"] = _schema(options["json_schema"])
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


def refuse_content(out: Path, overwrite: bool, inputs: Iterable[str]) -> None:
    """Raise `CaptaxError` if there is anything at `out`, unless it is to be replaced.

    A checkpoint or a weight file among the `inputs` is never replaced, nor is one with a file that
    is a link to there.
    """
    refuse_inputs(out, inputs)
    try:
        full = not overwrite and out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError:  # writing will tell
        return
    if full:
        raise CaptaxError(f"{out}: is there already; give another place, or add --overwrite")


def refuse_inputs(out: Path, inputs: Iterable[str]) -> None:
    """Raise `CaptaxError` if the folder `out` is, or holds, what a command reads."""
    for given in inputs:
        if given == DEFAULT or not os.path.exists(given):  # noqa: PTH110 (a hub name is no path)
            continue
        # A folder in a checkpoint may be another checkpoint, which is no input.
        files = [each for each in checkpoint_files(given) if each.is_file() or each.is_symlink()]
        if any(lies_in(each, out) for each in (Path(given), *files)):
            raise CaptaxError(f"{given}: {NOT_REPLACED}; give another place than {out}")


def named_pictures(paths: list[str]) -> dict[Path | str, Any]:
    """The pictures that paths, folders, patterns and URLs mean, by their names, in order.

    Raises `CaptaxError` for what means no picture.
    """
    # Start-up time.
    from captax.collection.items import find_items
    from captax.data.inline import is_data_url
    from captax.images import find_images

    found: dict[Path | str, Any] = {}
    local: list[str] = []
    for path in paths:
        if "://" not in path and not is_data_url(path):
            local.append(path)
            continue
        found |= {each: each for each in find_images(local)} if local else {}
        local = []
        for item in find_items([path]):
            if isinstance(item.image, Exception):
                raise CaptaxError(f"{item.name}: {item.image}")
            found[item.name] = item.image
    return found | ({each: each for each in find_images(local)} if local else {})


def watched(out: Path | None) -> bool:
    """Whether a progress bar would be seen, and would not mix with the results."""
    return sys.stderr.isatty() and (out is not None or not sys.stdout.isatty())


def as_json(format: LineFormat | None, out: Path | None) -> bool:
    """Whether results are written as JSON, a record a line."""
    return format is LineFormat.jsonl or (
        format is None and out is not None and out.suffix == ".jsonl"
    )


def refuse_idle(*rules: tuple[str, bool, str, str]) -> None:
    """Raise `CaptaxError` for an option that was given and would have no effect.

    A rule is the option, whether it is idle, what it applies to, and what to add.
    """
    for option, idle, what, other in rules:
        if idle:
            raise CaptaxError(f"{option} only applies to {what}; add {other}")


def checkpoint_files(*names: str | PathLike[str] | None) -> list[Path]:
    """The files of checkpoint directories among `names`: what a command reads besides its inputs.

    A directory that cannot be read has none; loading it will tell.
    """
    found: list[Path] = []
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            found += Path(name).iterdir() if name is not None else ()
    return found


def is_no_page(path: Path) -> bool:
    """Whether a dataset may hold `path`: it reads no web page."""
    return path.suffix.lower() not in (".html", ".htm")


def wrote(path: Path) -> None:
    """Tell that a file or a folder was written."""
    print(CaptaxError(f"captax: wrote {path}"), file=sys.stderr)


@contextlib.contextmanager
def output(out: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears whole once all is written, and is told of then."""
    if out is None:
        yield sys.stdout
        return
    with replacing(out) as new, text_file(new) as file:
        yield file
    wrote(out)


def spelt(message: str) -> str:
    """A message of `OptionError` with its options as they are given on the command line."""

    def option(found: re.Match[str]) -> str:
        name, value = found[1].replace("_", "-"), found[2]
        if value == "False":
            return f"--no-{name}"
        return f"--{name}" if value in (None, "True") else f"--{name} {value}"

    return re.sub(r"`(\w+)(?:=([^`]*))?`", option, message)
