"""`captax data`: fetch datasets, and look at them before training on them."""

import enum
import json
import shlex
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captax.cli.options import Replace, is_no_page, refuse_idle, wrote
from captax.errors import OptionError, plural
from captax.files import NewFile, check_new_files

if TYPE_CHECKING:
    from captax.data.check import Report

SOMETHING_WRONG, WRONG_USE = 1, 2
SHOWN = 10
CARDS = 60

app = typer.Typer(help="Fetch and check datasets.")


@app.callback()
def data() -> None:
    """Fetch a dataset, and check one before training on it."""


class Known(enum.StrEnum):
    """The datasets that can be fetched."""

    flickr8k = enum.auto()
    food101 = enum.auto()


@app.command("get")
def get(
    name: Annotated[Known, typer.Argument(help="Dataset to fetch.")],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder in which its own folder is made.")
    ] = Path("data"),
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Accept the terms of use without being asked.")
    ] = False,
    mirror: Annotated[
        str | None,
        typer.Option(
            help="URL of a folder with the same archives. Default: CAPTAX_DATA_MIRROR, or where "
            "the field gets them."
        ),
    ] = None,
) -> None:
    """Download a public dataset, compare it with its public hash, and unpack it.

    The terms of use are shown first. A download that was stopped goes on when the same command is
    run again.
    """
    # Start-up time.
    from captax.data.get import DATASETS, is_there
    from captax.data.get import get as fetch

    dataset = DATASETS[name.value]
    if is_there(dataset, folder):
        print(f"captax: {folder / dataset.folder}: is there already", file=sys.stderr)
    else:
        print(f"{dataset.about}\n\n{textwrap.fill(dataset.terms, 80)}\n", file=sys.stderr)
        if not yes:
            if not sys.stdin.isatty():
                raise OptionError(
                    "the terms of use are not accepted; read them, and add `yes=True` to accept"
                )
            try:
                accepted = typer.confirm("Do you accept these terms?", err=True)
            except typer.Abort:  # Ctrl-C
                raise KeyboardInterrupt from None
            if not accepted:
                raise typer.Exit(WRONG_USE)
        try:
            fetch(dataset, folder, mirror=mirror)
        except KeyboardInterrupt:
            print("captax: stopped; run the same command again to continue", file=sys.stderr)
            raise
        wrote(folder / dataset.folder)
    root = shlex.quote(str(folder))
    print(f"captax data check {shlex.quote(str(folder / dataset.folder))}")
    print(f"captax train {dataset.recipe} --set data.root={root}")


@app.command("check")
def check(
    path: Annotated[str, typer.Argument(help="Dataset: captioned or labelled pictures.")],
    split: Annotated[
        str | None, typer.Option(help="Check only train, dev or test. Default: all.")
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="Also write an HTML page here, with what is wrong and a sample. Default: no page."
        ),
    ] = None,
    augmented: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE",
            help="Show training pictures on the page as this recipe (a name or a .yaml file) "
            "changes them: several views of each. Default: pictures as they are.",
        ),
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(
            help="Set a field of the recipe of --augmented, such as augment.jitter=0.3. Default: "
            "the recipe as it is."
        ),
    ] = None,
    cards: Annotated[int, typer.Option(min=1, help="How many pictures the page shows.")] = CARDS,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole report as JSON.")
    ] = False,
    overwrite: Replace = False,
) -> None:
    """Count a dataset's pictures and captions, decode each picture, and say what is wrong.

    Exit code 1: a picture is unreadable, has no caption or is in two splits, a caption has no
    picture, or training would refuse the dataset for another reason. Exit code 2: the path cannot
    be read as a dataset.
    """
    # Start-up time.
    from captax.data.check import check as look
    from captax.images import SHEET, write_sheet
    from captax.progress import tell

    for option, given in (("--cards", cards != CARDS), ("--augmented", augmented is not None)):
        refuse_idle((option, given and sheet is None, "the page", "--sheet FILE"))
    refuse_idle(("--set", bool(set) and augmented is None, "a recipe", "--augmented RECIPE"))
    check_new_files([NewFile("--sheet", sheet, SHEET, overwrite)], [path], reads=is_no_page)
    recipe = None
    if augmented is not None:
        # Start-up time: this brings JAX.
        from captax.training.augmented import augmented_rows, recipe_for

        recipe = recipe_for(augmented, path, split or "train", set or ())
    found = look(path, split=split, progress=True)
    report = found.report
    if as_json:
        print(json.dumps(report.to_json(), indent=1, ensure_ascii=False))
    else:
        for line in _lines(path, report):
            tell(line)  # which holds names that strangers gave
    if sheet is not None:
        if recipe is None:
            rows, title = found.sheet_rows(cards), f"{path}: {report.layout}"
        else:
            rows, title = augmented_rows(recipe, cards), f"{path}, as {recipe.name} sees it"
        write_sheet(sheet, rows, title=title)
        wrote(sheet)
    if not report.sound:
        raise typer.Exit(SOMETHING_WRONG)


def _lines(path: str, report: "Report") -> Iterator[str]:
    yield f"{path}: {report.layout}"
    for split, count in report.pictures.items():
        line = f"  {split:5} {_column(count, 'picture')}"
        if split in report.captions:
            line += f" {_column(report.captions[split], 'caption')}"
        if split in report.classes:
            line += f" {_column(len(report.classes[split]), 'class', 'classes')}"
        yield line.rstrip()
    yield from _classes(report.classes)
    if report.words and report.vocabulary:
        words, vocabulary = report.words, report.vocabulary
        yield (
            f"words a caption: {words.min} to {words.max}, median {words.median}, 95% have at most "
            f"{words.p95}"
        )
        yield (
            f"vocabulary: {plural(vocabulary.size, 'word')}, {vocabulary.frequent:,} of them 5 "
            f"times or more, {vocabulary.singletons:,} once"
        )
        yield f"captions of more than one picture: {report.shared_captions:,}"
    if report.widths and report.heights:
        common = ", ".join(f"{width}x{height} ({n:,})" for width, height, n in report.sizes)
        more = ", ..." if report.size_count > len(report.sizes) else ""
        yield (
            f"picture sizes: {report.widths.min} to {report.widths.max} wide, "
            f"{report.heights.min} to {report.heights.max} high; commonest {common}{more}"
        )
    bare = [split for split, count in report.pictures.items() if not count]
    yield from _listed("splits without pictures", bare, 0)
    yield from _listed("other faults", report.faults, 0)
    unreadable = [f"{name}: {error}" for name, error in report.unreadable.items()]
    yield from _listed("unreadable pictures", unreadable)
    yield from _listed("pictures in more than one split", [" = ".join(g) for g in report.leaks])
    yield from _listed("pictures twice in a split", [" = ".join(g) for g in report.repeated])
    if report.captions:
        yield from _listed("pictures without captions", report.uncaptioned)
        yield from _listed("pictures with an empty caption", report.empty)
        yield from _listed("captions without a picture", report.unpictured, 0)
        yield from _listed("pictures with a caption twice", report.repeated_captions)


def _column(count: int, one: str, several: str = "") -> str:
    number, noun = plural(count, one, several).split(" ")
    return f"{number:>9} {noun:{len(several or one) + (not several)}}"


def _classes(classes: dict[str, dict[str, int]]) -> Iterator[str]:
    """The smallest and the largest class of each split, and those that a split lacks."""
    known = {name for counts in classes.values() for name in counts}
    for split, counts in classes.items():
        least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        yield f"  {split}: from {counts[least]:,} ({least}) to {counts[most]:,} ({most}) a class"
        yield from _listed(f"classes without pictures in {split}", sorted(known - set(counts)), 0)


def _listed(what: str, names: Sequence[str], if_none: int = 1) -> Iterator[str]:
    if names or if_none:
        yield f"{what}: {len(names):,}" if names else f"{what}: none"
    for name in names[:SHOWN]:
        yield f"  {name}"
    if len(names) > SHOWN:
        yield f"  and {len(names) - SHOWN:,} more (--json lists all)"
