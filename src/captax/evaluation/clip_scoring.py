"""CLIPScore, alone or added to the other metrics of a set of captions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from captax.data.example import Stored
from captax.errors import CaptaxError, quoted
from captax.metrics import Scores
from captax.metrics.clip_score import PROMPT, clip_score, ref_clip_score
from captax.metrics.significance import mean_statistics
from captax.models.clip import Clip
from captax.pipelines.loading import load
from captax.pipelines.matcher import Matcher


class ClipScorer:
    """Scores captions of the same pictures, which are embedded once.

    Args:
        model: the checkpoint directory or the name on the hub of a CLIP.
        references: image id -> its reference captions; if no image has any, there is no
            RefCLIPScore.
        pictures: image id -> its file, or what reads it.

    Raises:
        CaptaxError: the model is not a CLIP, or an image is not in `pictures`.
        ImageError: a picture cannot be read.
    """

    def __init__(
        self,
        model: str,
        references: Mapping[str, Sequence[str]],
        pictures: Mapping[str, Path | bytes | Stored],
    ) -> None:
        missing = [image for image in references if image not in pictures]
        if missing:
            others = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
            raise CaptaxError(
                f"CLIPScore needs pictures, but found none for image "
                f"{quoted(missing[0])}{others}; give "
                f"their folder with --images"
            )
        matcher = load(model)
        found = matcher.model if isinstance(matcher, Matcher) else matcher
        if not isinstance(found, Clip):
            raise CaptaxError(
                f"{model}: holds a {type(found).__name__}, but CLIPScore needs a CLIP"
            )
        self._matcher = matcher
        self._images = list(references)
        self._seen = matcher.embed_images([pictures[image] for image in references])
        told = self._embed([text for texts in references.values() for text in texts])
        ends = np.cumsum([len(texts) for texts in references.values()])
        self._told = np.split(told, ends[:-1])

    @property
    def most_tokens(self) -> int:
        """The tokens of the longest text that the CLIP reads whole, with its own two."""
        return self._matcher.model.text.max_positions

    def count_cut(self, captions: Sequence[str]) -> int:
        """How many captions, after the metric's prompt, are longer than that."""
        return sum(self._matcher.are_cut([PROMPT + caption for caption in captions]))

    def add(self, scores: Scores, hypotheses: Mapping[str, str]) -> Scores:
        """Add CLIPScore and RefCLIPScore to `scores`, which are the scores of `hypotheses`."""
        said = self._embed([hypotheses[image] for image in self._images])
        found = {"CLIPScore": clip_score(self._seen, said)}
        if any(map(len, self._told)):
            found["RefCLIPScore"] = ref_clip_score(self._seen, said, self._told)
        for name, values in found.items():
            scores = scores.adding(mean_statistics(name, values.astype(np.float64)))
        return scores

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        return self._matcher.embed_texts([PROMPT + text for text in texts])
