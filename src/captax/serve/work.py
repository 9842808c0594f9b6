"""The work that the model does, a batch at a time."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from captax.generation.config import DEFAULT_NEW_TOKENS
from captax.generation.programs import BATCH_SIZES, compiling_elsewhere
from captax.images import Prepared
from captax.pipelines.captioner import Caption, Captioner
from captax.pipelines.classifier import Classification, Classifier
from captax.pipelines.replicas import on_replica

# Captions that the page asks for.
PAGE_CAPTIONS = 3

Model = Captioner | Classifier
Kind = Literal["caption", "score", "explain", "classify", "answer", "tell"]


@dataclasses.dataclass(frozen=True)
class Work:
    """What is to be done with pictures; those that need equal work share a batch."""

    kind: Kind
    options: tuple[tuple[str, Any], ...] = ()
    prompt: str = ""

    @classmethod
    def of(cls, kind: Kind, options: Mapping[str, Any], prompt: str = "") -> "Work":
        """The work with these options, whatever their order."""
        frozen = ((name, tuple(v) if isinstance(v, list) else v) for name, v in options.items())
        return cls(kind, tuple(sorted(frozen)), prompt)


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of the model: a picture that `Sent.read` prepared, with its seed and caption.

    `listener` is told the answer as it grows, by the model's thread (`Captioner.tell`).
    """

    picture: Prepared
    seed: int = 0
    caption: str | None = None
    listener: Callable[[str], bool] | None = None


@dataclasses.dataclass(frozen=True)
class Explained:
    """An explanation as lists: words with their maps, the most probable tokens of each step."""

    caption: str
    words: list[dict[str, Any]]
    steps: list[list[tuple[str, float]]]
    grid: tuple[int, int]
    unknown_words: list[str]


@dataclasses.dataclass(frozen=True)
class Scored:
    """How well a caption fits, and those of its words that the model does not know."""

    score: float
    unknown_words: list[str]


@dataclasses.dataclass(frozen=True)
class Answer:
    """A caption, and how many tokens were read before it."""

    caption: Caption
    prompt_tokens: int


class Worker:
    """Does work with a model, in one thread for each of its replicas."""

    def __init__(self, model: Model, max_batch: int):
        self.model = model
        self.processor = model.processor
        self.max_batch = max_batch
        self._warm = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch sizes that programs are compiled for."""
        return (*(size for size in BATCH_SIZES if size < self.max_batch), self.max_batch)

    def alone(self, work: Work) -> bool:
        """Whether the work is for one picture at a time."""
        return work.kind == "explain"

    def __call__(self, work: Work, inputs: Sequence[Input]) -> Sequence[Any]:
        """The result of the work for each input.

        Raises `NotCompiled` if it needs a program that warming up did not compile and nobody else.
        """
        if not self._warm:
            return self._do(work, inputs)
        with compiling_elsewhere():
            return self._do(work, inputs)

    def _do(self, work: Work, inputs: Sequence[Input]) -> Sequence[Any]:
        pictures = [each.picture for each in inputs]
        options = dict(work.options)
        if work.kind == "classify":
            return self._classify(pictures, **options)
        if work.kind == "score":
            return self._score(pictures, inputs, prompt=work.prompt, **options)
        if work.kind == "explain":
            return [self._explain(each, work.prompt, **options) for each in inputs]
        if work.kind == "caption":
            return self._caption(pictures, inputs, prompt=work.prompt, **options)
        return self._answer(pictures, inputs, work.kind == "tell", work.prompt, **options)

    def _answer(
        self,
        pictures: list[Prepared],
        inputs: Sequence[Input],
        tell: bool,
        prompt: str,
        **options: Any,
    ) -> list[Answer]:
        assert isinstance(self.model, Captioner)
        said = {"prompt": prompt, **{k: v for k, v in options.items() if k in ("system", "raw")}}
        if tell:
            listeners = [each.listener or (lambda text: True) for each in inputs]
            seeds = [each.seed for each in inputs]
            told = self.model.tell(
                pictures, listeners, prompt=prompt, seed=seeds, batch_size=self.max_batch, **options
            )
        else:
            told = self._caption(pictures, inputs, prompt=prompt, **options)
        lengths = [self.model.prompt_length(picture, **said) for picture in pictures]
        return list(map(Answer, told, lengths))

    def _caption(
        self, pictures: list[Prepared], inputs: Sequence[Input], **options: Any
    ) -> list[Caption]:
        # Each picture has its own seed, so its draws depend on nothing else in the batch.
        seeds = [each.seed for each in inputs]
        assert isinstance(self.model, Captioner)
        return self.model.caption(pictures, seed=seeds, batch_size=self.max_batch, **options)

    def _score(
        self, pictures: list[Prepared], inputs: Sequence[Input], **options: Any
    ) -> list[Scored]:
        assert isinstance(self.model, Captioner)
        captions = [each.caption or "" for each in inputs]
        options |= {"batch_size": self.max_batch, "quiet": True}
        scores = self.model.score(pictures, captions, **options)
        return list(map(Scored, scores, map(self.model.unknown_words, captions)))

    def _classify(self, pictures: list[Prepared], **options: Any) -> list[Classification]:
        assert isinstance(self.model, Classifier)
        return self.model.classify(pictures, batch_size=self.max_batch, **options)

    def _explain(
        self,
        given: Input,
        prompt: str,
        method: str = "attention",
        layer: int | None = None,
        head: int | None = None,
        **options: Any,
    ) -> Explained:
        assert isinstance(self.model, Captioner)
        found = self.model.explain(
            given.picture,
            given.caption,
            prompt=prompt,
            seed=given.seed,
            methods=(method,),
            quiet=True,
            **options,
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
        unknown = self.model.unknown_words(given.caption or "")
        return Explained(str(found.caption), words, steps, (rows, columns), unknown)

    def _seconds(self, work: Work, inputs: Sequence[Input]) -> float:
        started = time.perf_counter()
        self(work, inputs)
        return time.perf_counter() - started

    def _page_work(self, model: Captioner) -> Work:
        """The work that the page asks for, unless its user changes the options."""
        generation = model.generation
        options = {
            "num_return_sequences": PAGE_CAPTIONS,
            "max_new_tokens": generation.max_new_tokens or DEFAULT_NEW_TOKENS,
            "do_sample": False,
            "num_beams": max(generation.num_beams, PAGE_CAPTIONS),
        }
        return Work.of("caption", options)

    def warm_up(self) -> dict[int, float]:
        """Compile the usual requests for good, and measure the seconds of a batch of each size."""
        try:
            with on_replica(0):
                seconds = self._warm_up()
            # The first may have left programs on disk that the others only have to read.
            with ThreadPoolExecutor(max(1, self.model.at_once - 1)) as threads:
                list(threads.map(self._warm_up_on, range(1, self.model.at_once)))
            return seconds
        finally:
            self._warm = True
            self.model.keep_programs()

    def _warm_up_on(self, replica: int) -> None:
        with on_replica(replica):
            self._warm_up()

    def _warm_up(self) -> dict[int, float]:
        given = Input(Prepared(np.full((*self.processor.size, 3), 127, np.uint8)))
        kind: Kind = "caption" if isinstance(self.model, Captioner) else "classify"
        seconds = {}
        for size in self.sizes:
            work = Work.of(kind, {"top": 1} if kind == "classify" else {})
            self(work, [given] * size)  # compiles
            seconds[size] = min(self._seconds(work, [given] * size) for _ in range(2))
        if isinstance(self.model, Captioner):
            page = self._page_work(self.model)
            for size in self.sizes[:2]:
                self(page, [given] * size)
            caption = self(Work.of("caption", {}), [given])[0]
            self(Work.of("explain", {}), [dataclasses.replace(given, caption=str(caption))])
        return seconds
