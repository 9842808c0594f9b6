"""`captax score`: captions in files against their references."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from captax.cli.options import Replace, checkpoint_files, is_no_page, refuse_idle, wrote
from captax.errors import plural
from captax.files import NewFile, check_new_files

_OUTPUT = "Output"
_WORST = Path("worst.html")

Metrics = Annotated[
    str,
    typer.Option(
        help="Metrics, with commas between: bleu, rouge-l, cider-d, cider, meteor, spice, wer, "
        "cer, rouge-score, chair, diversity, mbleu."
    ),
]
STANDARD = "bleu,rouge-l,cider-d"


def warn_of_one(metrics: Iterable[str], pictures: int) -> None:
    """Say why CIDEr is 0, where a single picture counts its own n-grams."""
    if pictures == 1 and any(name.startswith("CIDEr") for name in metrics):
        print(
            "captax: warning: CIDEr of a single picture is always 0, because the weight of an "
            "n-gram depends on other pictures; score more pictures, or give --document-frequencies "
            "to captax score",
            file=sys.stderr,
        )


def names(metrics: str) -> list[str]:
    """The metrics that an option names."""
    return [name.strip() for name in metrics.split(",")]


def score(
    hypotheses: Annotated[
        Path, typer.Argument(help="File of the captions to score, one for each picture.")
    ],
    references: Annotated[
        list[Path], typer.Argument(help="Files of references, or the directory of a dataset.")
    ],
    metrics: Metrics = STANDARD,
    against: Annotated[
        Path | None,
        typer.Option(help="File of another system's captions to compare with. Default: none."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Split of a dataset or of Karpathy's JSON: train, dev or test; captions of others "
            "are left out. Default: all."
        ),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Skip pictures that have no caption.")
    ] = False,
    document_frequencies: Annotated[
        Path | None,
        typer.Option(
            help="References in which CIDEr counts n-grams, or a file of such counts. "
            "Default: the references given."
        ),
    ] = None,
    write_document_frequencies: Annotated[
        Path | None,
        typer.Option(help="Write the counts that CIDEr used, as JSON. Default: not written."),
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option(
            help="Training captions; adds diversity and the share of novel captions. Default: none."
        ),
    ] = None,
    objects: Annotated[
        Path | None,
        typer.Option(
            help="COCO's instances, or names of objects by picture; adds CHAIR. Default: none."
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint directory or hub name of a CLIP; adds CLIPScore. Default: none."
        ),
    ] = None,
    json_out: Annotated[
        Path | None,
        typer.Option(
            "--json",
            help="Write all values as JSON. Default: not written.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    csv_out: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            help="Write a row for each picture. Default: not written.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    worst: Annotated[
        int,
        typer.Option(
            min=0,
            help="Write this many of the worst captions as a page, worst.html or what --out says. "
            "0 writes none.",
            rich_help_panel=_OUTPUT,
        ),
    ] = 0,
    by: Annotated[
        str | None,
        typer.Option(
            help="Metric that ranks the worst. Default: CIDEr-D.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the pictures, for --worst and --clip. Default: where the files say."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Where --worst writes its page.", rich_help_panel=_OUTPUT)
    ] = _WORST,
    overwrite: Replace = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the samples for intervals and p-values.")
    ] = 0,
) -> None:
    """Score captions and print the field's metrics (x 100) with 95% confidence intervals.

    Files are recognised by their content: COCO's results and annotations, Karpathy's JSON, JSON
    lines, CSV, Flickr8k.token.txt, what `captax caption` prints, or plain text, line for line.
    """
    # Start-up time.
    from captax.evaluation.score_files import SCORES, TABLE, score_files
    from captax.images import SHEET
    from captax.metrics.cider import FREQUENCIES

    refuse_idle(
        ("--by", by is not None and not worst, "the worst captions", "--worst NUMBER"),
        ("--out", out != _WORST and not worst, "the worst captions", "--worst NUMBER"),
        (
            "--images",
            images is not None and not worst and clip is None,
            "metrics and pages with pictures",
            "--clip MODEL or --worst NUMBER",
        ),
    )
    given = [hypotheses, *references, against, document_frequencies, training, objects, images]
    check_new_files(
        [
            NewFile("--json", json_out, SCORES, overwrite),
            NewFile("--csv", csv_out, TABLE, overwrite),
            NewFile("--out", out if worst else None, SHEET, overwrite),
            NewFile(
                "--write-document-frequencies", write_document_frequencies, FREQUENCIES, overwrite
            ),
        ],
        [*(each for each in given if each is not None), *checkpoint_files(clip)],
        reads=is_no_page,
    )
    report = score_files(
        hypotheses,
        references,
        metrics=names(metrics),
        against=against,
        split=split,
        partial=partial,
        document_frequencies=document_frequencies,
        training=training,
        objects=objects,
        clip=clip,
        images=images,
        find=worst > 0,
        seed=seed,
    )
    ranked_by = report.metric(by) if worst else ""
    if report.skipped:
        skipped = plural(report.skipped, "picture that has", "pictures that have")
        print(f"captax: skipped {skipped} no caption in {hypotheses}", file=sys.stderr)
    if report.other_splits:
        others = plural(report.other_splits, "picture")
        print(
            f"captax: left out the captions of {others} of other splits in {hypotheses}",
            file=sys.stderr,
        )
    for line in report.lines():
        print(line)
    if document_frequencies is None:
        warn_of_one(report.scores.corpus, len(report.captions.hypotheses))
    if write_document_frequencies is not None:
        report.write_document_frequencies(write_document_frequencies)
        wrote(write_document_frequencies)
    if json_out is not None:
        report.write_json(json_out)
        wrote(json_out)
    if csv_out is not None:
        report.write_csv(csv_out)
        wrote(csv_out)
    if worst:
        report.write_worst(out, worst, ranked_by)
        wrote(out)
