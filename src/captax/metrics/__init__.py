"""The field's caption metrics, as the COCO caption evaluation computes them."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum

import numpy as np

from captax.errors import CaptaxError
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
    """What `score` can compute.

    `bleu` is BLEU-1 to BLEU-4, `mbleu` likewise, `rouge-score` is rouge1, rouge2 and rougeL, and
    `chair` CHAIRs and CHAIRi. `diversity`, which takes no references, is distinct-1, distinct-2,
    the vocabulary's size and, given training captions, the share of novel captions.
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
"""What `score` computes when not told otherwise: what the field reports that needs no Java."""

_BLEU = tuple(f"BLEU-{order}" for order in range(1, 5))
_MBLEU = tuple(f"m{name}" for name in _BLEU)

LOWER_IS_BETTER = frozenset({"WER", "CER", "CHAIRs", "CHAIRi", *_MBLEU})
"""The metrics, by their names in `Scores`, that count errors, or how alike captions are."""

COUNTS = frozenset({"vocabulary"})
"""The metrics, by their names in `Scores`, that are numbers of things, not shares."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """What `score` found: metric -> value for the corpus, and image id -> metric -> value.

    Values are as the COCO caption evaluation prints them: up to 1, and up to 10 for CIDEr-D and
    CIDEr. The corpus' BLEU, mBLEU, METEOR, WER, CER and CHAIRi are no means over the images;
    diversity is of the corpus alone; the others are means.

    `statistics` are what `bootstrap` and `compare` take, for all but METEOR, whose program keeps
    them to itself, and diversity, which repeated images would lower.
    """

    corpus: dict[str, float]
    per_image: dict[str, dict[str, float]]
    statistics: tuple[Statistics, ...] = dataclasses.field(default=(), compare=False, repr=False)

    def adding(self, statistics: Statistics) -> "Scores":
        """These and the metrics of `statistics`, whose rows are of the same images in order."""
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
    """Score one caption an image against its reference captions: image id -> raw text in both.

    Equal to https://github.com/tylin/coco-caption on the same captions; for WER and CER to jiwer on
    the PTB tokens, of several references that with the lowest rate; for `rouge-score` to the
    package rouge_score, its F-measure without stemming.

    Args:
        hypotheses: one caption an image; it may be empty.
        references: one or more captions of each.
        metrics: what to compute.
        document_frequencies: for CIDEr-D and CIDEr; by default those of these references, so that a
            single image's scores are 0.
        training_captions: raw captions; of those that are none of them, diversity gives the share.
        objects: for CHAIR, which of COCO's objects are in each image.
        all_hypotheses: for mBLEU, two or more captions of each image.

    Raises:
        CaptaxError: the ids differ, an image has no reference, there is no image, a metric is not
            known, or what it needs is not given.
        MeteorUnavailableError: METEOR is asked for and Java or its program is missing.
        SpiceUnavailableError: SPICE is asked for and Java 8 or its programs are missing.
    """
    wanted = {_metric(name) for name in metrics}
    _check(hypotheses, references)
    if Metric.spice in wanted:
        find_spice()  # or it would be missed only after METEOR has taken its minutes
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
                "CHAIR needs the objects that are in the pictures: give `objects`, or "
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
                "mBLEU needs several captions of each image: give `all_hypotheses`, or a file of "
                "them to `captax score`"
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
    """Those of a rate: of each image, a number and what it is divided by."""
    rows = np.array(parts_of)
    return Statistics((name,), rows, lambda sums: sums[..., :1] / np.maximum(1, sums[..., 1:]))


def document_frequencies_of(references: Mapping[str, Sequence[str]]) -> DocumentFrequencies:
    """Those of raw reference captions, to score other images with: image id -> texts.

    Raises:
        CaptaxError: there is no image.
    """
    if not references:
        raise CaptaxError("document frequencies are of references: give at least one image")
    return DocumentFrequencies.of(
        CaptionNgrams([[_words(ptb_tokenize(text)) for text in t] for t in references.values()])
    )


def _metric(name: Metric | str) -> Metric:
    try:
        return Metric(name)
    except ValueError:
        raise CaptaxError(f"no metric {name!r}; there are {', '.join(Metric)}") from None


def _words(tokens: Sequence[str]) -> list[str]:
    return " ".join(tokens).split()


def _check(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    if not hypotheses:
        raise CaptaxError("there is no hypothesis to score: give at least one image")
    for image in hypotheses:
        if image not in references:
            raise CaptaxError(
                f"image {image!r} has a hypothesis but no references: add them or leave it out"
            )
        if isinstance(references[image], str):
            raise CaptaxError(f"image {image!r}: references must be a list of captions, not a text")
        if not references[image]:
            raise CaptaxError(f"image {image!r} has an empty list of references: give at least one")
    for image in references:
        if image not in hypotheses:
            raise CaptaxError(
                f"image {image!r} has references but no hypothesis: caption it or leave it out"
            )
