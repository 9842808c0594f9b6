"""Captions in files scored against their references, and compared with another system's."""

import csv
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from captax import data
from captax.errors import CaptaxError, quoted
from captax.evaluation.clip_scoring import ClipScorer
from captax.evaluation.worst import find_pictures, write_worst
from captax.files import Kind, csv_cell, open_regular, replacing, text_file, write_text
from captax.metrics import (
    COUNTS,
    Comparison,
    DocumentFrequencies,
    Interval,
    Scores,
    bootstrap,
    compare,
    document_frequencies_of,
    score,
)
from captax.metrics.align import Aligned, align, merge, without_other_splits
from captax.metrics.caption_files import CaptionFile, Row, read_captions, read_objects

_METRICS = (
    rb"m?BLEU-\d|ROUGE-L|CIDEr(?:-D)?|METEOR|SPICE|WER|CER|rouge[12L]|CHAIR[si]|(?:Ref)?CLIPScore"
)
# What `write_scores` and `Report.write_csv` write.
SCORES = Kind("file of scores", re.compile(rb'{\s*"generator": "captax",'), (".json",))
TABLE = Kind("table of scores", re.compile(rb"id,caption(?:,(?:%b))+\r?\n" % _METRICS), (".csv",))


def write_scores(path: Path, content: dict[str, Any], *, inside: Path | None = None) -> None:
    """Write scores as JSON that says whose it is. Raises `OutputError` if that is not possible.

    `inside` is that of `captax.files.replacing`.
    """
    told = {"generator": "captax", **content}
    write_text(path, json.dumps(told, indent=1, ensure_ascii=False) + "\n", inside=inside)


@dataclasses.dataclass(frozen=True)
class Report:
    """The scores of a file of captions.

    Attributes:
        captions: hypotheses and references, image by image.
        scores: values for the corpus and for each image.
        intervals: metric -> its 95% confidence interval, for metrics that have one.
        against: the scores of the other system, if there is one.
        comparisons: metric -> how the two systems differ, for metrics that can be compared.
        skipped: how many images have references but no hypothesis.
        other_splits: how many images have a hypothesis and are in other splits.
        pictures: image id -> its picture, where pictures were looked for.
        document_frequencies: what CIDEr used if it was given, else None.
    """

    captions: Aligned
    scores: Scores
    intervals: dict[str, Interval]
    against: Scores | None
    comparisons: dict[str, Comparison]
    skipped: int
    other_splits: int
    pictures: dict[str, Path]
    document_frequencies: DocumentFrequencies | None

    def lines(self) -> list[str]:
        """A table with a row for each metric, and a line of counts below it."""
        lines = [f"{'':12} {'score':>7}  {'95% interval':^16}"]
        if self.against is not None:
            lines[0] += f" {'against':>8} {'difference':>11} {'p':>7}"
        for name, value in self.scores.corpus.items():
            times, digits = (1, 0) if name in COUNTS else (100, 2)
            line = f"{name:12} {times * value:7.{digits}f}  "
            if name in self.intervals:
                interval = self.intervals[name]
                line += f"{100 * interval.low:7.2f} to {100 * interval.high:6.2f}"
            if self.against is not None:
                other = self.against.corpus[name]
                line = (
                    f"{line:37} {times * other:9.{digits}f} {times * (value - other):+11.{digits}f}"
                )
                if name in self.comparisons:
                    line += f" {self.comparisons[name].p_value:7.4f}"
            lines.append(line)
        return [*(line.rstrip() for line in lines), self._counts()]

    def _counts(self) -> str:
        captions, references = (
            sum(map(len, each.values()))
            for each in (self.captions.all_hypotheses, self.captions.references)
        )
        images = len(self.captions.hypotheses)
        several = f"captions: {captions:,} (mBLEU uses all, the other metrics the first), "
        return (
            f"pictures: {images:,}, {several if captions > images else ''}"
            f"references: {references:,}; values x 100"
        )

    def write_json(self, path: Path) -> None:
        """Write all values and captions as JSON. Raises `OutputError` if that is not possible."""
        content: dict[str, Any] = {
            "scores": self.scores.corpus,
            "intervals": {name: [each.low, each.high] for name, each in self.intervals.items()},
        }
        if self.against is not None:
            content["against"] = {
                "scores": self.against.corpus,
                "p_values": {name: each.p_value for name, each in self.comparisons.items()},
            }
        content |= {"captions": self.captions.hypotheses, "per_image": self.scores.per_image}
        write_scores(path, content)

    def write_csv(self, path: Path) -> None:
        """Write a row for each image; texts are as `csv_cell` writes them.

        Raises `OutputError` if that is not possible.
        """
        with replacing(path) as new, text_file(new, newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "caption", *next(iter(self.scores.per_image.values()))])
            for image, values in self.scores.per_image.items():
                texts = map(csv_cell, (image, self.captions.hypotheses[image]))
                writer.writerow([*texts, *values.values()])

    def write_worst(self, path: Path, count: int, by: str) -> None:
        """Write the `count` worst captions by a metric as a page: see `evaluation.worst`."""
        hypotheses, references = self.captions.hypotheses, self.captions.references
        write_worst(path, self.scores, hypotheses, references, self.pictures, by=by, count=count)

    def write_document_frequencies(self, path: Path) -> None:
        """Write the document frequencies that CIDEr used, as JSON."""
        used = self.document_frequencies or document_frequencies_of(self.captions.references)
        used.write(path)

    def metric(self, name: str | None) -> str:
        """The metric of single images with that name in any case; by default CIDEr-D.

        Raises:
            CaptaxError: no such metric was computed.
        """
        measured = {each.lower(): each for each in next(iter(self.scores.per_image.values()))}
        default = "cider-d" if "cider-d" in measured else next(iter(measured), "")
        key = (name or default).lower()
        if key not in measured:
            there = ", ".join(measured.values()) or "none"
            raise CaptaxError(
                f"no metric {quoted(name)} was computed for single images (computed: {there}); "
                "add it "
                "to --metrics"
            )
        return measured[key]


def score_files(
    hypotheses: Path,
    references: Sequence[Path],
    *,
    metrics: Sequence[str],
    against: Path | None = None,
    split: str | None = None,
    partial: bool = False,
    document_frequencies: Path | None = None,
    training: Path | None = None,
    objects: Path | None = None,
    clip: str | None = None,
    images: Path | None = None,
    find: bool = False,
    seed: int = 0,
) -> Report:
    """Score a file of captions against files, or a dataset, of references.

    Args:
        hypotheses: one caption for each image, or several for mBLEU.
        references: files, or directories of datasets, that hold references.
        metrics: names of `captax.metrics.Metric`.
        against: the captions of another system, for the same images.
        split: train, dev or test, where the references have splits; hypotheses of other splits
            are left out.
        partial: skip images that have references but no hypothesis; without it they are an error.
        document_frequencies: what CIDEr counts n-grams in, stored or as references.
        training: training captions; adds diversity with the share of novel captions.
        objects: the objects in each image; adds CHAIR.
        clip: a CLIP's checkpoint; adds CLIPScore.
        images: the folder of the pictures.
        find: look for the pictures also where no metric needs them.
        seed: for the samples behind intervals and p-values.

    Raises:
        CaptaxError: a file cannot be read, captions and references do not go together, or a metric
            lacks what it needs.
    """
    wanted = list(metrics)
    several = "mbleu" in wanted
    known = merge([_references(path, split) for path in references])

    @functools.cache
    def everything() -> CaptionFile:
        return merge([_references(path, None) for path in references])

    def aligned(path: Path) -> tuple[Aligned, int]:
        given = captions = read_captions(path, alternatives=several)
        if split is not None:
            captions = without_other_splits(given, known, everything)
        found = align(captions, known, partial=partial, several=several)
        return found, len(given.rows) - len(captions.rows)

    found, other_splits = aligned(hypotheses)
    options: dict[str, Any] = {}
    if document_frequencies is not None:
        options["document_frequencies"] = _frequencies(document_frequencies)
    if objects is not None:
        wanted.append("chair")
        options["objects"] = there = read_objects(objects)
        if unknown := [image for image in found.hypotheses if image not in there]:
            raise CaptaxError(
                f"{objects}: has no objects for image {quoted(unknown[0])}; add them, or [] for "
                "none"
            )
    if training is not None:
        wanted.append("diversity")
        rows = _training(training).rows.values()
        options["training_captions"] = [row.caption for captions in rows for row in captions]
    pictures = find_pictures(found.pictures, images) if find or clip is not None else {}
    scorer = None if clip is None else ClipScorer(clip, found.references, pictures)

    def scored(system: Aligned) -> Scores:
        scores = score(
            system.hypotheses,
            found.references,
            metrics=wanted,
            all_hypotheses=system.all_hypotheses if several else None,
            **options,
        )
        return scores if scorer is None else scorer.add(scores, system.hypotheses)

    scores = scored(found)
    other, comparisons = None, {}
    if against is not None:
        other = _against((hypotheses, found), (against, aligned(against)[0]), scored)
        comparisons = compare(scores.statistics, other.statistics, seed=seed)
    return Report(
        captions=found,
        scores=scores,
        intervals=bootstrap(scores.statistics, seed=seed),
        against=other,
        comparisons=comparisons,
        skipped=len(known.rows) - len(found.hypotheses),
        other_splits=other_splits,
        pictures=pictures,
        document_frequencies=options.get("document_frequencies"),
    )


def _against(
    ours: tuple[Path, Aligned], theirs: tuple[Path, Aligned], scored: Callable[[Aligned], Scores]
) -> Scores:
    """The scores of the other system, which must have captions of the same images."""
    for (has, one), (lacks, another) in ((ours, theirs), (theirs, ours)):
        for image in one.hypotheses:
            if image not in another.hypotheses:
                raise CaptaxError(
                    f"{lacks}: no caption of image {quoted(image)}, for which {has} has one; add it"
                )
    return scored(theirs[1])


def _references(path: Path, split: str | None) -> CaptionFile:
    """The captions of a file, or of a dataset's directory."""
    if not path.is_dir():
        return read_captions(path, split=split)
    rows: dict[str, list[Row]] = {}
    for example in data.open(path, split=split):
        picture = str(example.image) if isinstance(example.image, Path) else None
        rows[example.id] = [Row(example.id, text, str(path), picture) for text in example.captions]
    return CaptionFile(str(path), rows)


def _training(path: Path) -> CaptionFile:
    """What `_references` gives for the training split, or for all where there are no splits."""
    try:
        return _references(path, "train")
    except CaptaxError:
        return _references(path, None)


def _frequencies(path: Path) -> DocumentFrequencies:
    """Stored document frequencies, or those of a file or dataset of references."""
    if path.is_file():
        with open_regular(path) as file:
            if b'"frequencies"' in file.read(100):
                return DocumentFrequencies.read(path)
    rows = _references(path, None).rows
    return document_frequencies_of(
        {image: [row.caption for row in captions] for image, captions in rows.items()}
    )
