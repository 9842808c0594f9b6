"""The `captax` command. Commands import what they need when they run, so `--help` is fast."""

import contextlib
import errno
import gc
import importlib.metadata
import inspect
import io
import os
import sys
import warnings
from typing import Annotated, Any

import typer

from captax.cli import (
    alt,
    assemble,
    average,
    calibrate,
    caption,
    classify,
    compare,
    convert,
    data,
    evaluate,
    explain,
    export,
    generate,
    info,
    mcp,
    push,
    score,
    serve,
    tag,
    train,
)
from captax.cli.options import spelt
from captax.errors import CaptaxError, OptionError, plain

WRONG_USE = 2
# Typer raises the usage errors of its own copy of click, or of click itself.
UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> bool:
    if asked:
        print(f"captax {importlib.metadata.version('captax')}")
        raise typer.Exit
    return asked


@app.callback()
def captax(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Image captioning in JAX: caption pictures, train captioners, measure them."""


app.command("caption")(caption.caption)
app.command("alt")(alt.alt)
app.command("explain")(explain.explain)
app.command("classify")(classify.classify)
app.command("tag")(tag.tag)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("calibrate")(calibrate.calibrate)
app.command("score")(score.score)
app.command("compare")(compare.compare)
app.add_typer(data.app, name="data")
app.command("generate")(generate.generate)
app.command("assemble")(assemble.assemble)
app.command("convert")(convert.convert)
app.command("average")(average.average)
app.command("export")(export.export)
app.command("push")(push.push)
app.command("serve")(serve.serve)
app.command("mcp")(mcp.mcp)
app.command("info")(info.info)


def _unwrap(command: typer.models.CommandInfo) -> None:
    """Let the terminal, not the source, break the lines of a command's help."""
    paragraphs = inspect.cleandoc(command.callback.__doc__ or "").split("\n\n")
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


for each in (*app.registered_commands, *data.app.registered_commands):
    _unwrap(each)


def main() -> None:
    """Run the command line; wrong use and captax errors are one line on stderr, exit code 2."""
    _mend_streams()
    warnings.showwarning = _warn
    # Without this, XLA:CPU logs warnings about machine features for stored programs.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if not sys.stderr.isatty():  # fewer lines of progress in a log
        os.environ.setdefault("TQDM_MININTERVAL", "20")
    # Tracing a model makes a million small objects that stay. With the default threshold, looking
    # for garbage among them takes a tenth of the time to the first caption.
    gc.set_threshold(100_000)
    try:
        # Typer handles Ctrl-C and closed pipes.
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        _flush()
        sys.exit(code)
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "captax"
        told = plain(error.format_message())  # typer parses by pydantic
        message = f"{told.rstrip('.')}; see `{command} --help`"
    except OptionError as error:
        message = spelt(str(error))
    except CaptaxError as error:
        message = str(error)
    except SystemExit:
        _leave_quietly()
        raise
    except Exception as error:
        message = _told(error)
        if not message:
            raise
    print(f"captax: {message}", file=sys.stderr)
    _leave_quietly()
    sys.exit(WRONG_USE)


def _warn(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Tell of a warning in a line like all others: its place in the code helps nobody here."""
    told = "" if category is UserWarning else f"{category.__name__}: "
    print(f"captax: warning: {told}{CaptaxError(str(message))}", file=sys.stderr)


class _Errors(io.TextIOWrapper):
    """Standard error; what it cannot take is lost, so that it makes no failure of a success."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def _mend_streams() -> None:
    """Let closed streams behave: input is empty, output refuses what is written, errors are lost.

    Python has None for a stream that is closed, and prints nothing to it without a word.
    """
    # No file that is opened later gets the number of a standard stream.
    while (descriptor := os.open(os.devnull, os.O_RDONLY)) <= 2:
        pass
    os.close(descriptor)
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: PTH123, SIM115 (it stays open)
    if sys.stdout is None:
        # It is open for reading, so writing fails.
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    elif type(sys.stderr) is io.TextIOWrapper:
        sys.stderr = _Errors(
            sys.stderr.buffer, sys.stderr.encoding, sys.stderr.errors, line_buffering=True
        )


def _flush() -> None:
    """Write what standard output still holds; Python itself would do so after its last word."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has ended
        _leave_quietly()
        sys.exit(1)


def _leave_quietly() -> None:
    """Drop what standard output cannot take, of which Python would complain at its exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115


def _told(error: Exception) -> str:
    """What a person can do about an error of the machine; empty for a fault of captax's."""
    text = str(CaptaxError(" ".join(str(error).split())[:300]))
    short = (
        *("RESOURCE_EXHAUSTED", "std::bad_alloc", "Cannot allocate memory", "can't start new"),
        "failed to map segment",  # of a library that is loaded while memory is short
    )
    if isinstance(error, MemoryError) or any(each in text for each in short):
        return (
            "there is not enough memory; use a smaller --batch-size or model, or a machine with "
            "more of it"
        )
    if isinstance(error, OSError) and not isinstance(error, TimeoutError | ConnectionError):
        if error.filename is None and error.errno is not None:
            return f"standard output: cannot be written ({error.strerror}); nothing more is done"
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror or text}; free space, or fix its permissions"
    full = map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
    if any(each in text for each in full):
        return f"{text}; free space, or write to another disk"
    return ""
