"""`captax caption`: captions of files, folders, archives, lists and URLs, where they are wanted."""

import contextlib
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captax.cli.options import (
    SOME_FAILED,
    Dtype,
    Loaded,
    Model,
    Offline,
    Revision,
    decoding,
    load_captioner,
    watched,
)
from captax.collection.choices import CaptionFormat, Engine, OnExists, Resume
from captax.errors import CaptaxError

if TYPE_CHECKING:
    from captax.collection.job import Summary
    from captax.collection.plan import Plan
    from captax.collection.record import Record

INTERRUPTED = 130
# Errors beyond these are not shown one by one.
SHOWN = 100
LOG_SECONDS = 30  # from one line of progress in a log to the next


def _writing(help: str, **rules: Any) -> Any:
    return typer.Option(help=help, rich_help_panel="Writing", **rules)


def _collection(help: str, **rules: Any) -> Any:
    return typer.Option(help=help, rich_help_panel="Collections", **rules)


@decoding
def caption(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Pictures, folders (searched), patterns, .zip, .tar, lists (.parquet, .jsonl, "
            ".csv, .tsv, .txt), URLs."
        ),
    ],
    model: Model = None,
    prompt: Annotated[str, typer.Option(help="Captions begin with it.")] = "",
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; with sidecars, folder to write them to."),
    ] = None,
    format: Annotated[
        CaptionFormat | None,
        typer.Option(
            help="sidecar: a .txt beside each picture; xmp: an .xmp; embed: in the picture's own "
            "file; coco: COCO's results; metadata: of an image folder. Default: as the suffix of "
            "--out says, else text.",
        ),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Also write an HTML page of pictures and captions.")
    ] = None,
    dtype: Loaded = Dtype.float32,
    revision: Revision = None,
    offline: Offline = False,
    template: Annotated[
        str, _writing("What is written: {caption}, {name} and {folder} are the picture's.")
    ] = "{caption}",
    prefix: Annotated[str, _writing("Text before the caption, such as 'ohwx, '.")] = "",
    suffix: Annotated[str, _writing("Text after the caption.")] = "",
    min_score: Annotated[
        float | None, _writing("Captions that score less are not written but listed for review.")
    ] = None,
    ext: Annotated[
        str | None, _writing("Of sidecars, such as .caption.", show_default=".txt")
    ] = None,
    on_exists: Annotated[
        OnExists,
        _writing(
            "What to do where a picture has a sidecar, or a description, already; overwrite also "
            "replaces an --out that is not this job's."
        ),
    ] = OnExists.skip,
    separator: Annotated[
        str, _writing("Between what was there and what is added.", show_default="a new line")
    ] = "\n",
    dedupe: Annotated[
        int | None,
        _collection(
            "Caption pictures that look alike once: those whose fingerprints differ in at most so "
            "many of 64 bits. 4 finds resized and recompressed copies, 8 also some cropped ones.",
            min=0,
            max=63,
        ),
    ] = None,
    resume: Annotated[
        Resume,
        _collection(
            "Go on from an earlier run: if its settings were the same (others are refused), always "
            "(with the new ones), or never (begin anew)."
        ),
    ] = Resume.if_possible,
    retry_errors: Annotated[
        bool, _collection("Try pictures that failed in an earlier run again.")
    ] = False,
    engine: Annotated[
        Engine, _collection("What captions: this process, or workers on a Ray cluster.")
    ] = Engine.local,
    workers: Annotated[
        int | None,
        _collection("Of Ray, at most; default: one for each GPU, TPU or, without, machine.", min=1),
    ] = None,
    shard_size: Annotated[
        int, _collection("Pictures that a worker is given at once.", min=1)
    ] = 256,
    *,
    options: dict[str, Any],
) -> None:
    """Caption pictures: on the screen, in a file, or beside each.

    Except on the screen, nothing is lost and nothing done twice: after Ctrl-C, a crash or a kill,
    the same command goes on where it was. What is done is kept in a folder whose name ends in
    .captax, beside the output. Pictures that cannot be read are named on stderr; then the exit code
    is 1. It is 130 after Ctrl-C, which stops once the batch is written.
    """
    # Start-up time: these import JAX, for which `--help` should not wait.
    from captax.collection.caption_template import CaptionTemplate
    from captax.collection.captioning import CaptionOptions
    from captax.collection.cluster import Cluster
    from captax.collection.job import Shape
    from captax.collection.plan import Plan

    asked = CaptionOptions(prompt, options.pop("seed", 0), batch_size, dedupe, options)
    shape = Shape(CaptionTemplate(template, prefix, suffix), min_score)
    plan = Plan(tuple(sources), out, format, ext, on_exists, separator, asked, shape, sheet)
    loaded: dict[str, Any] = {
        "name": model,
        "revision": revision,
        "offline": offline,
        "dtype": dtype.value,
    }
    if workers is not None and engine is Engine.local:
        raise CaptaxError("--workers are of a cluster: give --engine ray too")
    cluster = Cluster(loaded, workers, shard_size) if engine is Engine.ray else None
    if cluster is not None and plan.printed:
        raise CaptaxError("the engine ray is for collections: give --out, or --format sidecar")
    captioner = load_captioner(**loaded)
    arguments = {"model": model, "cluster": cluster, "resume": resume, "retry_errors": retry_errors}
    summary = _run(plan, captioner, arguments)
    if not plan.printed or summary.errors or summary.doubtful:
        for line in summary.lines():
            print(f"captax: {line}", file=sys.stderr)
    if summary.stopped:
        raise typer.Exit(INTERRUPTED)
    if summary.errors:
        raise typer.Exit(SOME_FAILED)


def _run(plan: "Plan", captioner: Any, arguments: dict[str, Any]) -> "Summary":
    """Run the plan under a progress bar, or with a line now and then in a log; tell of errors."""
    # Start-up time.
    from tqdm import tqdm

    from captax.stopping import stopping

    bar = tqdm(unit=" pictures", disable=not watched(plan.folder), leave=False, smoothing=0.05)
    logged = not plan.printed and not sys.stderr.isatty()
    started = told_of_progress = time.perf_counter()
    total: list[int] = []
    if logged or not bar.disable:
        # Looking through a large collection takes a while, for which no caption need wait.
        threading.Thread(target=_count, args=(plan, bar, total), daemon=True).start()
    errors = 0

    def tell(line: str) -> None:
        # A name may hold what would break the line, or steer the terminal.
        tqdm.write(str(CaptaxError(f"captax: {line}")), file=sys.stderr)

    def watch(records: "list[Record]", summary: "Summary") -> None:
        nonlocal errors, told_of_progress
        for record in records:
            if plan.printed and plan.shape.doubtful(record):
                tell(f"{record.name}: for review ({record.score:.2f}): {record.text}")
            if record.error:
                errors += 1
                if errors <= SHOWN:
                    tell(f"{record.name}: {record.error}")
                elif errors == SHOWN + 1:
                    tell("further errors are only counted here")
        if not bar.n:
            bar.initial = summary.settled - len(records)
        bar.update(summary.settled - bar.n)
        now = time.perf_counter()
        if logged and now - told_of_progress > LOG_SECONDS:
            told_of_progress = now
            tell(_progress(summary, now - started, total))

    # On the screen there is nothing to lose.
    with contextlib.nullcontext(lambda: False) if plan.printed else stopping("batch") as asked:
        try:
            return plan.run(captioner, **arguments, asked=asked, watch=watch)
        finally:
            bar.close()


def _progress(summary: "Summary", seconds: float, total: list[int]) -> str:
    """How far it is, and how long it may yet take."""
    rate = (summary.settled - summary.before) / seconds
    of = f" of {total[0]:,}" if total else ""
    left = (total[0] - summary.settled) / rate / 60 if total and rate else 0
    about = f", about {left:.0f} min left" if left >= 1 else ""
    return f"{summary.settled:,}{of} pictures, {rate:.1f} a second{about}"


def _count(plan: "Plan", bar: Any, total: list[int]) -> None:
    # Start-up time.
    from captax.collection.items import find_items

    with contextlib.suppress(CaptaxError):  # of which the job itself tells
        total.append(sum(1 for _ in find_items(plan.sources)))
        if not bar.disable:  # nor closed
            bar.total = total[0]
            bar.refresh()
