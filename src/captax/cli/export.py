"""`captax export`: a captioner as programs that other runtimes run, without captax."""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from captax.cli.options import Dtype, Offline, Revision, load_captioner, refuse_inputs, wrote


class Runtime(StrEnum):
    """The formats of programs."""

    onnx = "onnx"
    stablehlo = "stablehlo"


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="Checkpoint directory or hub name; `default` is the built-in captioner."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write the programs to.")],
    format: Annotated[
        Runtime,
        typer.Option(help="onnx is for ONNX Runtime and others, stablehlo for JAX, XLA and IREE."),
    ] = Runtime.onnx,
    dtype: Annotated[
        Dtype, typer.Option(help="Type of the weights in the file; arithmetic is float32.")
    ] = Dtype.float32,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Fixed number of captions in a batch. Default: any number."),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Most tokens of a caption with its prompt. Default: the captioner's own limit "
            "and 16 tokens for a prompt.",
        ),
    ] = None,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Write a captioner as programs for other runtimes, with a script that runs them."""
    # Start-up time.
    from captax.export import export as write
    from captax.export import read_card
    from captax.pipelines.loading import locate

    refuse_inputs(out, [model])
    directory = locate(model, revision=revision, offline=offline)
    write(
        load_captioner(directory),
        out,
        format=format.value,
        dtype=dtype.value,
        batch_size=batch_size,
        max_length=max_length,
        card=read_card(directory),
    )
    wrote(out)
    print(f"captax: try: python {shlex.quote(str(out / 'caption.py'))} PICTURES", file=sys.stderr)
