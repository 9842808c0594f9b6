"""The interface between the training loop and a learning task.

A task holds what the user gets in the end (a `Captioner`, `TextGenerator` or `Classifier`) and the
examples to learn from. The loop asks for a batch by the indices of its examples, so the batches of
a run depend only on the recipe and the step.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Int

from captax import data
from captax.data.example import OnDemand
from captax.images import SheetRow
from captax.training.encoder_inputs import EncoderInputs
from captax.training.examples import Examples, open_examples
from captax.training.recipe import Recipe
from captax.training.step import Losses, Parameters

Scores = dict[str, float]


@dataclasses.dataclass(frozen=True)
class DevResult:
    """Scores on the dev examples by name, all outputs (`said`), and cards of some to look at.

    `learned` are cards of training examples, as they are without augmentation.
    """

    scores: Scores
    said: list[str]
    rows: list[SheetRow]
    learned: list[SheetRow] = dataclasses.field(default_factory=list)


class LearningTask:
    """A learning task, as the training loop uses it."""

    subject: Any
    train: Sequence[Any]
    dev: Sequence[Any]
    # For each source how many examples it has, and how often an epoch takes each of them.
    parts: Sequence[tuple[int, float]]
    # The score that selects the best model (higher is better), unless the recipe names another.
    metric: str
    pictures: EncoderInputs | None = None
    dev_pictures: EncoderInputs | None = None

    def __init__(self, recipe: Recipe, examples: Examples | None = None):
        """Without `examples`, the recipe's are read."""
        self.recipe = recipe
        self.examples = open_examples(recipe) if examples is None else examples
        self.train, self.parts = self.examples.train, self.examples.parts
        self.dev = self.examples.dev

    @property
    def model(self) -> nnx.Module:
        """What is trained."""
        return self.subject.model

    @property
    def size(self) -> int:
        """How many examples an epoch has."""
        return data.epoch_size(self.parts)

    @property
    def depth(self) -> int:
        """How many of the encoder's parts the inputs have already passed (the feature cache)."""
        return self.pictures.depth if self.pictures else 0

    def batch(self, chosen: Int[np.ndarray, " batch"], visits: Int[np.ndarray, " batch"]) -> Any:
        """The batch of these examples; each visit shows an example in another way."""
        raise NotImplementedError

    def name(self, place: int) -> str:
        """The id of an example, for messages."""
        return str(self.train[place].id)

    def spread(self, examples: Sequence[Any]) -> list[int]:
        """Places of the examples that are shown."""
        count = min(self.recipe.evaluation.samples, len(examples))
        return [int(place) for place in np.linspace(0, len(examples) - 1, count)]

    def shared(self) -> int:
        """How many dev examples are also in the training data, which makes scores too high."""
        learned = set(map(_origin, self.train))
        return sum(_origin(example) in learned for example in self.dev)

    def loss(self, model: Any, batch: Any) -> Losses:
        """The losses of a batch. A pure function, called inside the step."""
        raise NotImplementedError

    def evaluate(self, model: Callable[[Parameters], nnx.Module]) -> Callable[..., DevResult]:
        """Make the function that evaluates parameters on the dev examples."""
        raise NotImplementedError

    def score_names(self) -> list[str]:
        """The names of the scores that `evaluate` computes."""
        raise NotImplementedError

    def save(self, model: nnx.Module, directory: Path, card: str) -> None:
        """Save the model with everything that it needs, such as its tokenizer."""
        self.with_model(model).save(directory, dtype=self.recipe.dtype, card=card)

    def with_model(self, model: nnx.Module) -> Any:
        """The subject with another model."""
        raise NotImplementedError


def as_learned(row: SheetRow) -> SheetRow:
    """The card of a training example, which says so."""
    return dataclasses.replace(row, note="training example")


def _origin(example: Any) -> Any:
    """What identifies an example: the file of its picture, or the whole example."""
    image = getattr(example, "image", None) if not isinstance(example, OnDemand) else None
    return image if isinstance(image, Path) else example
