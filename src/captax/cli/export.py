"""`captax export`: a captioner as programs that other runtimes run, without captax."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from captax.cli.options import Dtype, Offline, Revision, load_captioner


class Runtime(StrEnum):
    """What programs are written for."""

    onnx = "onnx"
    stablehlo = "stablehlo"


def export(
    model: Annotated[
        str, typer.Argument(help="Checkpoint directory, hub name, or `default`, the built-in one.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    format: Annotated[
        Runtime, typer.Option(help="onnx: ONNX Runtime and others; stablehlo: JAX, XLA, IREE.")
    ] = Runtime.onnx,
    dtype: Annotated[
        Dtype, typer.Option(help="Of the weights in the file; arithmetic is float32.")
    ] = Dtype.float32,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Captions at once, always; by default any number.")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens of a caption at most, prompt included [default: enough]."),
    ] = None,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Write encoder, prefill and step, and a script that captions pictures with them alone."""
    # Start-up time.
    from captax.export import export as write
    from captax.export import read_card
    from captax.pipelines.loading import locate

    directory = locate(None if model == "default" else model, revision=revision, offline=offline)
    write(
        load_captioner(directory),
        out,
        format=format.value,
        dtype=dtype.value,
        batch_size=batch_size,
        max_length=max_length,
        card=read_card(directory),
    )
    print(f"wrote {out}; try: python {shlex.quote(str(out / 'caption.py'))} PICTURES")
