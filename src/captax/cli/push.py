"""`captax push`: a checkpoint directory to the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer


def push(
    directory: Annotated[Path, typer.Argument(help="Checkpoint directory.")],
    name: Annotated[str, typer.Argument(help="Where to: org/name.")],
    token: Annotated[
        str | None,
        typer.Option(help="Default: HF_TOKEN, or what `hf auth login` stored."),
    ] = None,
    private: Annotated[bool, typer.Option(help="If the repository is made, make it so.")] = False,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Upload with captax",
) -> None:
    """Upload a checkpoint with its model card; one that has none gets a short one."""
    # Start-up time.
    from captax.pipelines.sharing import push as run

    print(run(directory, name, token=token, private=private, message=message))
