"""`captax caption`: captions of files, folders, archives, lists and URLs, where they are wanted."""

import contextlib
import dataclasses
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captax.cli.options import (
    AUTO,
    SOME_FAILED,
    FollowLinks,
    ImageSize,
    ImageSplitting,
    Loaded,
    LoadedDtype,
    MaxPixels,
    MinPixels,
    Model,
    Offline,
    Raw,
    Replace,
    Revision,
    System,
    checkpoint_files,
    decoding,
    load_captioner,
    lowest_of,
    min_score_option,
    refuse_idle,
    spelt,
    threshold_of,
    watched,
    wrote,
)
from captax.collection.choices import CaptionFormat, Compare, Engine, OnExists, Resume
from captax.errors import CaptaxError, plural

if TYPE_CHECKING:
    from captax.collection.job import Summary
    from captax.collection.plan import Plan
    from captax.collection.record import Record

INTERRUPTED = 130
# Errors beyond these are not shown one by one.
SHOWN = 100
SHARD = 256
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
            help="Pictures, folders (searched with their subfolders), patterns, archives (.zip, "
            ".tar), lists (.parquet, .jsonl, .csv, .tsv, .txt) and URLs. With - they are read from "
            "standard input, one a line."
        ),
    ],
    model: Model = None,
    prompt: Annotated[
        str,
        typer.Option(
            help="Text that captions begin with; a vision-language model answers it instead. "
            "Default: none, or the model's own.",
            show_default=False,
        ),
    ] = "",
    task: Annotated[
        str | None,
        typer.Option(
            help="What Florence-2 does: caption, detailed-caption, more-detailed-caption, od, "
            "dense-region-caption, region-proposal, ocr or ocr-with-region; with --prompt as what "
            "it is about: caption-to-phrase-grounding, open-vocabulary-detection, "
            "referring-expression-segmentation, and region-to-segmentation, region-to-category, "
            "region-to-description or region-to-ocr. Default: caption."
        ),
    ] = None,
    system: System = "",
    raw: Raw = False,
    batch_size: Annotated[int, typer.Option(help="Pictures captioned at once.", min=1)] = 32,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write, or the folder for sidecars; folders that are not there are "
            "made. Default: the screen, or for sidecars beside the pictures."
        ),
    ] = None,
    format: Annotated[
        CaptionFormat | None,
        typer.Option(
            help="How captions are written. coco: COCO's results; metadata: an image folder's "
            "metadata.jsonl; sidecar: a .txt beside each picture; xmp: an .xmp beside it; embed: "
            "in the picture's own file. Default: what the suffix of --out says, else text.",
        ),
    ] = None,
    follow_links: FollowLinks = False,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Also write pictures and captions to this HTML page. Default: no page."),
    ] = None,
    overwrite: Replace = False,
    image_size: ImageSize = None,
    image_splitting: ImageSplitting = None,
    min_pixels: MinPixels = None,
    max_pixels: MaxPixels = None,
    dtype: Loaded = LoadedDtype.float32,
    revision: Revision = None,
    offline: Offline = False,
    template: Annotated[
        str,
        _writing(
            "The text to write; {caption}, {name} and {folder} are filled in for each picture."
        ),
    ] = "{caption}",
    prefix: Annotated[
        str,
        _writing("Text before the caption, such as 'ohwx, '. Default: none.", show_default=False),
    ] = "",
    suffix: Annotated[
        str, _writing("Text after the caption. Default: none.", show_default=False)
    ] = "",
    min_score: Annotated[
        str | None,
        min_score_option(
            "Captions that score less are listed for review, not written.",
            rich_help_panel="Writing",
        ),
    ] = None,
    ext: Annotated[
        str | None,
        _writing(
            "The suffix of sidecars, such as .caption. Default: .txt, or .xmp after the whole name."
        ),
    ] = None,
    on_exists: Annotated[
        OnExists,
        _writing(
            "What to do if a picture has a sidecar or a description already. overwrite also "
            "replaces an --out file that this job did not write."
        ),
    ] = OnExists.skip,
    separator: Annotated[
        str,
        _writing("What stands between the old text and the added one.", show_default="a new line"),
    ] = "\n",
    csv_safe: Annotated[
        bool,
        _writing(
            "In a .csv, put an apostrophe before texts that begin like a formula, which a "
            "spreadsheet would run."
        ),
    ] = True,
    dedupe: Annotated[
        int | None,
        _collection(
            "Caption pictures that look alike only once: those whose fingerprints differ in at "
            "most this many of 64 bits. 4 finds resized and recompressed copies, 8 also some "
            "cropped ones. Default: every picture is captioned.",
            min=0,
            max=63,
        ),
    ] = None,
    resume: Annotated[
        Resume,
        _collection(
            "Whether to go on from an earlier run: if its settings were the same (others are "
            "refused), always (with the new settings), or never (start over)."
        ),
    ] = Resume.if_possible,
    retry_errors: Annotated[
        bool, _collection("Caption pictures again that failed in an earlier run.")
    ] = False,
    compare: Annotated[
        Compare,
        _collection(
            "How a picture is told to be another than in an earlier run; it is then captioned "
            "again. time: by the size and time of its file; content: by a digest, which a run with "
            "this option keeps."
        ),
    ] = Compare.time,
    engine: Annotated[
        Engine,
        _collection("What captions the pictures: this process, or workers on a Ray cluster."),
    ] = Engine.local,
    workers: Annotated[
        int | None,
        _collection(
            "The most workers on the cluster. Default: one for each GPU or TPU, else each machine.",
            min=1,
        ),
    ] = None,
    shard_size: Annotated[
        int, _collection("Pictures that a worker is given at a time.", min=1)
    ] = SHARD,
    *,
    options: dict[str, Any],
) -> None:
    """Caption pictures and print the captions, or write them to a file or beside each picture.

    When captions are written, nothing is lost and nothing is done twice: after Ctrl-C, a crash or a
    kill, run the same command again, and it goes on. What is done is kept in a folder whose name
    ends in .captax, beside the output. Pictures that cannot be read are named on stderr, and the
    exit code is then 1. Ctrl-C stops the job once its batch is written, with exit code 130.
    """
    # Start-up time: these import JAX, for which `--help` should not wait.
    from captax.collection.caption_template import CaptionTemplate
    from captax.collection.captioning import CaptionOptions
    from captax.collection.cluster import Cluster
    from captax.collection.job import Shape
    from captax.collection.plan import Plan
    from captax.pipelines.vision_language import VisionLanguageCaptioner

    options |= {"system": system} if system else {}
    options |= {"raw": raw} if raw else {}
    asked = CaptionOptions(prompt, options.pop("seed", 0), batch_size, dedupe, options)
    shape = Shape(CaptionTemplate(template, prefix, suffix), lowest_of(min_score))
    plan = Plan(
        _named(sources),
        out,
        format,
        ext,
        on_exists,
        separator,
        asked,
        shape,
        sheet,
        follow_links,
        csv_safe,
        compare,
        overwrite,
    )
    plan.check_new_files(checkpoint_files(model))
    loaded: dict[str, Any] = {
        "name": model,
        "revision": revision,
        "offline": offline,
        "dtype": dtype.value,
        "image_size": image_size,
        "image_splitting": image_splitting,
        "min_pixels": min_pixels,
        "max_pixels": max_pixels,
    }
    _refuse_idle(
        plan,
        kept={
            "--resume": resume is not Resume.if_possible,
            "--retry-errors": retry_errors,
            "--compare": compare is not Compare.time,
            "--follow-links": follow_links,
        },
        of_a_cluster={
            "--workers": workers is not None and engine is Engine.local,
            "--shard-size": shard_size != SHARD and engine is Engine.local,
        },
    )
    cluster = Cluster(loaded, workers, shard_size) if engine is Engine.ray else None
    if cluster is not None and plan.printed:
        raise CaptaxError("--engine ray cannot print captions; add --out, or --format sidecar")
    if task is not None and raw:
        raise CaptaxError("--raw gives the prompt as it is, without a task; leave out one of them")
    captioner = load_captioner(**loaded)
    if isinstance(captioner, VisionLanguageCaptioner):
        print(f"captax: {spelt(captioner.cost)}", file=sys.stderr)
    if task is not None:
        asked = dataclasses.replace(asked, prompt=captioner.prompt_for(task, prompt))
        plan = dataclasses.replace(plan, options=asked)
    if min_score == AUTO:
        shape = dataclasses.replace(shape, min_confidence=threshold_of(captioner))
        plan = dataclasses.replace(plan, shape=shape)
    arguments = {"model": model, "cluster": cluster, "resume": resume, "retry_errors": retry_errors}
    summary = _run(plan, captioner, arguments)
    # Captions that are printed into another program need no word on other files.
    others = bool(summary.left_out) and sys.stderr.isatty()
    if not plan.printed or summary.errors or summary.doubtful or others:
        for line in summary.lines():
            print(f"captax: {line}", file=sys.stderr)
    if sheet is not None and not summary.stopped:
        wrote(sheet)
    if summary.stopped:
        raise typer.Exit(INTERRUPTED)
    if summary.errors:
        raise typer.Exit(SOME_FAILED)


def _refuse_idle(plan: "Plan", kept: dict[str, bool], of_a_cluster: dict[str, bool]) -> None:
    """Raise `CaptaxError` for an option that was given and has no effect without another one.

    The options in `kept` need captions that are kept, those `of_a_cluster` a cluster.
    """
    beside = "--format sidecar, xmp or embed"
    adds = plan.on_exists in (OnExists.append, OnExists.prepend)
    rules = [(option, given, "a cluster", "--engine ray") for option, given in of_a_cluster.items()]
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
            plan.separator != "\n" and not (adds and plan.beside),
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


def _named(sources: list[str]) -> tuple[str, ...]:
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
                sure = "" if record.confidence is None else f", confidence {record.confidence:.2f}"
                tell(f"{record.name}: for review ({record.score:.2f}{sure}): {record.text}")
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
            return plan.run(captioner, **arguments, asked=asked, watch=watch)
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


def _count(plan: "Plan", bar: Any, total: list[int]) -> None:
    # Start-up time.
    from captax.collection.items import find_items

    with contextlib.suppress(CaptaxError):  # the job itself reports these
        total.append(sum(1 for _ in find_items(plan.sources)))
        if not bar.disable:  # nor closed
            bar.total = total[0]
            bar.refresh()
