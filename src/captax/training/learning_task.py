"""What the training loop asks of a learning task, whatever is learned.

A task holds what the user gets in the end (a `Captioner`, `TextGenerator` or `Classifier`) and the
examples to learn from. It is asked for batches by the places of examples, so that a run's batches
depend on the recipe and the step alone.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Int

from captax import data
from captax.data.example import StoredExample
from captax.images import SheetRow
from captax.training.encoder_inputs import EncoderInputs
from captax.training.recipe import Recipe, RecipeError, Source
from captax.training.step import Losses, Parameters

Scores = dict[str, float]


@dataclasses.dataclass(frozen=True)
class DevResult:
    """Scores on the dev examples by name, the outputs, and cards of some to look at."""

    scores: Scores
    said: list[str]
    rows: list[SheetRow]


class LearningTask:
    """What the loop asks of a task."""

    subject: Any
    train: Sequence[Any]
    dev: Sequence[Any]
    size: int  # how many examples there are to learn from
    metric: str  # which score is best when it is highest, unless the recipe names another
    pictures: EncoderInputs | None = None
    dev_pictures: EncoderInputs | None = None

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    @property
    def model(self) -> nnx.Module:
        """What is trained."""
        return self.subject.model

    @property
    def depth(self) -> int:
        """How many of the encoder's parts batches have been through already."""
        return self.pictures.depth if self.pictures else 0

    def batch(self, chosen: Int[np.ndarray, " batch"], epoch: int) -> Any:
        """These examples as they are in an epoch."""
        raise NotImplementedError

    def name(self, place: int) -> str:
        """The id of an example, for messages."""
        return str(self.train[place].id)

    def shared(self) -> int:
        """How many dev examples are also in the training data, which makes scores too high."""
        learned = set(map(_origin, self.train))
        return sum(_origin(example) in learned for example in self.dev)

    def loss(self, model: Any, batch: Any) -> Losses:
        """Pure; called inside the step."""
        raise NotImplementedError

    def evaluate(self, model: Callable[[Parameters], nnx.Module]) -> Callable[..., DevResult]:
        """A function from parameters to their result on the dev examples."""
        raise NotImplementedError

    def score_names(self) -> list[str]:
        """What `evaluate` measures."""
        raise NotImplementedError

    def save(self, model: nnx.Module, directory: Path, card: str) -> None:
        """Keep the model with all it needs."""
        self.with_model(model).save(directory, dtype=self.recipe.dtype, card=card)

    def with_model(self, model: nnx.Module) -> Any:
        """The subject with another model's weights."""
        raise NotImplementedError


def opened(
    recipe: Recipe,
    sources: Sequence[Source],
    read: Callable[..., Sequence[Any]],
    limit: int | None = None,
) -> list[Any]:
    """The examples of all sources, each cut to the rows it names; at most `limit` in all."""
    parts = [
        source.take(read(recipe.data.root / source.path, split=source.split)) for source in sources
    ]
    found = data.mix(*parts) if recipe.task == "caption" else [x for part in parts for x in part]
    for source, part in zip(sources, parts, strict=True):
        if not part:
            raise RecipeError(
                f"data: {source.path} has no examples in rows {source.rows}; give other rows"
            )
    return found[:limit]


def _origin(example: Any) -> Any:
    """What tells an example from others: its picture's file, or all of it."""
    image = getattr(example, "image", None) if not isinstance(example, StoredExample) else None
    return image if isinstance(image, Path) else example
