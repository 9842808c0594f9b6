"""The tasks that recipes name."""

from collections.abc import Mapping
from typing import Any

from captax.training.examples import Examples
from captax.training.labelling import ClassifyTask
from captax.training.recipe import Recipe
from captax.training.writing import CaptionTask, RewriteTask

TASKS: Mapping[str, type[Any]] = {
    "caption": CaptionTask,
    "rewrite": RewriteTask,
    "classify": ClassifyTask,
}


def make_task(recipe: Recipe, examples: Examples | None = None) -> Any:
    """The recipe's task with its model built; without `examples`, its data is read."""
    return TASKS[recipe.task](recipe, examples)
