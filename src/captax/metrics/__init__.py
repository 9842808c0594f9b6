"""The field's caption metrics, as the COCO caption evaluation computes them."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np

from captax.errors import CaptaxError, quoted
from captax.metrics.bleu import bleu_scores, bleu_statistics
from captax.metrics.chair import chair
from captax.metrics.cider import CiderD, DocumentFrequencies, TfIdf, cider
from captax.metrics.diversity import (
    distinct_n,
    mbleu_scores,
    mbleu_statistics,
    novel_share,
    vocabulary_size,
)
from captax.metrics.meteor import MeteorUnavailableError, meteor_available
from captax.metrics.meteor import meteor as compute_meteor
from captax.metrics.ngrams import CaptionNgrams, in_common
from captax.metrics.ptb import ptb_tokenize
from captax.metrics.rouge import rouge_l
from captax.metrics.rouge_score import rouge_score
from captax.metrics.significance import (
    Comparison,
    Interval,
    Statistics,
    bootstrap,
    compare,
    mean_statistics,
)
from captax.metrics.spice import SpiceUnavailableError, find_spice, spice, spice_available
from captax.metrics.word_error import Errors, character_errors, word_errors

__all__ = [
    "COUNTS",
    "LOWER_IS_BETTER",
    "STANDARD_METRICS",
    "CiderD",
    "Comparison",
    "DocumentFrequencies",
    "Interval",
    "MeteorUnavailableError",
    "Metric",
    "Scores",
    "SpiceUnavailableError",
    "bootstrap",
    "compare",
    "document_frequencies_of",
    "meteor_available",
    "ptb_tokenize",
    "score",
    "spice_available",
]


class Metric(StrEnum):
    """The metrics that `score` can compute.

    `bleu` gives BLEU-1 to BLEU-4, `mbleu` gives mBLEU-1 to mBLEU-4, `rouge-score` gives rouge1,
    rouge2 and rougeL, and `chair` gives CHAIRs and CHAIRi. `diversity` needs no references: it
    gives distinct-1, distinct-2, the size of the vocabulary and, where training captions are given,
    the share of novel captions.
    """

    bleu = "bleu"
    rouge_l = "rouge-l"
    cider_d = "cider-d"
    cider = "cider"
    meteor = "meteor"
    spice = "spice"
    wer = "wer"
    cer = "cer"
    rouge_score = "rouge-score"
    chair = "chair"
    diversity = "diversity"
    mbleu = "mbleu"


STANDARD_METRICS = (Metric.bleu, Metric.rouge_l, Metric.cider_d)
"""The metrics that `score` computes by default: those that papers report and that need no Java."""

_BLEU = tuple(f"BLEU-{order}" for order in range(1, 5))
_MBLEU = tuple(f"m{name}" for name in _BLEU)

LOWER_IS_BETTER = frozenset({"WER", "CER", "CHAIRs", "CHAIRi", *_MBLEU})
"""The metrics, by their names in `Scores`, for which a lower value is better."""

COUNTS = frozenset({"vocabulary"})
"""The metrics, by their names in `Scores`, whose values are counts and not shares."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """The values that `score` computed.

    Values are on the scale of the COCO caption evaluation: up to 1, and up to 10 for CIDEr-D and
    CIDEr. For BLEU, mBLEU, METEOR, WER, CER and CHAIRi, the value of the corpus is computed from
    all images at once. Diversity has a value for the corpus only. For all other metrics, the value
    of the corpus is the mean over the images.

    Attributes:
        corpus: metric -> value for the whole corpus.
        per_image: image id -> metric -> value.
        statistics: the input of `bootstrap` and `compare`. METEOR has none, because its program
            does not give them, and diversity has none, because repeated images would lower it.
    """

    corpus: dict[str, float]
    per_image: dict[str, dict[str, float]]
    statistics: tuple[Statistics, ...] = dataclasses.field(default=(), compare=False, repr=False)

    def adding(self, statistics: Statistics) -> "Scores":
        """These scores and the metrics of `statistics`, whose rows are the same images in order."""
        pairs = zip(self.per_image.items(), statistics.per_image(), strict=True)
        return Scores(
            self.corpus | statistics.corpus(),
            {image: values | more for (image, values), more in pairs},
            (*self.statistics, statistics),
        )


def score(
    hypotheses: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    metrics: Iterable[Metric | str] = STANDARD_METRICS,
    document_frequencies: DocumentFrequencies | None = None,
    training_captions: Iterable[str] | None = None,
    objects: Mapping[str, Collection[str]] | None = None,
    all_hypotheses: Mapping[str, Sequence[str]] | None = None,
) -> Scores:
    """Score one hypothesis for each image against its reference captions.

    The values are equal to those of https://github.com/tylin/coco-caption for the same captions.
    WER and CER are equal to those of jiwer on PTB tokens; where an image has several references,
    the one with the lowest rate counts. `rouge-score` is equal to the F-measure of the package
    rouge_score without stemming.

    Args:
        hypotheses: image id -> one raw caption, which may be empty.
        references: image id -> one or more raw captions.
        metrics: the metrics to compute.
        document_frequencies: for CIDEr-D and CIDEr. By default they are counted in `references`;
            then the scores of a single image are 0.
        training_captions: raw captions; diversity then also gives the share of hypotheses that
            are not among them.
        objects: for CHAIR: image id -> the names of COCO's objects in the image.
        all_hypotheses: for mBLEU: image id -> two or more raw captions.

    Raises:
        CaptaxError: the ids differ, an image has no reference, there is no image, a metric is not
            known, or an input that a metric needs is not given.
        MeteorUnavailableError: METEOR is asked for, and Java or its program is missing.
        SpiceUnavailableError: SPICE is asked for, and Java 8 or its programs are missing.
    """
    wanted = {_metric(name) for name in metrics}
    _check(hypotheses, references)
    if Metric.spice in wanted:
        find_spice()  # raises before METEOR takes minutes
    ours = {image: ptb_tokenize(text) for image, text in hypotheses.items()}
    theirs = {image: [ptb_tokenize(text) for text in references[image]] for image in hypotheses}
    both = [(tokens, theirs[image]) for image, tokens in ours.items()]

    found = Scores({}, {image: {} for image in hypotheses})
    if wanted & {Metric.bleu, Metric.cider, Metric.cider_d}:
        # The evaluation's BLEU and CIDEr-D also split at the no-break space of "1\xa01/2".
        counts = CaptionNgrams([[_words(tokens)] for tokens, _ in both])
        others = CaptionNgrams([[_words(tokens) for tokens in captions] for _, captions in both])
        places = np.arange(len(both))
        common = in_common(counts, others, places)
    if Metric.bleu in wanted:
        rows = bleu_statistics(counts, others, common)
        found = found.adding(Statistics(_BLEU, rows, bleu_scores))
    if Metric.meteor in wanted:
        corpus, images = compute_meteor(ours, theirs)
        for values, value in zip(found.per_image.values(), images.tolist(), strict=True):
            values["METEOR"] = value
        found.corpus["METEOR"] = corpus
    if Metric.rouge_l in wanted:
        images = np.array([rouge_l(*pair) for pair in both])
        found = found.adding(mean_statistics("ROUGE-L", images))
    if wanted & {Metric.cider, Metric.cider_d}:
        frequencies = document_frequencies or DocumentFrequencies.of(others)
        vectors = TfIdf(counts, frequencies), TfIdf(others, frequencies)
        for metric, name in ((Metric.cider_d, "CIDEr-D"), (Metric.cider, "CIDEr")):
            if metric in wanted:
                images = cider(*vectors, common, places, clipped=metric is Metric.cider_d)
                found = found.adding(mean_statistics(name, images))
    if Metric.spice in wanted:
        found = found.adding(mean_statistics("SPICE", spice(ours, theirs)[1]))
    if Metric.wer in wanted:
        found = found.adding(_errors("WER", [word_errors(*pair) for pair in both]))
    if Metric.cer in wanted:
        texts = [(" ".join(one), [" ".join(other) for other in others]) for one, others in both]
        found = found.adding(_errors("CER", [character_errors(*pair) for pair in texts]))
    if Metric.rouge_score in wanted:
        each = [rouge_score(hypotheses[image], references[image]) for image in hypotheses]
        for name, key in (("rouge1", "ROUGE-1"), ("rouge2", "ROUGE-2"), ("rougeL", "ROUGE-L")):
            images = np.array([scores[key].f for scores in each])
            found = found.adding(mean_statistics(name, images))
    if Metric.chair in wanted:
        if objects is None:
            raise CaptaxError(
                "CHAIR needs the objects that are in the pictures: give `objects`, or use "
                "`captax score --objects FILE`"
            )
        seen = chair(ours, objects, theirs)
        pairs = [(len(seen.hallucinated[image]), len(seen.mentioned[image])) for image in ours]
        images = np.array([float(hallucinated > 0) for hallucinated, _ in pairs])
        found = found.adding(mean_statistics("CHAIRs", images))
        found = found.adding(_rate("CHAIRi", pairs))
    if Metric.diversity in wanted:
        found.corpus["distinct-1"] = distinct_n(ours.values(), 1)
        found.corpus["distinct-2"] = distinct_n(ours.values(), 2)
        found.corpus["vocabulary"] = float(vocabulary_size(ours.values()))
        if training_captions is not None:
            known = map(ptb_tokenize, training_captions)
            found.corpus["novel"] = novel_share(ours.values(), known)
    if Metric.mbleu in wanted:
        if all_hypotheses is None:
            raise CaptaxError(
                "mBLEU needs several captions of each image: give `all_hypotheses`, or give "
                "`captax score` a file that has several"
            )
        tokens = {
            image: [_words(ptb_tokenize(text)) for text in all_hypotheses.get(image, ())]
            for image in hypotheses
        }
        found = found.adding(Statistics(_MBLEU, mbleu_statistics(tokens), mbleu_scores))
    return found


def _errors(name: str, errors: Sequence[Errors]) -> Statistics:
    return _rate(name, [(each.edits, each.length) for each in errors])


def _rate(name: str, parts_of: Sequence[tuple[int, int]]) -> Statistics:
    """The statistics of a rate: for each image, its numerator and its denominator."""
    rows = np.array(parts_of)
    return Statistics((name,), rows, lambda sums: sums[..., :1] / np.maximum(1, sums[..., 1:]))


def document_frequencies_of(references: Mapping[str, Sequence[str]]) -> DocumentFrequencies:
    """Count document frequencies in references, to score other images with them.

    Args:
        references: image id -> raw captions.

    Raises:
        CaptaxError: there is no image.
    """
    if not references:
        raise CaptaxError("document frequencies need references: give at least one image")
    return DocumentFrequencies.of(
        CaptionNgrams([[_words(ptb_tokenize(text)) for text in t] for t in references.values()])
    )


def _metric(name: Metric | str) -> Metric:
    try:
        return Metric(name)
    except ValueError:
        raise CaptaxError(f"no metric {quoted(name)}; use one of {', '.join(Metric)}") from None


def _words(tokens: Sequence[str]) -> list[str]:
    return " ".join(tokens).split()


def _check(hypotheses: Any, references: Any) -> None:
    for name, given in (("hypotheses", hypotheses), ("references", references)):
        if not isinstance(given, Mapping):
            raise CaptaxError(
                f"{name} must be a mapping from image ids, and are of type {type(given).__name__}; "
                f"for a list, give dict(enumerate({name}))"
            )
    if not hypotheses:
        raise CaptaxError("there is no hypothesis to score: give at least one caption")
    for image, text in hypotheses.items():
        if not isinstance(text, str):
            raise CaptaxError(
                f"image {quoted(image)}: the hypothesis must be a text, and is of type "
                f"{type(text).__name__}"
            )
        if image not in references:
            raise CaptaxError(
                f"image {quoted(image)} has a hypothesis but no references: add them or remove "
                "the image"
            )
        if isinstance(references[image], str):
            raise CaptaxError(
                f"image {quoted(image)}: references must be a list of captions, not a text"
            )
        if not references[image]:
            raise CaptaxError(
                f"image {quoted(image)} has an empty list of references: give at least one"
            )
        if not all(isinstance(each, str) for each in references[image]):
            raise CaptaxError(f"image {quoted(image)}: each reference must be a text")
    for image in references:
        if image not in hypotheses:
            raise CaptaxError(
                f"image {quoted(image)} has references but no hypothesis: add one or remove the "
                "image"
            )
