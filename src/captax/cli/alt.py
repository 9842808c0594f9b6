"""`captax alt`: alt texts for the images of a site that have none, as a patch."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captax.cli.options import (
    AUTO,
    SOME_FAILED,
    FollowLinks,
    Loaded,
    Model,
    Offline,
    Replace,
    Revision,
    checkpoint_files,
    decoding,
    load_captioner,
    lowest_of,
    min_score_option,
    output,
    threshold_of,
    watched,
    wrote,
)
from captax.errors import CaptaxError, plural
from captax.files import NewFile, check_new_files, replacing

if TYPE_CHECKING:
    from captax.alt.proposals import Answer


def _rules(asked: bool) -> bool:
    if asked:
        # Start-up time.
        from captax.alt import RULES, WAIVABLE

        for rule, why in RULES.items():
            print(f"{rule:<12}{why}{' (--include)' if rule in WAIVABLE else ''}")
        raise typer.Exit
    return asked


@decoding
def alt(
    sites: Annotated[
        list[Path],
        typer.Argument(help="Folders or files to read: HTML, templates, .md, .ipynb, .rst."),
    ],
    write: Annotated[
        bool, typer.Option("--write", help="Write the alt texts into the files.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="File for the patch. Default: the screen, or none with --write."),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="Also write an HTML page to review, with all pictures and texts. Default: none."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Also write a JSON line for each image, with its text or reason. Default: none."
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            help='Folder in which addresses such as "/img/x.png" begin. Default: the site.'
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            help="Include images that a rule leaves alone: icon, small or graphic. Default: none."
        ),
    ] = None,
    min_score: Annotated[
        str | None, min_score_option("Lowest score at which a text is proposed.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print every image that is left alone, and why.")
    ] = False,
    overwrite: Replace = False,
    follow_links: FollowLinks = False,
    rules: Annotated[
        bool,
        typer.Option(
            "--rules",
            help="Print the rules that leave images alone, and exit.",
            callback=_rules,
            is_eager=True,
        ),
    ] = False,
    model: Model = None,
    prompt: Annotated[
        str, typer.Option(help="Text that captions begin with. Default: no text.")
    ] = "",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures that go through the model at once.")
    ] = 32,
    dtype: Loaded = None,
    revision: Revision = None,
    offline: Offline = False,
    *,
    options: dict[str, Any],
) -> None:
    """Propose alt texts for images that have none, as a patch; --write changes the files."""
    # Start-up time.
    from captax.alt import WAIVABLE, make_patch, propose, survey
    from captax.alt.patch import PATCH
    from captax.alt.review import REPORT, cards, reasons, record, summary, unreadable
    from captax.alt.site import is_document
    from captax.images import SHEET, names_picture, write_sheet

    waived = frozenset(include or ())
    if strange := sorted(waived.difference(WAIVABLE)):
        raise CaptaxError(
            f"--include {strange[0]}: is not such a rule; give icon, small or graphic"
        )
    check_new_files(
        [
            NewFile("--out", out, PATCH, overwrite),
            NewFile("--sheet", sheet, SHEET, overwrite),
            NewFile("--report", report, REPORT, overwrite),
        ],
        [*sites, *([] if root is None else [root]), *checkpoint_files(model)],
        reads=lambda path: is_document(path) or names_picture(path),
    )
    surveyed = survey(sites, root=root, waived=waived, follow_links=follow_links)
    captions = _captions(
        surveyed.pictures,
        model=model,
        loading={"revision": revision, "offline": offline, "dtype": dtype},
        decoding={"prompt": prompt, "batch_size": batch_size, **options},
        watch=watched(out),
        calibrated=min_score == AUTO,
    )
    auto = min_score == AUTO
    proposals = propose(
        surveyed.found, captions, min_score=lowest_of(min_score), sure_only=auto, waived=waived
    )

    if report is not None:
        with output(report) as file:
            for each in proposals:
                print(json.dumps(record(each), ensure_ascii=False), file=file)
    if sheet is not None:
        write_sheet(sheet, cards(proposals), title="Alt texts to review")
        wrote(sheet)
    patch = make_patch(proposals)
    if out is not None or not write:
        _write_patch(patch.content, out)
    written, failures = patch.write() if write else (0, [])
    for failure in [*surveyed.errors, *failures]:
        _tell(f"captax: {failure}")
    for line in unreadable(proposals):
        _tell(f"captax: {line}")
    if verbose:
        for line in reasons(proposals):
            _tell(line)
    first, *rest = summary(proposals, surveyed.documents)
    _tell("\n".join([f"captax: {first}", *rest]))
    if write:
        _tell(f"captax: wrote {plural(written, 'alt text')}")
    elif patch.edits and (out is not None or patch.base != Path.cwd()):
        _tell(f"captax: apply the patch with `{patch.command(out)}`")
    if surveyed.errors or failures or any(unreadable(proposals)):
        raise typer.Exit(SOME_FAILED)


def _captions(
    pictures: Sequence[Path],
    *,
    model: str | None,
    loading: dict[str, Any],
    decoding: dict[str, Any],
    watch: bool,
    calibrated: bool,
) -> "dict[Path, Answer]":
    """What the captioner says of each picture; it is loaded if there are any."""
    if not pictures:
        return {}
    # Start-up time.
    from tqdm import tqdm

    from captax.alt import Said

    captioner = load_captioner(model, **loading)
    if calibrated:
        threshold_of(captioner)  # raises if there is none
    calibration = captioner.calibration
    captions: dict[Path, Answer] = {}
    stream = captioner.stream(pictures, **decoding)
    bar = tqdm(stream, total=len(pictures), unit="picture", disable=not watch, leave=False)
    for path, found in zip(pictures, bar, strict=True):
        if isinstance(found, Exception):
            captions[path] = found
        else:
            unsure = calibration is not None and calibration.unsure(found.confidence)
            captions[path] = Said(found.text, found.score, found.confidence, unsure)
    return captions


def _write_patch(patch: bytes, out: Path | None) -> None:
    if out is None:
        sys.stdout.buffer.write(patch)
        sys.stdout.flush()
        return
    with replacing(out) as file:
        file.write(patch)
    wrote(out)


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
