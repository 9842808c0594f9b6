"""`captax tag`: tags of pictures by a tagger, in all the places where captions can be written."""

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
    named_sources,
    refuse_idle_options,
    run,
    writing,
)
from captax.cli.options import (
    Devices,
    FollowLinks,
    Loaded,
    Offline,
    Replace,
    Revision,
    TensorParallel,
    checkpoint_files,
    on_devices,
)
from captax.collection.choices import Compare, OnExists, Resume
from captax.errors import CaptaxError

BETWEEN = ", "


def _tags(help: str, **rules: Any) -> Any:
    return typer.Option(help=help, rich_help_panel="Tags", **rules)


def tag(
    sources: Sources,
    model: Annotated[
        str,
        typer.Option(
            help="Checkpoint directory or hub name of a tagger, such as "
            "SmilingWolf/wd-vit-tagger-v3."
        ),
    ],
    general: Annotated[
        float,
        _tags("Tags count that are more probable than this; lower gives more tags.", min=0, max=1),
    ] = 0.35,
    character: Annotated[
        float, _tags("The same for tags that name characters.", min=0, max=1)
    ] = 0.75,
    exclude: Annotated[
        list[str] | None,
        _tags("A tag that is never written; repeat the option for several. Default: none."),
    ] = None,
    rating: Annotated[
        bool, _tags("Also write the most probable rating, first, as rating:general.")
    ] = False,
    escape_parentheses: Annotated[
        bool,
        _tags(
            "Write a backslash before parentheses, which many programs read as a weight otherwise."
        ),
    ] = False,
    keep_underscores: Annotated[
        bool, _tags("Write underscores as they are, and not as spaces.")
    ] = False,
    batch_size: BatchSize = 32,
    out: CaptionsOut = None,
    format: Format = None,
    follow_links: FollowLinks = False,
    sheet: Sheet = None,
    overwrite: Replace = False,
    dtype: Loaded = None,
    devices: Devices = None,
    tensor_parallel: TensorParallel = 1,
    revision: Revision = None,
    offline: Offline = False,
    template: Template = "{caption}",
    prefix: Prefix = "",
    suffix: Suffix = "",
    ext: Extension = None,
    on_exists: Existing = OnExists.skip,
    separator: Annotated[
        str,
        writing("What stands between the old text and the added tags."),
    ] = BETWEEN,
    csv_safe: CsvSafe = True,
    dedupe: Dedupe = None,
    resume: Resuming = Resume.if_possible,
    retry_errors: RetryErrors = False,
    compare: Comparing = Compare.time,
) -> None:
    """Tag pictures and print the tags, or write them to a file or beside each picture.

    A picture's tags are its caption: 1girl, solo, outdoors. Options that speak of captions mean
    them. As with captions, nothing is lost and nothing is done twice: after Ctrl-C, a crash or a
    kill, run the same command again, and it goes on. Pictures that cannot be read are named on
    stderr, and the exit code is then 1.
    """
    # Start-up time: these import JAX, for which `--help` should not wait.
    from captax.collection.caption_template import CaptionTemplate
    from captax.collection.job import Shape
    from captax.collection.plan import Plan
    from captax.collection.tagging import TagOptions
    from captax.compilation import persist_compiled_programs
    from captax.pipelines.loading import load
    from captax.pipelines.tagger import Tagger
    from captax.text.tags import Spelling

    asked = TagOptions(
        batch_size,
        dedupe,
        general,
        character,
        tuple(exclude or ()),
        Spelling(keep_underscores, escape_parentheses),
        rating,
    )
    plan = Plan(
        named_sources(sources),
        out,
        format,
        ext,
        on_exists,
        separator,
        asked,
        Shape(CaptionTemplate(template, prefix, suffix)),
        sheet,
        follow_links,
        csv_safe,
        compare,
        overwrite,
    )
    plan.check_new_files(checkpoint_files(model))
    refuse_idle_options(
        plan, resume=resume, retry_errors=retry_errors, separator=separator != BETWEEN
    )
    persist_compiled_programs()
    tagger = load(
        model,
        revision=revision,
        offline=offline,
        dtype=dtype,
        **on_devices(devices, tensor_parallel),
    )
    if not isinstance(tagger, Tagger):
        raise CaptaxError(
            f"{model}: holds a {type(tagger).__name__}, which cannot tag; give a tagger, such as "
            "SmilingWolf/wd-vit-tagger-v3"
        )
    run(plan, tagger, model=model, resume=resume, retry_errors=retry_errors)
