"""The `captax` command. Commands import what they need when they run, so `--help` is instant."""

import gc
import os
import sys

import typer

from captax.cli import (
    assemble,
    caption,
    classify,
    convert,
    data,
    evaluate,
    explain,
    generate,
    info,
    push,
    score,
    serve,
    train,
)
from captax.errors import CaptaxError

WRONG_USE = 2

app = typer.Typer(
    help="Image captioning in JAX: caption pictures, train captioners, measure them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("caption")(caption.caption)
app.command("explain")(explain.explain)
app.command("classify")(classify.classify)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("score")(score.score)
app.add_typer(data.app, name="data")
app.command("generate")(generate.generate)
app.command("assemble")(assemble.assemble)
app.command("convert")(convert.convert)
app.command("push")(push.push)
app.command("serve")(serve.serve)
app.command("info")(info.info)


def main() -> None:
    """Run the command line; a captax error is one line on stderr and exit code 2."""
    # XLA:CPU logs about machine features when it loads a program it compiled itself.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Tracing a model makes a million small objects that stay; looking for garbage among them again
    # and again is a tenth of the time to a first caption.
    gc.set_threshold(100_000)
    try:
        app()  # Wrong use, Ctrl-C and a closed pipe are typer's work.
    except CaptaxError as error:
        print(f"captax: {error}", file=sys.stderr)
        sys.exit(WRONG_USE)
