"""Caption a dataset and score the captions."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from captax import metrics
from captax.captioner import Captioner
from captax.data import Example
from captax.images import ImageError


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores, the captions that got them by example id, and pictures captioned a second."""

    scores: metrics.Scores
    captions: dict[str, str]
    pictures_per_second: float


def evaluate(
    captioner: Captioner,
    examples: Sequence[Example],
    *,
    batch_size: int = 32,
    meteor: bool = False,
    progress: bool = False,
    **options: Any,
) -> Evaluation:
    """Caption every example's picture and score the captions against its own.

    `options` are those of `Captioner.caption`. Raises `ImageError` for the first picture that
    cannot be read: a score over fewer pictures would be another score.
    """
    started = time.perf_counter()
    stream = captioner.stream([e.image for e in examples], batch_size=batch_size, **options)
    bar = tqdm(stream, total=len(examples), unit="picture", disable=not progress)
    captions: dict[str, str] = {}
    for example, caption in zip(examples, bar, strict=True):
        if isinstance(caption, ImageError):
            raise caption
        captions[example.id] = caption.text
    seconds = time.perf_counter() - started
    references = {example.id: example.captions for example in examples}
    scores = metrics.score(captions, references, meteor=meteor)
    return Evaluation(scores, captions, len(examples) / seconds)
