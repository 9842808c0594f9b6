"""A model run on a dataset and measured: captions of pictures, texts from texts, and labels."""

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

from captax.data import Example, LabelledExample, Pair, batched
from captax.errors import CaptaxError
from captax.evaluation.labels import TOP, LabelEvaluation, measure_labels
from captax.images import ImageError
from captax.metrics import STANDARD_METRICS, Metric, Scores, score
from captax.models.encoder_decoder import EncoderDecoder
from captax.pipelines.captioner import Captioner
from captax.pipelines.classifier import Classifier
from captax.pipelines.text_generator import TextGenerator
from captax.progress import Progress

# The metrics of texts by default: those of summaries, and of translations.
TEXT_METRICS = (Metric.rouge_score, Metric.bleu)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate` for a model that writes.

    Attributes:
        scores: the scores of the captions, or texts.
        captions: example id -> caption, or text.
        pictures_per_second: the speed of captioning, or how many texts were read in a second.
    """

    scores: Scores
    captions: dict[str, str]
    pictures_per_second: float


@overload
def evaluate(
    model: Captioner,
    examples: Sequence[Example],
    *,
    batch_size: int = 32,
    metrics: Iterable[Metric | str] | None = None,
    progress: bool = False,
    **options: Any,
) -> Evaluation: ...


@overload
def evaluate(
    model: TextGenerator,
    examples: Sequence[Pair],
    *,
    batch_size: int = 32,
    metrics: Iterable[Metric | str] | None = None,
    progress: bool = False,
    **options: Any,
) -> Evaluation: ...


@overload
def evaluate(
    model: Classifier,
    examples: Sequence[LabelledExample],
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> LabelEvaluation: ...


def evaluate(
    model: Any,
    examples: Sequence[Any],
    *,
    batch_size: int = 32,
    metrics: Iterable[Metric | str] | None = None,
    progress: bool = False,
    **options: Any,
) -> Evaluation | LabelEvaluation:
    """Run a model on every example and measure what it says.

    Args:
        model: a captioner, a text generator that rewrites or answers texts, or a classifier.
        examples: pictures with reference captions, pairs of texts, or pictures with labels.
        batch_size: the number of examples in a batch.
        metrics: metrics of `captax.metrics.score` that need only hypotheses and references; by
            default `STANDARD_METRICS` for captions and `TEXT_METRICS` for texts.
        progress: whether to show progress on stderr, as `captax.progress` does.
        options: the options of `Captioner.caption` or `TextGenerator.generate`.

    Raises:
        CaptaxError: there is no example, an example has no caption or a label that the model does
            not have, a metric is not known, or an input that a metric needs is missing.
        ImageError: a picture cannot be read. It is not skipped, because scores over different
            pictures cannot be compared.
    """
    if not examples:
        raise CaptaxError("there is nothing to measure a model on; give at least one example")
    if isinstance(model, Classifier):
        if metrics is not None or options:
            raise CaptaxError("metrics and options are for models that write; leave them out")
        return _labels(model, examples, batch_size, progress)
    if isinstance(model, TextGenerator):
        references = {pair.id: [pair.target] for pair in examples}
        if not isinstance(model.model, EncoderDecoder) and model.prompt_format is None:
            raise CaptaxError(
                "a language model that only continues texts cannot be measured on pairs of them; "
                "give one that rewrites or answers texts"
            )
        said = _texts(model, examples, batch_size, options)
        wanted, unit = TEXT_METRICS if metrics is None else tuple(metrics), "text"
    else:
        references = {example.id: example.captions for example in examples}
        said = _captions(model, examples, batch_size, options)
        wanted, unit = STANDARD_METRICS if metrics is None else tuple(metrics), "picture"
    # Raise errors of the metrics, such as a missing Java, before captions are made.
    first = dict(itertools.islice(references.items(), 1))
    score(dict.fromkeys(first, ""), first, metrics=wanted)
    started = time.perf_counter()
    bar = Progress(len(examples), unit=unit, shown=progress, leave=True)
    written = dict(bar.over(said))
    captions = {example.id: written[example.id] for example in examples}
    seconds = time.perf_counter() - started
    scores = score(captions, references, metrics=wanted)
    return Evaluation(scores, captions, len(examples) / seconds)


def _captions(
    captioner: Captioner, examples: Sequence[Example], batch_size: int, options: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    stream = captioner.stream([e.image for e in examples], batch_size=batch_size, **options)
    for example, caption in zip(examples, stream, strict=True):
        if isinstance(caption, ImageError):
            raise caption
        yield example.id, caption.text


def _texts(
    generator: TextGenerator, pairs: Sequence[Pair], batch_size: int, options: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    seed = options.pop("seed", 0)
    seeds = range(seed, seed + len(pairs)) if isinstance(seed, int) else seed
    # Texts of similar length share a batch, so that it needs little padding.
    order = sorted(zip(pairs, seeds, strict=True), key=lambda seeded: len(seeded[0].source))
    for some in batched(order, batch_size):
        sources, own = [pair.source for pair, _ in some], [seed for _, seed in some]
        found = generator.generate(sources, seed=own, batch_size=batch_size, **options)
        yield from ((pair.id, each.text) for (pair, _), each in zip(some, found, strict=True))


def _labels(
    classifier: Classifier, examples: Sequence[LabelledExample], batch_size: int, progress: bool
) -> LabelEvaluation:
    labels = classifier.labels
    for example in examples:
        if example.label not in labels:
            raise CaptaxError(
                f"{example.id}: its label {example.label} is none of the model's; leave it out"
            )
    started = time.perf_counter()
    images = [example.image for example in examples]
    stream = classifier.stream(images, top=TOP, batch_size=batch_size)
    found = []
    for each in Progress(len(examples), unit="picture", shown=progress, leave=True).over(stream):
        if isinstance(each, ImageError):
            raise each
        found.append(each)
    return measure_labels(labels, examples, found, seconds=time.perf_counter() - started)
