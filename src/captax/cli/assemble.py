"""`captax assemble`: join two pretrained halves into a captioner or a text generator."""

from pathlib import Path
from typing import Annotated

import typer

from captax.cli.options import Offline, Overwrite, refuse_content, wrote


def assemble(
    encoder: Annotated[
        str,
        typer.Argument(
            help="Checkpoint directory or hub name of a ViT, DeiT, ViT-MSN, ResNet, ConvNeXt, "
            "SwinV2, CLIP, SigLIP or BERT."
        ),
    ],
    decoder: Annotated[
        str, typer.Argument(help="Checkpoint directory or hub name of a GPT-2 or BERT.")
    ],
    out: Annotated[Path, typer.Argument(help="Checkpoint directory to write.")],
    seed: Annotated[int, typer.Option(help="Seed of the new weights.")] = 0,
    offline: Offline = False,
    overwrite: Overwrite = False,
) -> None:
    """Join an encoder and a decoder by new cross-attention, to be fine-tuned."""
    refuse_content(out, overwrite, [encoder, decoder])
    # Start-up time.
    from captax.pipelines.assembly import from_pretrained_halves

    from_pretrained_halves(encoder, decoder, seed=seed, offline=offline).save(out)
    wrote(out)
