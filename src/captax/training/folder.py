"""A run's folder: whose run it holds, and what a new run may begin in."""

import re
from collections.abc import Iterator
from pathlib import Path

from captax.files import CONFIG_LIMIT, Kind, lies_in, own_file
from captax.training.recipe import Recipe, RecipeError, differences, parse_recipe

LOCK = "lock"
OWN_RECIPE = "recipe.yaml"
SKIPPED = "skipped.json"
BEST = "best"
_FOLDERS = (BEST, "samples", "checkpoints", "tensorboard")
# What a run that was ended before it began leaves, besides its lock.
_LEFT = {SKIPPED: Kind("list of what a run leaves out", re.compile(rb'\{\s*"skipped": \['))}
_PARTIAL = re.compile(r"\..*\.captax.*\.partial")
_TOLD = 5  # fields in which two recipes differ
_NAMED = 3  # files that are there


def check_folder(out: Path, recipe: Recipe, init_from: Path | None = None) -> None:
    """Raise `RecipeError` unless a run of `recipe` may begin or go on in the folder `out`.

    It begins in a new or empty folder, and never in what it reads or where that would be replaced.
    """
    new = not (out / OWN_RECIPE).exists()
    if new:
        _refuse_data(out, recipe)
    for given in _models(recipe, init_from):
        for place in (out, out / BEST) if new else (out / BEST,):
            if lies_in(given, place):
                what = "is" if lies_in(out, given) else f"holds {given}, which is"
                raise RecipeError(f"{out}: {what} read by this run; give --out another folder")
    found = _foreign(out)
    # A process that begins here meanwhile writes its recipe first.
    if found and not (out / OWN_RECIPE).exists():
        more = ", ..." if len(found) > _NAMED else ""
        raise RecipeError(
            f"{out}: is not empty and holds no run of captax (it has "
            f"{', '.join(found[:_NAMED])}{more}); give --out another folder"
        )
    refuse_other(out, recipe)


def refuse_other(out: Path, recipe: Recipe) -> None:
    """Raise `RecipeError` if the folder holds a run of another recipe, or a recipe of no run."""
    if _written(out) == recipe.to_yaml().encode():
        return
    before = run_recipe(out)
    if before is None or before == recipe:
        return
    told = differences(before, recipe)
    more = f"; and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
    raise RecipeError(
        f"{out / OWN_RECIPE}: this folder holds a run of another recipe "
        f"({'; '.join(told[:_TOLD])}{more}); give another folder as --out, or continue that run "
        f"with --resume {out}"
    )


def run_recipe(out: Path) -> Recipe | None:
    """The recipe of the run in a folder; None if it has none.

    A run's recipe is written in full. One that is not is a person's, or that of an earlier version
    of captax, whose run has checkpoints. Raises `RecipeError` for a recipe that is no run's.
    """
    if (content := _written(out)) is None:
        return None
    try:
        recipe = parse_recipe(content.decode())
    except (ValueError, RecipeError):
        recipe = None
    if recipe is None or not (
        content == recipe.to_yaml().encode() or (out / "checkpoints").is_dir()
    ):
        raise RecipeError(
            f"{out / OWN_RECIPE}: is not the recipe of a run of captax, so there is no run to "
            "continue; give --out another folder"
        )
    return recipe


def _written(out: Path) -> bytes | None:
    """What `recipe.yaml` in the folder holds; None if there is none."""
    path = out / OWN_RECIPE
    if not path.exists():
        return None
    try:
        with own_file(path, "rb") as file:
            return file.read(CONFIG_LIMIT)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror or error})") from None


def _refuse_data(out: Path, recipe: Recipe) -> None:
    """Raise `RecipeError` if `out` is in the data, where its pictures would become part of it."""
    root, data = recipe.data.root, recipe.data
    if root is None:  # all of it is on the hub
        return
    for folder in (Path(data.place(source)) for source in (*data.train, *data.dev)):
        if folder.is_dir() and lies_in(out, folder):
            what = "is" if lies_in(folder, out) else f"is inside {folder}, which is"
            raise RecipeError(f"{out}: {what} read by this run; give --out another folder")
    if lies_in(root, out) and lies_in(out, root):
        raise RecipeError(f"{out}: is read by this run; give --out another folder")


def _models(recipe: Recipe, init_from: Path | None) -> Iterator[Path]:
    """The files and folders of models that a run reads."""
    model = recipe.model
    names = (
        *(model.checkpoint, model.tokenizer, model.decoder.checkpoint),
        *(model.encoder.checkpoint, model.encoder.weights),
    )
    for name in names:
        if name is not None and Path(name).exists():
            yield Path(name)
    if init_from is not None:
        yield best if (best := init_from / BEST).is_dir() else init_from


def _foreign(out: Path) -> list[str]:
    """Names of what is in the folder, but for what a run has there before its first step."""
    try:
        return sorted(path.name for path in out.iterdir() if not _is_own(path))
    except (FileNotFoundError, NotADirectoryError):  # it will be made, or making it will tell
        return []
    except OSError as error:
        raise RecipeError(
            f"{out}: cannot be read ({error.strerror or error}); give --out another folder"
        ) from None


def _is_own(path: Path) -> bool:
    if path.name in _FOLDERS:  # perhaps a link to another disk
        return path.is_dir() and not any(path.iterdir())
    if path.name == LOCK:
        return path.is_file() and not path.is_symlink() and path.stat().st_size == 0
    if path.name in _LEFT:
        return _LEFT[path.name].made(path)
    return _PARTIAL.fullmatch(path.name) is not None and path.is_file()
