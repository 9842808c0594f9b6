"""`captax evaluate`: caption a dataset and score the captions."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from captax.cli.options import (
    Loaded,
    LoadedDtype,
    Replace,
    checkpoint_files,
    load_captioner,
    wrote,
)
from captax.cli.score import STANDARD, Metrics, names, warn_of_one
from captax.errors import plural
from captax.files import NewFile, check_new_files


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Checkpoint directory or hub name; `default` is the built-in captioner."
        ),
    ],
    data: Annotated[
        Path, typer.Argument(help="Directory of a dataset: Flickr8k, COCO, or a captioned folder.")
    ],
    split: Annotated[
        str | None, typer.Option(help="Split to caption: train, dev or test. Default: all.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Caption only this many pictures, the first. Default: all."),
    ] = None,
    metrics: Metrics = STANDARD,
    num_beams: Annotated[
        int | None, typer.Option(min=1, help="Number of beams. Default: the checkpoint's.")
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Largest number of tokens in a caption. Default: the checkpoint's."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of pictures in a batch.")] = 32,
    dtype: Loaded = LoadedDtype.float32,
    json_out: Annotated[
        Path | None,
        typer.Option("--json", help="Write scores and captions as JSON. Default: not written."),
    ] = None,
    overwrite: Replace = False,
) -> None:
    """Caption a dataset's pictures and print the field's scores (x 100)."""
    # Start-up time.
    from captax import data as datasets
    from captax.evaluation.evaluate import evaluate as run
    from captax.evaluation.score_files import SCORES, write_scores
    from captax.metrics import COUNTS

    new = NewFile("--json", json_out, SCORES, overwrite)
    check_new_files([new], [data, *checkpoint_files(model)])
    examples = datasets.open(data, split=split)[:limit]
    captioner = load_captioner(model, dtype=dtype.value)
    options = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    found = run(
        captioner,
        examples,
        batch_size=batch_size,
        metrics=names(metrics),
        progress=True,
        **{name: value for name, value in options.items() if value is not None},
    )
    for name, value in found.scores.corpus.items():
        print(f"{name:12} {value:7.0f}" if name in COUNTS else f"{name:12} {100 * value:7.2f}")
    warn_of_one(found.scores.corpus, len(examples))
    if split is None:
        print(
            "captax: scored the pictures of all splits; --split dev scores only those of dev",
            file=sys.stderr,
        )
    print(f"{plural(len(examples), 'picture')}, {found.pictures_per_second:.1f} a second")
    if json_out is not None:
        content = {
            "scores": found.scores.corpus,
            "captions": found.captions,
            "per_image": found.scores.per_image,
        }
        write_scores(json_out, content)
        wrote(json_out)
