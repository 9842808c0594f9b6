"""What is trained, task by task: batches, losses, scores, and what is kept.

A task holds what the user gets in the end (a `Captioner`, `TextGenerator` or `Classifier`) and the
examples to learn from. It is asked for batches by the places of examples, so that a run's batches
depend on the recipe and the step alone.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jaxtyping import Array, Float, Int

from captax import data, metrics
from captax.captioner import Captioner
from captax.classifier import Classifier
from captax.data import PackedCaptions
from captax.data.example import StoredExample
from captax.generation import GenerationConfig, generate
from captax.images import Augment, SheetRow, rng_for
from captax.metrics.classification import top_k_accuracy
from captax.models.encoders import Text
from captax.text_generator import TextGenerator
from captax.training.build import build
from captax.training.pictures import Pictures
from captax.training.recipe import Recipe, RecipeError, Source
from captax.training.step import Losses, Parameters, token_losses

Scores = dict[str, float]


@struct.dataclass
class Batch:
    """Examples as a step takes them; NumPy's arrays on their way in, JAX's inside.

    `given` are pictures, as pixels or after the frozen part of the encoder, or a `Text`.
    """

    given: Any
    inputs: Int[Any, "batch time"]
    targets: Int[Any, "batch time"]
    positions: Int[Any, "batch time"]
    segments: Int[Any, "batch time"]


@struct.dataclass
class LabelBatch:
    """Pictures, as in `Batch`, and their labels."""

    given: Any
    labels: Int[Any, " batch"]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores by name, and what was said of dev examples, to be looked at."""

    scores: Scores
    said: list[str]
    rows: list[SheetRow]


class Task:
    """What the loop asks of a task."""

    subject: Any
    train: Sequence[Any]
    dev: Sequence[Any]
    size: int  # how many examples there are to learn from
    metric: str  # which score is best when it is highest, unless the recipe names another
    pictures: Pictures | None = None
    dev_pictures: Pictures | None = None

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
        """How many of the dev examples are learned from: scores say little then."""
        learned = set(map(_origin, self.train))
        return sum(_origin(example) in learned for example in self.dev)

    def loss(self, model: Any, batch: Any) -> Losses:
        """Pure; called inside the step."""
        raise NotImplementedError

    def evaluate(self, model: Callable[[Parameters], nnx.Module]) -> Callable[..., Evaluation]:
        """A function from parameters to how they do on the dev examples."""
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


class WritingTask(Task):
    """Captions of pictures, or texts from texts: what both have in common."""

    def __init__(self, recipe: Recipe, subject: Any):
        super().__init__(recipe)
        self.subject = subject
        said, unknown = recipe.evaluation, subject.tokenizer.unk_id
        subject.generation = subject.generation.replace(
            # It stands for words that were not learned, and decodes to nothing.
            suppress_tokens=() if unknown is None else (unknown,),
            num_beams=said.num_beams,
            max_new_tokens=said.max_new_tokens,
            no_repeat_ngram_size=said.no_repeat_ngram_size,
        )
        self.generation: GenerationConfig = subject.generation
        start, eos = self.generation.decoder_start_token_id, self.generation.eos_ids[0]
        self.start = subject.tokenizer.start_id if start is None else start
        self.eos = eos
        vocab = getattr(subject.model.decoder.config, "vocab_size", None)
        if vocab is not None and subject.tokenizer.vocab_size > vocab:
            raise RecipeError(
                f"model: its decoder knows {vocab} tokens and its tokenizer "
                f"{subject.tokenizer.vocab_size}; give the tokenizer that it was made with"
            )
        longest = recipe.data.max_tokens
        places = subject.model.decoder.max_positions
        if longest - 1 > places:
            raise RecipeError(
                f"data.max_tokens is {longest}: the decoder reads {places} tokens, so give at most "
                f"{places + 1}"
            )
        if said.max_new_tokens >= places:
            raise RecipeError(
                f"evaluation.max_new_tokens is {said.max_new_tokens}: the decoder reads {places} "
                f"tokens and start is one, so give at most {places - 1}"
            )

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Texts as the decoder is to say them: start, words, eos."""
        encoded = self.subject.tokenizer.encode_plain(texts)
        return [[self.start, *ids, self.eos] for ids in encoded]

    def pack(self, texts: Sequence[Sequence[Sequence[int]]]) -> PackedCaptions:
        """Each example's texts in one row."""
        options = self.recipe.data
        pad = self.generation.pad_token_id
        return data.pack_captions(
            texts,
            capacity=options.row_tokens or options.max_tokens - 1,
            max_tokens=options.max_tokens,
            pad_id=self.eos if pad is None else pad,
        )

    def _features(self, model: Any, given: Any) -> Any:
        if isinstance(given, Text):
            return model.encode(given)
        depth, size = self.depth, self.subject.processor.size
        return model.bridge(model.encoder.suffix(given.astype(jnp.float32), depth, size))

    def loss(self, model: Any, batch: Batch) -> Losses:
        logits = model.read(
            self._features(model, batch.given), batch.inputs, batch.positions, batch.segments
        )
        smoothing = self.recipe.optimizer.label_smoothing
        return token_losses(logits, batch.targets, batch.segments > 0, smoothing)

    def evaluate(self, model: Callable[[Parameters], nnx.Module]) -> Callable[..., Evaluation]:
        config = self.generation
        size = min(self.recipe.evaluation.batch_size, self.dev_size)

        @jax.jit
        def write(parameters: Parameters, batch: Batch) -> tuple[Array, Losses]:
            built: Any = model(parameters)
            features = self._features(built, batch.given)
            sequences = generate(
                built,
                features,
                jnp.full((len(batch.inputs), 1), self.start),
                config.strategy,
                max_new_tokens=config.max_new_tokens,
                eos_id=config.eos_ids,
                pad_id=self.eos if config.pad_token_id is None else config.pad_token_id,
                constraints=config.constraints,
            )
            logits = built.read(features, batch.inputs, batch.positions, batch.segments)
            return sequences.tokens[:, 0], token_losses(logits, batch.targets, batch.segments > 0)

        def run(parameters: Parameters) -> Evaluation:
            texts: list[str] = []
            total = weight = right = 0.0
            for first in range(0, self.dev_size, size):
                # The last batch is filled up with repeats, so that one program serves all.
                rows = np.arange(first, first + size)
                real = rows < self.dev_size
                batch = self.dev_batch(rows % self.dev_size)
                counted = batch.segments * real[:, None]
                tokens, losses = write(parameters, dataclasses.replace(batch, segments=counted))
                said = [[t for t in row if t != self.eos] for row in np.asarray(tokens).tolist()]
                texts += [text.strip() for text in self.subject.decode(said)]
                total += float(losses.measures["nll"])
                right += float(losses.measures["accuracy"])
                weight += float(losses.weight)
            texts = texts[: self.dev_size]
            scores = {
                **self.scores(texts),
                "loss": total / weight,
                "perplexity": float(np.exp(min(total / weight, 50.0))),
                "token accuracy": right / weight,
            }
            return Evaluation(scores, texts, self.rows(texts))

        return run

    dev_size: int

    def dev_batch(self, chosen: Int[np.ndarray, " batch"]) -> Batch:
        """Dev examples, unchanged, each with its first text."""
        raise NotImplementedError

    def scores(self, texts: Sequence[str]) -> Scores:
        """Of what was said of the dev examples, in order."""
        raise NotImplementedError

    def rows(self, texts: Sequence[str]) -> list[SheetRow]:
        """Some of them, spread over the dev examples."""
        raise NotImplementedError

    def score_names(self) -> list[str]:
        """What is measured of texts, whatever they say, and of their tokens."""
        return [*self.scores(["a"] * self.dev_size), "loss", "perplexity", "token accuracy"]

    def spread(self) -> list[int]:
        """Places of the dev examples that are shown."""
        count = min(self.recipe.evaluation.samples, self.dev_size)
        return [int(i) for i in np.linspace(0, self.dev_size - 1, count)]


class CaptionTask(WritingTask):
    """Pictures to captions."""

    metric = "CIDEr-D"

    def __init__(self, recipe: Recipe):
        self.train = opened(recipe, recipe.data.train, data.open)
        self.dev = opened(recipe, recipe.data.dev, data.open, recipe.evaluation.limit)
        captions = [caption for example in self.train for caption in example.captions]
        super().__init__(recipe, build(recipe, captions=captions))
        self.size, self.dev_size = len(self.train), len(self.dev)
        self.texts = [self.tokens(example.captions) for example in self.train]
        self.dev_texts = [self.tokens(example.captions[:1]) for example in self.dev]
        processor, augment = self.subject.processor, Augment(**recipe.augment.model_dump())
        changed = augment if augment != Augment() else None
        self.pictures = Pictures(self.train, processor, augment=changed, seed=recipe.seed)
        self.dev_pictures = Pictures(self.dev, processor)

    def batch(self, chosen: Int[np.ndarray, " batch"], epoch: int) -> Batch:
        packed = self.pack([self._captions(epoch, int(place)) for place in chosen])
        assert self.pictures is not None
        return _batch(self.pictures.read(chosen, epoch), packed)

    def dev_batch(self, chosen: Int[np.ndarray, " batch"]) -> Batch:
        assert self.dev_pictures is not None
        packed = self.pack([self.dev_texts[place] for place in chosen])
        return _batch(self.dev_pictures.read(chosen, 0), packed)

    def _captions(self, epoch: int, place: int) -> list[list[int]]:
        """Tokens of the captions to learn, shuffled: the last may find no room in the row."""
        tokens, kind = self.texts[place], self.recipe.data.captions
        if kind == "longest":
            return [max(tokens, key=len)]
        rng = rng_for(self.recipe.seed, epoch, self.train[place].id)
        count = len(tokens) if kind == "all" else 1
        return [tokens[i] for i in rng.permutation(len(tokens))[:count]]

    def scores(self, texts: Sequence[str]) -> Scores:
        hypotheses = dict(zip((example.id for example in self.dev), texts, strict=True))
        references = {example.id: example.captions for example in self.dev}
        wanted = (*metrics.STANDARD_METRICS, metrics.Metric.wer)
        return metrics.score(hypotheses, references, metrics=wanted).corpus

    def rows(self, texts: Sequence[str]) -> list[SheetRow]:
        shown = [(self.dev[place], texts[place]) for place in self.spread()]
        return [_beside(each.captions, each.image, each.id, text) for each, text in shown]

    def with_model(self, model: nnx.Module) -> Captioner:
        subject: Captioner = self.subject
        assert isinstance(model, type(subject.model))
        return Captioner(model, subject.processor, subject.tokenizer, subject.generation)


class RewriteTask(WritingTask):
    """Texts to texts."""

    metric = "rougeL"

    def __init__(self, recipe: Recipe):
        self.train = opened(recipe, recipe.data.train, data.open_pairs)
        self.dev = opened(recipe, recipe.data.dev, data.open_pairs, recipe.evaluation.limit)
        super().__init__(recipe, build(recipe, captions=[pair.target for pair in self.train]))
        self.size, self.dev_size = len(self.train), len(self.dev)
        longest = min(recipe.data.max_source_tokens, self.subject.model.encoder.max_positions)

        def read(pairs: Sequence[Any]) -> list[list[int]]:
            texts = [pair.source for pair in pairs]
            return self.subject.source_tokenizer.encode_template(texts, max_length=longest)

        self.sources, self.dev_sources = read(self.train), read(self.dev)
        self.texts = self.tokens([pair.target for pair in self.train])
        self.dev_texts = self.tokens([pair.target for pair in self.dev])
        # One length for all, so that one program serves all.
        self.time = max(map(len, [*self.sources, *self.dev_sources]))

    def batch(self, chosen: Int[np.ndarray, " batch"], epoch: int) -> Batch:
        packed = self.pack([[self.texts[place]] for place in chosen])
        return _batch(self._text([self.sources[place] for place in chosen]), packed)

    def dev_batch(self, chosen: Int[np.ndarray, " batch"]) -> Batch:
        packed = self.pack([[self.dev_texts[place]] for place in chosen])
        return _batch(self._text([self.dev_sources[place] for place in chosen]), packed)

    def _text(self, sources: Sequence[Sequence[int]]) -> Text:
        tokens = np.zeros((len(sources), self.time), np.int32)
        mask = np.zeros(tokens.shape, bool)
        for row, source in enumerate(sources):
            tokens[row, : len(source)] = source
            mask[row, : len(source)] = True
        return Text(tokens, mask)

    def scores(self, texts: Sequence[str]) -> Scores:
        hypotheses = {str(place): text for place, text in enumerate(texts)}
        references = {str(place): [pair.target] for place, pair in enumerate(self.dev)}
        wanted = [metrics.Metric.rouge_score]
        return metrics.score(hypotheses, references, metrics=wanted).corpus

    def rows(self, texts: Sequence[str]) -> list[SheetRow]:
        shown = [(self.dev[place], texts[place]) for place in self.spread()]
        return [_beside([each.target], None, each.source[:200], text) for each, text in shown]

    def with_model(self, model: nnx.Module) -> TextGenerator:
        subject: TextGenerator = self.subject
        assert isinstance(model, type(subject.model))
        return TextGenerator(
            model, subject.tokenizer, subject.generation, source_tokenizer=subject.source_tokenizer
        )


class ClassifyTask(Task):
    """Pictures to labels."""

    metric = "accuracy"

    def __init__(self, recipe: Recipe):
        super().__init__(recipe)

        def read(path: Path, split: str | None) -> Sequence[Any]:
            return data.open_labelled(path, split=split, classes=recipe.data.classes)

        self.train = opened(recipe, recipe.data.train, read)
        self.dev = opened(recipe, recipe.data.dev, read, recipe.evaluation.limit)
        sources = [recipe.data.root / source.path for source in recipe.data.train]
        listed = [
            name for path in sources for name in data.class_names(path, classes=recipe.data.classes)
        ]
        there = {example.label for example in self.train}
        labels = [name for name in dict.fromkeys(listed) if name in there]
        if len(labels) < 2:
            raise RecipeError(f"data.train has one class only ({labels[0]}); give two or more")
        if unknown := {example.label for example in self.dev} - set(labels):
            raise RecipeError(f"data.dev has labels that data.train lacks: {sorted(unknown)}")
        self.subject: Classifier = build(recipe, labels=labels)
        self.number = {label: number for number, label in enumerate(self.subject.labels)}
        self.size = len(self.train)
        processor, augment = self.subject.processor, Augment(**recipe.augment.model_dump())
        changed = augment if augment != Augment() else None
        self.pictures = Pictures(self.train, processor, augment=changed, seed=recipe.seed)
        self.dev_pictures = Pictures(self.dev, processor)

    def batch(self, chosen: Int[np.ndarray, " batch"], epoch: int) -> LabelBatch:
        assert self.pictures is not None
        labels = np.array([self.number[self.train[place].label] for place in chosen], np.int32)
        return LabelBatch(self.pictures.read(chosen, epoch), labels)

    def score_names(self) -> list[str]:
        """What is measured of labels."""
        return ["accuracy", *(["top-5 accuracy"] if self.many else []), "loss"]

    @property
    def many(self) -> bool:
        """Whether the right label may be missing among the five likeliest."""
        return len(self.number) > 5

    def _logits(self, model: Any, given: Array) -> Float[Array, "batch labels"]:
        size = self.subject.processor.size
        return model.label(model.suffix(given.astype(jnp.float32), self.depth, size))

    def loss(self, model: Any, batch: LabelBatch) -> Losses:
        logits = self._logits(model, batch.given)[:, None]
        everywhere = jnp.ones((len(batch.labels), 1), bool)
        smoothing = self.recipe.optimizer.label_smoothing
        return token_losses(logits, batch.labels[:, None], everywhere, smoothing)

    def evaluate(self, model: Callable[[Parameters], nnx.Module]) -> Callable[..., Evaluation]:
        size = min(self.recipe.evaluation.batch_size, len(self.dev))
        logits = jax.jit(lambda parameters, given: self._logits(model(parameters), given))

        def run(parameters: Parameters) -> Evaluation:
            assert self.dev_pictures is not None
            found = []
            for first in range(0, len(self.dev), size):
                rows = np.arange(first, first + size) % len(self.dev)
                found.append(np.asarray(logits(parameters, self.dev_pictures.read(rows, 0))))
            all_logits = np.concatenate(found)[: len(self.dev)]
            truth = np.array([self.number[example.label] for example in self.dev])
            best = all_logits.argmax(-1)
            logprobs = jax.nn.log_softmax(jnp.asarray(all_logits))
            loss = -float(np.asarray(logprobs)[np.arange(len(truth)), truth].mean())
            said = [self.subject.labels[i] for i in best]
            scores = {"accuracy": float((best == truth).mean())}
            if self.many:
                scores["top-5 accuracy"] = float(top_k_accuracy(all_logits, truth, k=5))
            return Evaluation({**scores, "loss": loss}, said, self._rows(said))

        return run

    def _rows(self, said: Sequence[str]) -> list[SheetRow]:
        count = min(self.recipe.evaluation.samples, len(self.dev))
        rows = []
        for place in np.linspace(0, len(self.dev) - 1, count).astype(int):
            example = self.dev[place]
            right = said[place] == example.label
            title = example.id if right else f"{example.id}: is {example.label}"
            rows.append(SheetRow(example.image, title, said[place], None))
        return rows

    def with_model(self, model: nnx.Module) -> Classifier:
        return Classifier(model, self.subject.processor)


TASKS: Mapping[str, type[Any]] = {
    "caption": CaptionTask,
    "rewrite": RewriteTask,
    "classify": ClassifyTask,
}


def make_task(recipe: Recipe) -> Any:
    """The recipe's task, its data read and its model built."""
    return TASKS[recipe.task](recipe)


def opened(
    recipe: Recipe,
    sources: Sequence[Source],
    read: Callable[..., Sequence[Any]],
    limit: int | None = None,
) -> list[Any]:
    """The examples of all sources, of each the rows that it says, and the first `limit` of all."""
    parts = [
        source.take(read(recipe.data.root / source.path, split=source.split)) for source in sources
    ]
    found = data.mix(*parts) if recipe.task == "caption" else [x for part in parts for x in part]
    for source, part in zip(sources, parts, strict=True):
        if not part:
            raise RecipeError(f"data: {source.path} has no examples in rows {source.rows}")
    return found[:limit]


def _origin(example: Any) -> Any:
    """What tells an example from others: its picture's file, or all of it."""
    image = getattr(example, "image", None) if not isinstance(example, StoredExample) else None
    return image if isinstance(image, Path) else example


def _beside(references: Sequence[str], image: Any, title: str, text: str) -> SheetRow:
    """A card of what was said, and what people said."""
    others = tuple((reference, None) for reference in references)
    return SheetRow(image, title, text, None, others, others="References", unfolded=True)


def _batch(given: Any, packed: PackedCaptions) -> Batch:
    return Batch(
        given=given,
        inputs=packed.inputs,
        targets=packed.targets,
        positions=packed.positions,
        segments=packed.segments,
    )
