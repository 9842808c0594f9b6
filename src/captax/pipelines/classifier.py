"""The classifier: a model with a head of named labels, and its image processor."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from captax.checkpoints.directory import CARD, save_model, write_directory
from captax.checkpoints.state import rebuilder
from captax.data.example import Stored
from captax.errors import CaptaxError
from captax.generation.programs import Programs
from captax.images import ImageError, ImageProcessor, ImageSource
from captax.models.arithmetic import map_pictures
from captax.pipelines.replicas import Replicated
from captax.pipelines.streaming import several, stream_pictures


class LabelError(CaptaxError):
    """Labels do not fit the model, or a request for labels cannot be met."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A label and its probability."""

    label: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Classification:
    """The most probable label of a picture; it is also the first of `alternatives`."""

    label: str
    probability: float
    alternatives: tuple[Candidate, ...]

    def __str__(self) -> str:
        return self.label


class Classifier(Replicated):
    """Labels pictures."""

    def __init__(self, model: Any, processor: ImageProcessor, labels: Sequence[str] = ()):
        """`labels` name the model's logits in order; by default the config's names are used.

        Raises `LabelError` if the model has no head, or a different number of labels.
        """
        count = len(getattr(model.config, "labels", ()))
        if not count:
            raise LabelError(
                f"{type(model).__name__} has no classifier head; give a model that has one"
            )
        if labels and len(labels) != count:
            raise LabelError(
                f"{len(labels)} labels for a model of {count}; `classifier_for` makes a new head"
            )
        if labels:
            model = nnx.merge(*nnx.split(model))  # the caller's model keeps its own config
            model.config = dataclasses.replace(model.config, labels=tuple(labels))
        self.model = model
        self.processor = processor
        rebuild = rebuilder(model)

        def program(
            parameters: dict[str, Any], pixels: Float[Array, "batch height width 3"]
        ) -> Float[Array, "batch labels"]:
            logits = map_pictures(rebuild(parameters).classify, pixels)
            return jax.nn.softmax(logits.astype(jnp.float32))

        self._program = program
        self._programs = Programs()

    def keep_programs(self) -> None:
        """Keep what has been compiled so far for good; what comes later goes when it is unused."""
        self._programs.pin()

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of the model's logits."""
        return self.model.config.labels

    def classify(
        self,
        images: ImageSource | Sequence[ImageSource],
        *,
        top: int = 5,
        batch_size: int = 32,
    ) -> list[Classification]:
        """Classify one picture or several, given as paths, bytes, PIL images or arrays, in order.

        Each result has the `top` labels, the most probable first. Raises `ImageError` for the first
        picture that cannot be read; `stream` continues after it.
        """
        found = []
        for each in self.stream(several(images), top=top, batch_size=batch_size):
            if isinstance(each, ImageError):
                raise each
            found.append(each)
        return found

    def stream(
        self, images: Iterable[ImageSource | Stored], *, top: int = 5, batch_size: int = 32
    ) -> Iterator[Classification | ImageError]:
        """Classify pictures as they arrive, in order; yield the error of one that is broken."""
        if top < 1:
            raise LabelError(f"top is {top}: give 1 or more")
        how = {"batch_size": batch_size, "at_once": self.at_once}
        for found in stream_pictures(images, self.processor, self._dispatch, **how):
            yield found if isinstance(found, ImageError) else self._best(found, top)

    def _dispatch(
        self, pixels: Float[np.ndarray, "batch height width 3"]
    ) -> Float[Array, "batch labels"]:
        return self._programs.run("classify", lambda: self._program, self._weights(), pixels)

    def _best(self, probabilities: Float[np.ndarray, " labels"], top: int) -> Classification:
        order = np.argsort(-probabilities, kind="stable")[:top]
        best = tuple(Candidate(self.labels[i], float(probabilities[i])) for i in order)
        return Classification(best[0].label, best[0].probability, best)

    def save(self, directory: str | Path, *, dtype: str | None = None, card: str = "") -> None:
        """Write a checkpoint directory that `load` and transformers read.

        An older one is replaced. Weights are cast to `dtype`; `card` is written as README.md.
        """

        def write(folder: Path) -> None:
            save_model(folder, self.model, dtype=dtype)
            self.processor.save(folder)
            if card:
                (folder / CARD).write_text(card)

        write_directory(Path(directory), write)
