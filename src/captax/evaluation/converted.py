"""What a conversion changed: the captions of some pictures, and their log-probabilities."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captax.errors import CaptaxError, quoted
from captax.generation.result import Generated
from captax.images import ImageError
from captax.pipelines.captioner import Captioner
from captax.pipelines.loading import load

GREEDY: dict[str, Any] = {"num_beams": 1, "do_sample": False, "length_penalty": 1.0}
# Captions are not compared for speed: small batches need less memory beside large weights.
BATCH = 8


@dataclasses.dataclass(frozen=True)
class Change:
    """How many of the pictures' captions are the same, word for word, after a conversion.

    `score` is the mean change of the log-probability per token of the captions before it.
    """

    pictures: int
    same: int
    score: float


def captions_of(name: str, pictures: Sequence[Path], **loading: Any) -> list[Generated]:
    """Greedy captions by a checkpoint, in the type of its weights.

    Raises `ImageError` for a picture that cannot be read, and `CaptaxError` if it cannot caption.
    """
    return _captions(_captioner(name, **loading), pictures)


def change_since(before: Sequence[Generated], name: str, pictures: Sequence[Path]) -> Change:
    """How the captioner `name` differs from the one that gave these captions `before`."""
    captioner = _captioner(name)
    after = _captions(captioner, pictures)
    said = [each.text for each in before]
    scores = captioner.score(list(pictures), before, batch_size=BATCH, **GREEDY)
    change = sum(new - old.score for new, old in zip(scores, before, strict=True))
    same = sum(new.text == old for new, old in zip(after, said, strict=True))
    return Change(len(said), same, change / len(said))


def _captioner(name: str, **loading: Any) -> Captioner:
    loaded = load(name, dtype="auto", **loading)
    if not isinstance(loaded, Captioner):
        raise CaptaxError(
            f"{quoted(name)} is a {type(loaded).__name__}, which cannot caption; leave the "
            "pictures out"
        )
    return loaded


def _captions(captioner: Captioner, pictures: Sequence[Path]) -> list[Generated]:
    found: list[Generated] = []
    for each in captioner.stream(list(pictures), batch_size=BATCH, **GREEDY):
        if isinstance(each, ImageError):
            raise each
        found.append(each)
    return found
