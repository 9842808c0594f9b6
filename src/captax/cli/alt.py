"""`captax alt`: alt texts for the images of a site that have none, as a patch."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
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
    output,
    watched,
)

if TYPE_CHECKING:
    from captax.alt import Document, Proposal
    from captax.images import SheetRow


def _rules(asked: bool) -> bool:
    if asked:
        from captax.alt import RULES, WAIVABLE

        for rule, why in RULES.items():
            print(f"{rule:<12}{why}{' (--include)' if rule in WAIVABLE else ''}")
        raise typer.Exit
    return asked


@decoding
def alt(
    sites: Annotated[
        list[Path], typer.Argument(help="Folders or files: HTML, templates, .md, .ipynb, .rst.")
    ],
    write: Annotated[bool, typer.Option("--write", help="Change the files themselves.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the patch here.")] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Also write an HTML page of pictures and texts to review.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write every image and its reason, as JSON lines.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help='Folder that "/img/x.png" begins in; default: the site.')
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(help="Also images that this rule leaves alone: icon, small or graphic."),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="Below it a text is for review only.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Name every image that is left alone.")
    ] = False,
    rules: Annotated[
        bool,
        typer.Option("--rules", help="Print the rules and leave.", callback=_rules, is_eager=True),
    ] = False,
    model: Model = None,
    prompt: Annotated[str, typer.Option(help="Captions begin with it.")] = "",
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    dtype: Loaded = Dtype.float32,
    revision: Revision = None,
    offline: Offline = False,
    *,
    options: dict[str, Any],
) -> None:
    """Propose alt texts for images that have none: a patch, or with --write the change itself."""
    from captax.alt import WAIVABLE, propose, survey, unified_diff
    from captax.errors import CaptaxError
    from captax.images import write_sheet

    waived = frozenset(include or ())
    if strange := sorted(waived.difference(WAIVABLE)):
        raise CaptaxError(f"--include {strange[0]}: give {', '.join(WAIVABLE)}")
    surveyed = survey(sites, root=root, waived=waived)
    captions = _captions(
        surveyed.pictures,
        model=model,
        loading={"revision": revision, "offline": offline, "dtype": dtype.value},
        decoding={"prompt": prompt, "batch_size": batch_size, **options},
        watch=watched(out),
    )
    proposals = propose(surveyed.found, captions, min_score=min_score)

    failures: list[CaptaxError] = list(surveyed.errors)
    if report is not None:
        with output(report) as file:
            for each in proposals:
                print(json.dumps(_record(each), ensure_ascii=False), file=file)
    if sheet is not None:
        write_sheet(sheet, _cards(proposals), title="Alt texts to review")
    documents = _edited(proposals)
    base = _base([document for document, _ in documents])
    if out is not None or not write:
        patch = b"".join(
            unified_diff(document, [each.edit for each in given if each.edit], name)
            for document, given in documents
            for name in [Path(os.path.relpath(document.path, base)).as_posix()]
        )
        _write_patch(patch, out)
    written = 0
    for document, given in documents if write else ():
        try:
            document.write([each.edit for each in given if each.edit])
            written += len(given)
        except CaptaxError as error:
            failures.append(error)
    for failure in failures:
        print(f"captax: {failure}", file=sys.stderr)
    _summarise(proposals, surveyed.documents, verbose)
    if write:
        print(f"captax: {written} written", file=sys.stderr)
    elif documents and (out is not None or base != Path.cwd()):
        there = "" if base == Path.cwd() else f" -d {base}"
        source = f" < {out}" if out is not None else ""
        print(f"captax: apply it with `patch -p1{there}{source}`", file=sys.stderr)
    if failures or any(each.rule == "unreadable" for each in proposals):
        raise typer.Exit(SOME_FAILED)


def _captions(
    pictures: Sequence[Path],
    *,
    model: str | None,
    loading: dict[str, Any],
    decoding: dict[str, Any],
    watch: bool,
) -> dict[Path, tuple[str, float] | Exception]:
    """What the captioner says of each picture; it is loaded if there are any."""
    if not pictures:
        return {}
    from tqdm import tqdm

    captioner = load_captioner(model, **loading)
    captions: dict[Path, tuple[str, float] | Exception] = {}
    stream = captioner.stream(pictures, **decoding)
    bar = tqdm(stream, total=len(pictures), unit="picture", disable=not watch, leave=False)
    for path, found in zip(pictures, bar, strict=True):
        captions[path] = found if isinstance(found, Exception) else (found.text, found.score)
    return captions


def _edited(proposals: Sequence["Proposal"]) -> list[tuple["Document", list["Proposal"]]]:
    """The documents that change, each with the proposals for it."""
    documents: dict[int, tuple[Document, list[Proposal]]] = {}
    for each in proposals:
        if each.rule is None:
            documents.setdefault(id(each.document), (each.document, []))[1].append(each)
    return list(documents.values())


def _base(documents: Sequence["Document"]) -> Path:
    """The folder that the patch names files from: the current one, where it holds them all."""
    here = Path.cwd()
    paths = [os.path.abspath(document.path) for document in documents]  # noqa: PTH100
    if all(Path(path).is_relative_to(here) for path in paths):
        return here
    return Path(os.path.commonpath([os.path.dirname(path) for path in paths]))  # noqa: PTH120


def _write_patch(patch: bytes, out: Path | None) -> None:
    from captax.files import replacing

    if out is None:
        sys.stdout.buffer.write(patch)
        sys.stdout.flush()
        return
    with replacing(out) as partial:
        partial.write_bytes(patch)


def _record(each: "Proposal") -> dict[str, Any]:
    near = vars(each.context).items()
    return {
        "document": str(each.document.path),
        "line": each.line,
        "src": each.src,
        "picture": None if each.picture is None else str(each.picture),
        "alt": each.alt or None,
        "score": each.score,
        "rule": each.rule,
        "detail": each.detail or None,
        "context": {name: text for name, text in near if text or (name == "link" and text == "")},
    }


def _cards(proposals: Sequence["Proposal"]) -> Iterator["SheetRow"]:
    """A card for each picture that was captioned, with every place that shows it."""
    from captax.images import SheetRow

    shown: dict[Path, list[Proposal]] = {}
    for each in proposals:
        if each.picture is not None and each.score is not None:
            shown.setdefault(each.picture, []).append(each)
    for picture, uses in shown.items():
        yield SheetRow(
            picture,
            os.path.relpath(picture),
            uses[0].alt,
            uses[0].score,
            tuple((_place(each), None) for each in uses),
            others="Where",
            unfolded=len(uses) < 6,
        )


def _place(each: "Proposal") -> str:
    from captax.alt import RULES

    near = each.context
    parts = [f"{each.document.path}:{each.line}"]
    parts += [f"under “{near.heading}”"] if near.heading else []
    parts += [f"with the caption “{near.caption}”"] if near.caption else []
    parts += [f"titled “{near.title}”"] if near.title else []
    if near.link is not None:
        parts.append(f"in the link “{near.link}”" if near.link else "alone in a link")
    if each.rule is not None:
        parts.append(f"not proposed: {RULES[each.rule]}")
    return ", ".join(parts)


def _summarise(proposals: Sequence["Proposal"], documents: int, verbose: bool) -> None:
    from captax.alt import RULES

    counts = Counter(each.rule for each in proposals if each.rule is not None)
    if verbose:
        for each in proposals:
            if each.rule is not None:
                detail = f" ({each.detail})" if each.detail else ""
                place = f"{each.document.path}:{each.line}: {each.src or '<img>'}"
                print(f"{place}: {RULES[each.rule]}{detail}", file=sys.stderr)
    print(
        f"captax: {documents:,} documents show {len(proposals):,} images: "
        f"{len(proposals) - counts.total():,} alt texts proposed, {counts.total():,} left alone",
        file=sys.stderr,
    )
    for rule, why in RULES.items():
        if counts[rule]:
            print(f"{counts[rule]:>7,}  {rule:<12}{why}", file=sys.stderr)
