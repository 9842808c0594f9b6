"""`captax assemble`: a captioner, or a text-to-text model, of two pretrained halves."""

from pathlib import Path
from typing import Annotated

import typer

from captax.cli.options import Offline


def assemble(
    encoder: Annotated[str, typer.Argument(help="Checkpoint directory or hub name.")],
    decoder: Annotated[str, typer.Argument(help="Checkpoint directory or hub name.")],
    out: Annotated[Path, typer.Argument(help="Checkpoint directory to write.")],
    seed: Annotated[int, typer.Option(help="Of the new cross-attention's weights.")] = 0,
    offline: Offline = False,
) -> None:
    """Join an encoder and a decoder with new cross-attention, to be fine-tuned."""
    # Start-up time.
    from captax.pipelines.assembly import from_pretrained_halves

    from_pretrained_halves(encoder, decoder, seed=seed, offline=offline).save(out)
    print(f"wrote {out}")
