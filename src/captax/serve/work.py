"""What the model is asked to do, a batch at a time."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from captax.captioner import Caption, Captioner
from captax.classifier import Classification, Classifier
from captax.generation.config import DEFAULT_NEW_TOKENS
from captax.generator import BATCH_SIZES
from captax.images import Prepared

# How many captions the page asks for.
PAGE_CAPTIONS = 3

Model = Captioner | Classifier
Kind = Literal["caption", "score", "explain", "classify"]


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be done with pictures; those of equal tasks are done together."""

    kind: Kind
    options: tuple[tuple[str, Any], ...] = ()
    prompt: str = ""

    @classmethod
    def of(cls, kind: Kind, options: Mapping[str, Any], prompt: str = "") -> "Task":
        """A task with these options, whatever their order."""
        frozen = ((name, tuple(v) if isinstance(v, list) else v) for name, v in options.items())
        return cls(kind, tuple(sorted(frozen)), prompt)


@dataclasses.dataclass(frozen=True)
class Item:
    """A picture, and what else is said of it."""

    picture: Prepared
    seed: int = 0
    caption: str | None = None


@dataclasses.dataclass(frozen=True)
class Explained:
    """An explanation in lists: words with their maps, the likeliest tokens a step."""

    caption: str
    words: list[dict[str, Any]]
    steps: list[list[tuple[str, float]]]
    grid: tuple[int, int]


class Worker:
    """Does tasks with a model. Not for several threads: the batcher's has it to itself."""

    def __init__(self, model: Model, max_batch: int):
        self.model = model
        self.processor = model.processor
        self.max_batch = max_batch

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of batches that programs are compiled for."""
        return (*(size for size in BATCH_SIZES if size < self.max_batch), self.max_batch)

    def alone(self, task: Task) -> bool:
        """Whether the task is for one picture at a time."""
        return task.kind == "explain"

    def __call__(self, task: Task, items: Sequence[Item]) -> Sequence[Any]:
        """What the task gives of each item."""
        pictures = [item.picture for item in items]
        options = dict(task.options)
        if task.kind == "classify":
            return self._classify(pictures, **options)
        if task.kind == "score":
            return self._score(pictures, items, prompt=task.prompt, **options)
        if task.kind == "explain":
            return [self._explain(item, task.prompt, **options) for item in items]
        return self._caption(pictures, items, prompt=task.prompt, **options)

    def _caption(
        self, pictures: list[Prepared], items: Sequence[Item], **options: Any
    ) -> list[Caption]:
        # A seed of its own for each: what is drawn for a picture depends on nothing else here.
        seeds = [item.seed for item in items]
        assert isinstance(self.model, Captioner)
        return self.model.caption(pictures, seed=seeds, batch_size=self.max_batch, **options)

    def _score(
        self, pictures: list[Prepared], items: Sequence[Item], **options: Any
    ) -> list[float]:
        assert isinstance(self.model, Captioner)
        captions = [item.caption or "" for item in items]
        return self.model.score(pictures, captions, batch_size=self.max_batch, **options)

    def _classify(self, pictures: list[Prepared], **options: Any) -> list[Classification]:
        assert isinstance(self.model, Classifier)
        return self.model.classify(pictures, batch_size=self.max_batch, **options)

    def _explain(
        self,
        item: Item,
        prompt: str,
        method: str = "attention",
        layer: int | None = None,
        head: int | None = None,
        **options: Any,
    ) -> Explained:
        assert isinstance(self.model, Captioner)
        found = self.model.explain(
            item.picture, item.caption, prompt=prompt, seed=item.seed, methods=(method,), **options
        )
        maps = np.asarray(found.maps(method, layer=layer, head=head), np.float64)
        words = [
            {
                "text": word.text,
                "tokens": list(word.tokens),
                "logprob": word.logprob,
                "map": weights.round(5).tolist(),
            }
            for word, weights in zip(found.words, maps, strict=True)
        ]
        steps = [[(text, float(p)) for text, p in step] for step in found.steps]
        rows, columns = found.grid
        return Explained(str(found.caption), words, steps, (rows, columns))

    def _seconds(self, task: Task, items: Sequence[Item]) -> float:
        started = time.perf_counter()
        self(task, items)
        return time.perf_counter() - started

    def _page_task(self, model: Captioner) -> Task:
        """What the page asks for, unless the person changes it."""
        generation = model.generation
        options = {
            "num_return_sequences": PAGE_CAPTIONS,
            "max_new_tokens": generation.max_new_tokens or DEFAULT_NEW_TOKENS,
            "do_sample": False,
            "num_beams": max(generation.num_beams, PAGE_CAPTIONS),
        }
        return Task.of("caption", options)

    def warm_up(self) -> dict[int, float]:
        """Compile what is asked for most; the seconds that a batch of each size takes."""
        item = Item(Prepared(np.full((*self.processor.size, 3), 127, np.uint8)))
        kind: Kind = "caption" if isinstance(self.model, Captioner) else "classify"
        seconds = {}
        for size in self.sizes:
            task = Task.of(kind, {"top": 1} if kind == "classify" else {})
            self(task, [item] * size)  # compiles
            seconds[size] = min(self._seconds(task, [item] * size) for _ in range(2))
        if isinstance(self.model, Captioner):
            page = self._page_task(self.model)
            for size in self.sizes[:2]:
                self(page, [item] * size)
            caption = self(Task.of("caption", {}), [item])[0]
            self(Task.of("explain", {}), [dataclasses.replace(item, caption=str(caption))])
        return seconds
