"""The tasks that recipes name."""

from collections.abc import Mapping
from typing import Any

from captax.training.labelling import ClassifyTask
from captax.training.recipe import Recipe
from captax.training.writing import CaptionTask, RewriteTask

TASKS: Mapping[str, type[Any]] = {
    "caption": CaptionTask,
    "rewrite": RewriteTask,
    "classify": ClassifyTask,
}


def make_task(recipe: Recipe) -> Any:
    """The recipe's task, its data read and its model built."""
    return TASKS[recipe.task](recipe)
