"""The learning task whose outputs are labels of pictures."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jaxtyping import Array, Float, Int

from captax import data
from captax.data.example import collecting_faults
from captax.images import Augment, SheetRow
from captax.metrics.classification import top_k_accuracy
from captax.pipelines.classifier import Classifier
from captax.training.build import build
from captax.training.encoder_inputs import EncoderInputs
from captax.training.examples import Examples
from captax.training.learning_task import DevResult, LearningTask, as_learned
from captax.training.recipe import Recipe, RecipeError
from captax.training.step import Losses, Parameters, token_losses

SHOWN = 5  # labels on the card of a picture


@struct.dataclass
class LabelBatch:
    """Pictures, as in `Batch`, and their labels."""

    given: Any
    labels: Int[Any, " batch"]


class ClassifyTask(LearningTask):
    """Pictures to labels."""

    metric = "accuracy"

    def __init__(self, recipe: Recipe, examples: Examples | None = None):
        super().__init__(recipe, examples)
        classes = recipe.data.classes
        sources = [recipe.data.place(source) for source in recipe.data.train]
        with collecting_faults():  # they were told of, or left out
            listed = [name for path in sources for name in data.class_names(path, classes=classes)]
        there = {example.label for example in self.train}
        labels = [name for name in dict.fromkeys(listed) if name in there]
        if len(labels) < 2:
            raise RecipeError(f"data.train has only one class ({labels[0]}); give two or more")
        if unknown := {example.label for example in self.dev} - set(labels):
            raise RecipeError(
                f"data.dev has labels that data.train does not have: {', '.join(sorted(unknown))}; "
                "add pictures of them to data.train, or leave them out with data.classes"
            )
        self.subject: Classifier = build(recipe, labels=labels)
        self.number = {label: number for number, label in enumerate(self.subject.labels)}
        processor, augment = self.subject.processor, Augment(**recipe.augment.model_dump())
        changed = augment if augment != Augment() else None
        self.pictures = EncoderInputs(self.train, processor, augment=changed, seed=recipe.seed)
        self.dev_pictures = EncoderInputs(self.dev, processor)

    def batch(
        self, chosen: Int[np.ndarray, " batch"], visits: Int[np.ndarray, " batch"]
    ) -> LabelBatch:
        assert self.pictures is not None
        labels = np.array([self.number[self.train[place].label] for place in chosen], np.int32)
        return LabelBatch(self.pictures.read(chosen, visits), labels)

    def score_names(self) -> list[str]:
        """The scores of labels."""
        return ["accuracy", *(["top-5 accuracy"] if self.many else []), "loss"]

    @property
    def many(self) -> bool:
        """Whether the five likeliest labels may miss the right one."""
        return len(self.number) > 5

    def _logits(self, model: Any, given: Array) -> Float[Array, "batch labels"]:
        size = self.subject.processor.size
        return model.label(model.last_parts(given.astype(jnp.float32), self.depth, size))

    def loss(self, model: Any, batch: LabelBatch) -> Losses:
        logits = self._logits(model, batch.given)[:, None]
        everywhere = jnp.ones((len(batch.labels), 1), bool)
        smoothing = self.recipe.optimizer.label_smoothing
        return token_losses(logits, batch.labels[:, None], everywhere, smoothing)

    def evaluate(self, model: Callable[[Parameters], nnx.Module]) -> Callable[..., DevResult]:
        size = min(self.recipe.evaluation.batch_size, len(self.dev))
        logits = jax.jit(lambda parameters, given: self._logits(model(parameters), given))

        def labelled(
            parameters: Parameters, pictures: EncoderInputs, places: Sequence[int]
        ) -> Float[np.ndarray, "pictures labels"]:
            found = []
            for first in range(0, len(places), size):
                # The last batch is filled up with repeats, so that one program serves all.
                rows = np.take(places, np.arange(first, first + size), mode="wrap")
                found.append(np.asarray(logits(parameters, pictures.read(rows))))
            return np.concatenate(found)[: len(places)]

        def run(parameters: Parameters) -> DevResult:
            assert self.pictures is not None and self.dev_pictures is not None
            all_logits = labelled(parameters, self.dev_pictures, range(len(self.dev)))
            truth = np.array([self.number[example.label] for example in self.dev])
            best = all_logits.argmax(-1)
            logprobs = np.asarray(jax.nn.log_softmax(jnp.asarray(all_logits)))
            loss = -float(logprobs[np.arange(len(truth)), truth].mean())
            said = [self.subject.labels[i] for i in best]
            scores = {"accuracy": float((best == truth).mean())}
            if self.many:
                scores["top-5 accuracy"] = float(top_k_accuracy(all_logits, truth, k=5))
            shares = np.exp(logprobs)
            rows = [self._card(self.dev[place], shares[place]) for place in self.spread(self.dev)]
            cards: list[SheetRow] = []
            if known := self.spread(self.train):
                again = labelled(parameters, self.pictures, known)
                again = np.asarray(jax.nn.softmax(jnp.asarray(again)))
                cards = [
                    as_learned(self._card(self.train[place], shares))
                    for place, shares in zip(known, again, strict=True)
                ]
            return DevResult({**scores, "loss": loss}, said, rows, cards)

        return run

    def _card(self, example: Any, shares: Float[np.ndarray, " labels"]) -> SheetRow:
        """The card of a picture, with its likeliest labels and their probabilities."""
        order = np.argsort(-shares, kind="stable")[:SHOWN]
        (said, share), *others = [(self.subject.labels[i], float(shares[i])) for i in order]
        title = example.id if said == example.label else f"{example.id}: is {example.label}"
        return SheetRow(
            example.image,
            title,
            said,
            share,
            tuple(others),
            score_name="probability",
            others="Other labels",
        )

    def with_model(self, model: nnx.Module) -> Classifier:
        return Classifier(model, self.subject.processor)
