"""`captax push`: upload a checkpoint directory to the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer


def push(
    directory: Annotated[Path, typer.Argument(help="Checkpoint directory to upload.")],
    name: Annotated[str, typer.Argument(help="Name on the hub: org/name.")],
    token: Annotated[
        str | None,
        typer.Option(
            help="Token of the hub. Default: HF_TOKEN, or the one stored by `hf auth login`."
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option(help="Make the repository private, if it is new.")
    ] = False,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "Upload with captax",
) -> None:
    """Upload a checkpoint. A short model card is added if it has none."""
    # Start-up time.
    from captax.pipelines.sharing import push as run

    print(run(directory, name, token=token, private=private, message=message))
