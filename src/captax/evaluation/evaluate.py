"""Caption a dataset and score the captions."""

import dataclasses
import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Any

from captax.data import Example
from captax.images import ImageError
from captax.metrics import STANDARD_METRICS, Metric, Scores, score
from captax.pipelines.captioner import Captioner
from captax.progress import Progress


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        scores: the scores of the captions.
        captions: example id -> caption.
        pictures_per_second: the speed of captioning.
    """

    scores: Scores
    captions: dict[str, str]
    pictures_per_second: float


def evaluate(
    captioner: Captioner,
    examples: Sequence[Example],
    *,
    batch_size: int = 32,
    metrics: Iterable[Metric | str] = STANDARD_METRICS,
    progress: bool = False,
    **options: Any,
) -> Evaluation:
    """Caption every example's picture and score the captions against the example's captions.

    Args:
        captioner: writes the captions.
        examples: pictures with reference captions.
        batch_size: the number of pictures in a batch.
        metrics: metrics of `captax.metrics.score` that need only hypotheses and references.
        progress: whether to show progress on stderr, as `captax.progress` does.
        options: the options of `Captioner.caption`.

    Raises:
        CaptaxError: there is no example, an example has no caption, a metric is not known, or an
            input that a metric needs is missing.
        ImageError: a picture cannot be read. It is not skipped, because scores over different
            pictures cannot be compared.
    """
    metrics = tuple(metrics)
    references = {example.id: example.captions for example in examples}
    # Raise errors of the metrics, such as a missing Java, before captions are made.
    first = dict(itertools.islice(references.items(), 1))
    score(dict.fromkeys(first, ""), first, metrics=metrics)
    started = time.perf_counter()
    stream = captioner.stream([e.image for e in examples], batch_size=batch_size, **options)
    bar = Progress(len(examples), unit="picture", shown=progress, leave=True).over(stream)
    captions: dict[str, str] = {}
    for example, caption in zip(examples, bar, strict=True):
        if isinstance(caption, ImageError):
            raise caption
        captions[example.id] = caption.text
    seconds = time.perf_counter() - started
    scores = score(captions, references, metrics=metrics)
    return Evaluation(scores, captions, len(examples) / seconds)
