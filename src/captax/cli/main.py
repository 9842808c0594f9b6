"""The `captax` command. Commands import what they need when they run, so `--help` is fast."""

import gc
import importlib.metadata
import inspect
import os
import re
import sys
from typing import Annotated, Any

import typer

from captax.cli import (
    alt,
    assemble,
    caption,
    classify,
    convert,
    data,
    evaluate,
    explain,
    export,
    generate,
    info,
    push,
    score,
    serve,
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
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("score")(score.score)
app.add_typer(data.app, name="data")
app.command("generate")(generate.generate)
app.command("assemble")(assemble.assemble)
app.command("convert")(convert.convert)
app.command("export")(export.export)
app.command("push")(push.push)
app.command("serve")(serve.serve)
app.command("info")(info.info)

# Terminals of any width wrap paragraphs; they would keep the lines of docstrings.
for command in (*app.registered_commands, *data.app.registered_commands):
    paragraphs = inspect.getdoc(command.callback) or ""
    command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", paragraphs)


def _unwrap(command: typer.models.CommandInfo) -> None:
    """Let the terminal, not the source, break the lines of a command's help."""
    paragraphs = inspect.cleandoc(command.callback.__doc__ or "").split("\n\n")
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


for each in (*app.registered_commands, *data.app.registered_commands):
    _unwrap(each)


def main() -> None:
    """Run the command line; wrong use and captax errors are one line on stderr, exit code 2."""
    # Without this, XLA:CPU logs warnings about machine features for stored programs.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if not sys.stderr.isatty():  # fewer lines of progress in a log
        os.environ.setdefault("TQDM_MININTERVAL", "20")
    # Tracing a model makes a million small objects that stay. With the default threshold, looking
    # for garbage among them takes a tenth of the time to the first caption.
    gc.set_threshold(100_000)
    try:
        # Typer handles Ctrl-C and closed pipes.
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "captax"
        told = plain(error.format_message())  # typer parses by pydantic
        message = f"{told.rstrip('.')}; see `{command} --help`"
    except OptionError as error:
        message = spelt(str(error))
    except CaptaxError as error:
        message = str(error)
    print(f"captax: {message}", file=sys.stderr)
    sys.exit(WRONG_USE)
