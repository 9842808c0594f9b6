"""What commands that write texts of many pictures share: their options, and how a job is run."""

import contextlib
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captax.cli.options import SOME_FAILED, refuse_idle, watched, wrote
from captax.collection.choices import CaptionFormat, Compare, OnExists, Resume
from captax.errors import CaptaxError, plural

if TYPE_CHECKING:
    from captax.collection.job import Summary
    from captax.collection.plan import Plan
    from captax.collection.record import Record

INTERRUPTED = 130
# Errors beyond these are not shown one by one.
SHOWN = 100
LOG_SECONDS = 30  # from one line of progress in a log to the next


def writing(help: str, **rules: Any) -> Any:
    """An option that says how texts are written."""
    return typer.Option(help=help, rich_help_panel="Writing", **rules)


def collection_option(help: str, **rules: Any) -> Any:
    """An option for collections of pictures."""
    return typer.Option(help=help, rich_help_panel="Collections", **rules)


Sources = Annotated[
    list[str],
    typer.Argument(
        help="Pictures, folders (searched with their subfolders), patterns, archives (.zip, "
        ".tar), lists (.parquet, .jsonl, .csv, .tsv, .txt) and URLs. With - they are read from "
        "standard input, one a line."
    ),
]
CaptionsOut = Annotated[
    Path | None,
    typer.Option(
        help="The file to write, or the folder for sidecars; folders that are not there are "
        "made. Default: the screen, or for sidecars beside the pictures."
    ),
]
Format = Annotated[
    CaptionFormat | None,
    typer.Option(
        help="How captions are written. coco: COCO's results; metadata: an image folder's "
        "metadata.jsonl; sidecar: a .txt beside each picture; xmp: an .xmp beside it; embed: "
        "in the picture's own file. Default: what the suffix of --out says, else text.",
    ),
]
Sheet = Annotated[
    Path | None,
    typer.Option(help="Also write pictures and captions to this HTML page. Default: no page."),
]
Template = Annotated[
    str,
    writing("The text to write; {caption}, {name} and {folder} are filled in for each picture."),
]
Prefix = Annotated[
    str,
    writing("Text before the caption, such as 'ohwx, '. Default: none.", show_default=False),
]
Suffix = Annotated[str, writing("Text after the caption. Default: none.", show_default=False)]
Extension = Annotated[
    str | None,
    writing(
        "The suffix of sidecars, such as .caption. Default: .txt, or .xmp after the whole name."
    ),
]
Existing = Annotated[
    OnExists,
    writing(
        "What to do if a picture has a sidecar or a description already. overwrite also "
        "replaces an --out file that this job did not write."
    ),
]
CsvSafe = Annotated[
    bool,
    writing(
        "In a .csv, put an apostrophe before texts that begin like a formula, which a "
        "spreadsheet would run."
    ),
]
Dedupe = Annotated[
    int | None,
    collection_option(
        "Caption pictures that look alike only once: those whose fingerprints differ in at "
        "most this many of 64 bits. 4 finds resized and recompressed copies, 8 also some "
        "cropped ones. Default: every picture is captioned.",
        min=0,
        max=63,
    ),
]
Resuming = Annotated[
    Resume,
    collection_option(
        "Whether to go on from an earlier run: if its settings were the same (others are "
        "refused), always (with the new settings), or never (start over)."
    ),
]
RetryErrors = Annotated[
    bool, collection_option("Caption pictures again that failed in an earlier run.")
]
Comparing = Annotated[
    Compare,
    collection_option(
        "How a picture is told to be another than in an earlier run; it is then captioned "
        "again. time: by the size and time of its file; content: by a digest, which a run with "
        "this option keeps."
    ),
]
BatchSize = Annotated[int, typer.Option(help="Pictures captioned at once.", min=1)]


def refuse_idle_options(
    plan: "Plan",
    *,
    resume: Resume,
    retry_errors: bool,
    separator: bool,
    of_a_cluster: dict[str, bool] | None = None,
) -> None:
    """Raise `CaptaxError` for an option that was given and has no effect without another one.

    `separator` is whether another one than usual was given. The options in `of_a_cluster` that were
    given need a cluster.
    """
    kept = {
        "--resume": resume is not Resume.if_possible,
        "--retry-errors": retry_errors,
        "--compare": plan.compare is not Compare.time,
        "--follow-links": plan.follow_links,
    }
    beside = "--format sidecar, xmp or embed"
    adds = plan.on_exists in (OnExists.append, OnExists.prepend)
    rules = [
        (option, given, "a cluster", "--engine ray")
        for option, given in (of_a_cluster or {}).items()
    ]
    rules += [
        (option, given and plan.printed, "captions that are kept", f"--out FILE, or {beside}")
        for option, given in kept.items()
    ]
    rules += [
        (f"--on-exists {plan.on_exists}", adds and not plan.beside, "texts of pictures", beside),
        (
            "--on-exists",
            plan.on_exists is not OnExists.skip and plan.printed,
            "captions that are kept",
            f"--out FILE, or {beside}",
        ),
        (
            "--separator",
            separator and not (adds and plan.beside),
            "texts that are added to",
            f"{beside}, and --on-exists append or prepend",
        ),
        ("--no-csv-safe", not plan.csv_safe and plan.wanted != "csv", "tables", "--out NAME.csv"),
        (
            "--overwrite",
            plan.overwrite and plan.printed and plan.sheet is None,
            "files",
            f"--out FILE, --sheet FILE, or {beside}",
        ),
    ]
    refuse_idle(*rules)


def named_sources(sources: list[str]) -> tuple[str, ...]:
    """The sources, with those that standard input names in the place of `-`."""
    if sources.count("-") > 1:
        raise CaptaxError("-: is given more than once; standard input can be read once")
    named: list[str] = []
    for source in sources:
        if source != "-":
            named.append(source)
            continue
        try:
            lines = os.fsdecode(sys.stdin.buffer.read()).splitlines()
        except OSError as error:
            raise CaptaxError(f"standard input: cannot be read ({error.strerror})") from None
        given = [line for line in lines if line.strip()]
        if not given:
            raise CaptaxError("standard input: names no picture; write a path or URL on each line")
        named += given
    return tuple(named)


def run(plan: "Plan", pipeline: Any, **arguments: Any) -> None:
    """Run the plan and tell of it; `arguments` are those of `Plan.run`.

    Raises `typer.Exit` if pictures failed, or if the job was stopped.
    """
    summary = _watched(plan, pipeline, arguments)
    # Captions that are printed into another program need no word on other files.
    others = bool(summary.left_out) and sys.stderr.isatty()
    if not plan.printed or summary.errors or summary.doubtful or others:
        for line in summary.lines():
            print(f"captax: {line}", file=sys.stderr)
    if plan.sheet is not None and not summary.stopped:
        wrote(plan.sheet)
    if summary.stopped:
        raise typer.Exit(INTERRUPTED)
    if summary.errors:
        raise typer.Exit(SOME_FAILED)


def _watched(plan: "Plan", pipeline: Any, arguments: dict[str, Any]) -> "Summary":
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
        threading.Thread(target=_count, args=(plan, pipeline, bar, total), daemon=True).start()
    errors = 0

    def tell(line: str) -> None:
        # A name may hold what would break the line, or steer the terminal.
        tqdm.write(str(CaptaxError(f"captax: {line}")), file=sys.stderr)

    def watch(records: "list[Record]", summary: "Summary") -> None:
        nonlocal errors, told_of_progress
        for record in records:
            if plan.printed and plan.shape.doubtful(record):
                sure = "" if record.confidence is None else f", confidence {record.confidence:.2f}"
                score = 0.0 if record.score is None else record.score  # then it is not doubtful
                tell(f"{record.name}: for review ({score:.2f}{sure}): {record.text}")
            if record.error:
                errors += 1
                if errors <= SHOWN:
                    tell(f"{record.name}: {record.error}")
                elif errors == SHOWN + 1:
                    tell("further errors are counted and not shown")
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
            return plan.run(pipeline, **arguments, asked=asked, watch=watch)
        finally:
            bar.close()


def _progress(summary: "Summary", seconds: float, total: list[int]) -> str:
    """How far it is, and how long it may yet take."""
    rate = (summary.settled - summary.before) / seconds
    left = (total[0] - summary.settled) / rate / 60 if total and rate else 0
    about = f", about {left:.0f} min left" if left >= 1 else ""
    pictures = plural(summary.settled, "picture")
    if total:
        pictures = f"{summary.settled:,} of {plural(total[0], 'picture')}"
    return f"{pictures}, {rate:.1f} a second{about}"


def _count(plan: "Plan", pipeline: Any, bar: Any, total: list[int]) -> None:
    # Start-up time.
    from captax.collection.items import find_items

    with contextlib.suppress(CaptaxError):  # the job itself reports these
        found = find_items(plan.sources, videos=plan.takes_videos(pipeline))
        total.append(sum(1 for _ in found))
        if not bar.disable:  # nor closed
            bar.total = total[0]
            bar.refresh()
