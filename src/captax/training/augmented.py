"""Training pictures as a recipe's views show them to the model."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from captax.data import LabelledExample
from captax.hub import is_dataset
from captax.images import ImageError, SheetRow
from captax.training.examples import open_examples
from captax.training.features import augmented
from captax.training.recipe import Recipe, RecipeError, load_recipe
from captax.training.tasks import make_task

VIEWS = 5


def recipe_for(name: str, path: str, split: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of this name or file, for a split of the dataset at `path` instead of its own.

    `overrides` are those of `load_recipe`.

    Raises `RecipeError` for a recipe that does not exist, is wrong or learns texts.
    """
    place = path if is_dataset(path) else str(Path(path).absolute())
    source = json.dumps([{"path": place, "split": split}], ensure_ascii=False)  # it is YAML too
    data = ("data.root=.", f"data.train={source}", f"data.dev={source}")
    recipe = load_recipe(name, [*overrides, *data])
    if recipe.task == "rewrite":
        raise RecipeError("a recipe with task: rewrite has no pictures; leave out --augmented")
    return recipe


def augmented_rows(recipe: Recipe, count: int) -> Iterator[SheetRow]:
    """`count` cards of training pictures: several views of each, with their captions or label.

    Views are numbered as in training: the first one, 0, is unchanged, and a stage with `views` sees
    so many. The pictures are spread over the data.

    Raises what `make_task` raises.
    """
    task = make_task(recipe, open_examples(recipe, skip=True))
    pictures = task.pictures
    kept = recipe.stages[0].views
    shown = 1 if pictures.augment is None else min(kept or VIEWS, VIEWS)
    pictures_shown = min(max(1, count // shown), len(task.train))
    for place in np.linspace(0, len(task.train) - 1, pictures_shown).astype(int):
        example = task.train[place]
        labelled = isinstance(example, LabelledExample)
        says = example.label if labelled else " · ".join(example.captions)
        for view in range(shown):
            title = f"{example.id}: {f'view {view}' if view else 'unchanged'}"
            try:
                prepared = augmented(
                    example, pictures.processor, pictures.augment, pictures.seed, view
                )
            except ImageError as error:
                yield SheetRow(None, title, says, None, error=str(error))
                break
            yield SheetRow(prepared.image, title, says, None)
