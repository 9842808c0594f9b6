"""`captax average`: one checkpoint with the mean of the weights of several."""

from pathlib import Path
from typing import Annotated

import typer

from captax.cli.options import Dtype, Overwrite, refuse_content, wrote


def average(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Checkpoint directories or hub names of one model, such as the best ones of two "
            "stages of a run. One that is named twice counts twice."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Checkpoint directory to write. There is no default.")],
    dtype: Annotated[Dtype, typer.Option(help="Type of the written weights.")] = Dtype.float32,
    overwrite: Overwrite = False,
) -> None:
    """Average the weights of checkpoints of one model, which often makes a better one."""
    refuse_content(out, overwrite, sources)
    # Start-up time.
    from captax.pipelines.averaging import average as run

    run(sources, out, dtype=dtype.value)
    wrote(out)
