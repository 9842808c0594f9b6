"""`captax caption`: captions of files, folders, archives, lists and URLs, where they are wanted."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from captax.cli.collecting import (
    BatchSize,
    CaptionsOut,
    Comparing,
    CsvSafe,
    Dedupe,
    Existing,
    Extension,
    Format,
    Prefix,
    Resuming,
    RetryErrors,
    Sheet,
    Sources,
    Suffix,
    Template,
    collection_option,
    named_sources,
    refuse_idle_options,
    run,
    writing,
)
from captax.cli.endpoint import API_KEY, BATCH, CONCURRENCY, MAX_SIDE, connect, refuse_local
from captax.cli.options import (
    AUTO,
    Devices,
    FollowLinks,
    Frames,
    ImageSize,
    ImageSplitting,
    Loaded,
    MaxPixels,
    MinPixels,
    Model,
    Offline,
    Raw,
    Replace,
    Revision,
    System,
    TensorParallel,
    checkpoint_files,
    decoding,
    load_captioner,
    lowest_of,
    min_score_option,
    on_devices,
    refuse_idle,
    spelt,
    threshold_of,
)
from captax.collection.choices import Compare, Engine, OnExists, Resume
from captax.errors import CaptaxError

SHARD = 256
_STYLE = "Style"


def _endpoint(help: str, **rules: Any) -> Any:
    return typer.Option(help=help, rich_help_panel="A server elsewhere", **rules)


@decoding
def caption(
    sources: Sources,
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
    style: Annotated[
        str | None,
        typer.Option(
            help="A named prompt of a vision-language model: short, detailed, alt, tags and those "
            "that the model was taught; docs/decoding.md lists them. Default: none.",
            rich_help_panel=_STYLE,
        ),
    ] = None,
    styles: Annotated[
        Path | None,
        typer.Option(
            help="YAML file of styles of one's own, as `name: prompt`. Default: none.",
            rich_help_panel=_STYLE,
        ),
    ] = None,
    words: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many words the style asks for at most; the model may write more. "
            "Default: it is not told.",
            rich_help_panel=_STYLE,
        ),
    ] = None,
    length: Annotated[
        str | None,
        typer.Option(
            help="The length that the style asks for, such as short or very long. "
            "Default: it is not told.",
            rich_help_panel=_STYLE,
        ),
    ] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option(
            help="A named sentence to add to the style, such as lighting; may be repeated. "
            "Default: none.",
            rich_help_panel=_STYLE,
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            help="The language that a vision-language model is asked to write, as a name or a "
            "code such as fr. Default: the prompt's."
        ),
    ] = None,
    facts: Annotated[
        Path | None,
        typer.Option(
            help="A table (.csv, .tsv, .jsonl) with a row for each picture, for {csv.COLUMN} in "
            "the prompt. Facts of the picture's own files, such as {exif.date} or {iptc.city}, "
            "need no table; docs/decoding.md lists them. Default: none."
        ),
    ] = None,
    hints: Annotated[
        Path | None,
        typer.Option(
            help="A folder with the tags of each picture, as captax tag --format sidecar --out "
            "FOLDER writes them. They stand where {tags} does in the prompt, or else after it. "
            "Default: none."
        ),
    ] = None,
    system: System = "",
    raw: Raw = False,
    batch_size: BatchSize = BATCH,
    out: CaptionsOut = None,
    format: Format = None,
    follow_links: FollowLinks = False,
    sheet: Sheet = None,
    overwrite: Replace = False,
    image_size: ImageSize = None,
    image_splitting: ImageSplitting = None,
    min_pixels: MinPixels = None,
    max_pixels: MaxPixels = None,
    frames: Frames = None,
    dtype: Loaded = None,
    devices: Devices = None,
    tensor_parallel: TensorParallel = 1,
    revision: Revision = None,
    offline: Offline = False,
    template: Template = "{caption}",
    prefix: Prefix = "",
    suffix: Suffix = "",
    min_score: Annotated[
        str | None,
        min_score_option(
            "Captions that score less are listed for review, not written.",
            rich_help_panel="Writing",
        ),
    ] = None,
    ext: Extension = None,
    on_exists: Existing = OnExists.skip,
    separator: Annotated[
        str,
        writing("What stands between the old text and the added one.", show_default="a new line"),
    ] = "\n",
    csv_safe: CsvSafe = True,
    dedupe: Dedupe = None,
    resume: Resuming = Resume.if_possible,
    retry_errors: RetryErrors = False,
    compare: Comparing = Compare.time,
    engine: Annotated[
        Engine,
        collection_option("What captions the pictures: this process, or workers on a Ray cluster."),
    ] = Engine.local,
    workers: Annotated[
        int | None,
        collection_option(
            "The most workers on the cluster. Default: one for each GPU or TPU, else each machine.",
            min=1,
        ),
    ] = None,
    shard_size: Annotated[
        int, collection_option("Pictures that a worker is given at a time.", min=1)
    ] = SHARD,
    endpoint: Annotated[
        str | None,
        _endpoint(
            "Caption by a server with OpenAI's interface, such as http://localhost:11434/v1 of "
            "Ollama; --model is the name of a model there. Default: in this process."
        ),
    ] = None,
    concurrency: Annotated[
        int, _endpoint("How many pictures it is asked about at once.", min=1, max=256)
    ] = CONCURRENCY,
    max_side: Annotated[
        int, _endpoint("Larger pictures are sent with sides of at most so many pixels.", min=16)
    ] = MAX_SIDE,
    api_key_env: Annotated[
        str,
        _endpoint("The environment variable that holds the server's API key, if it needs one."),
    ] = API_KEY,
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
    from captax.collection.facts import facts_for
    from captax.collection.hints import Hints
    from captax.collection.job import Shape
    from captax.collection.plan import Plan
    from captax.pipelines.vision_language import VisionLanguageCaptioner
    from captax.text.languages import language_of

    options |= {"system": system} if system else {}
    options |= {"raw": raw} if raw else {}
    if endpoint is not None:
        refuse_local(
            options,
            {
                "--task": task is not None,
                "--raw": raw,
                "--batch-size": batch_size != BATCH,
                "--image-size": image_size is not None,
                "--image-splitting": image_splitting is not None,
                "--min-pixels": min_pixels is not None,
                "--max-pixels": max_pixels is not None,
                "--dtype": dtype is not None,
                "--devices": devices is not None,
                "--tensor-parallel": tensor_parallel != 1,
                "--revision": revision is not None,
                "--offline": offline,
                "--engine ray": engine is Engine.ray,
                "--min-score": min_score is not None,
            },
        )
        batch_size = concurrency
    asked = CaptionOptions(
        prompt=prompt,
        seed=options.pop("seed", 0),
        batch_size=batch_size,
        dedupe=dedupe,
        decoding=options,
        hints=None if hints is None else Hints(hints),
    )
    shape = Shape(CaptionTemplate(template, prefix, suffix), lowest_of(min_score))
    plan = Plan(
        named_sources(sources),
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
    read = [] if facts is None else [facts]
    plan.check_new_files([*read, *([] if endpoint is not None else checkpoint_files(model))])
    loaded: dict[str, Any] = {
        "name": model,
        "revision": revision,
        "offline": offline,
        "dtype": dtype,
        **on_devices(devices, tensor_parallel),
        "image_size": image_size,
        "image_splitting": image_splitting,
        "min_pixels": min_pixels,
        "max_pixels": max_pixels,
        "frames": frames,
    }
    refuse_idle_options(
        plan,
        resume=resume,
        retry_errors=retry_errors,
        separator=separator != "\n",
        of_a_cluster={
            "--workers": workers is not None and engine is Engine.local,
            "--shard-size": shard_size != SHARD and engine is Engine.local,
        },
    )
    cluster = Cluster(loaded, workers, shard_size) if engine is Engine.ray else None
    if cluster is not None and (devices is not None or tensor_parallel != 1):
        raise CaptaxError(
            "--devices and --tensor-parallel are of one process, and each worker of --engine ray "
            "has one device; leave them out"
        )
    if cluster is not None and plan.printed:
        raise CaptaxError("--engine ray cannot print captions; add --out, or --format sidecar")
    if hints is not None and (task is not None or not (prompt or style)):
        raise CaptaxError(
            "--hints only applies to prompts; add --prompt or --style, and leave out --task"
        )
    if hints is not None and not hints.is_dir():
        raise CaptaxError(f"{hints}: no such folder; give one with the tags of the pictures")
    if task is not None and raw:
        raise CaptaxError("--raw gives the prompt as it is, without a task; leave out one of them")
    refuse_idle(
        *(
            (option, given and endpoint is None, "a server elsewhere", "--endpoint URL")
            for option, given in (
                ("--concurrency", concurrency != CONCURRENCY),
                ("--max-side", max_side != MAX_SIDE),
                ("--api-key-env", api_key_env != API_KEY),
            )
        ),
        *(
            (option, given not in (None, []), "the prompt of a style", "--style NAME")
            for option, given in (
                ("--styles", styles),
                ("--words", words),
                ("--length", length),
                ("--extra", extra),
            )
            if style is None
        ),
    )
    if style is not None and (prompt or task is not None):
        raise CaptaxError("--style is a prompt; leave out --prompt and --task")
    if language is not None and (raw or task is not None):
        option = "--raw" if raw else "--task"
        raise CaptaxError(f"{option} says what is asked; leave it out, or leave out --language")
    if style is None:
        told = facts_for(prompt, facts, plan.sources)
    if language is not None:
        language = language_of(language).code
    captioner: Any
    if endpoint is not None:
        captioner = connect(
            endpoint, model, concurrency=concurrency, max_side=max_side, variable=api_key_env
        )
        model = captioner.name
    else:
        captioner = load_captioner(**loaded)
    if isinstance(captioner, VisionLanguageCaptioner):
        print(f"captax: {spelt(captioner.cost)}", file=sys.stderr)
    if task is not None:
        asked = dataclasses.replace(asked, prompt=captioner.prompt_for(task, prompt))
        plan = dataclasses.replace(plan, options=asked)
    if style is not None:
        known = captioner.styles if styles is None else captioner.styles.with_own(styles)
        said = known.prompt(style, words=words, length=length, extras=extra or ())
        told = facts_for(said, facts, plan.sources)
        asked = dataclasses.replace(asked, prompt=said)
        plan = dataclasses.replace(plan, options=asked)
    if hints is not None or told is not None:
        _refuse_unasked(captioner, asked.prompt, "a fact" if hints is None else "--hints")
    if language is not None:
        said = captioner.prompt_in(language, asked.prompt)
        asked = dataclasses.replace(asked, prompt=said, language=language)
    asked = dataclasses.replace(asked, facts=told)
    plan = dataclasses.replace(plan, options=asked)
    if min_score == AUTO:
        shape = dataclasses.replace(shape, min_confidence=threshold_of(captioner))
        plan = dataclasses.replace(plan, shape=shape)
    run(plan, captioner, model=model, cluster=cluster, resume=resume, retry_errors=retry_errors)


def _refuse_unasked(captioner: Any, prompt: str, what: str) -> None:
    """Raise `CaptaxError` for a model that is not asked in words, where `what` is in a prompt."""
    # Start-up time.
    from captax.pipelines.endpoint import EndpointCaptioner
    from captax.pipelines.vision_language import VisionLanguageCaptioner

    if isinstance(captioner, EndpointCaptioner):
        return
    if not isinstance(captioner, VisionLanguageCaptioner):
        raise CaptaxError(
            f"{what} is for models that answer a prompt, and this one continues it; leave it out"
        )
    if captioner.prompt_format.task_of(prompt)[0] is not None:
        raise CaptaxError(
            f"{what} cannot be added to a task of this model; ask in words of your own, by --prompt"
        )
