"""`captax score`: captions in files against their references."""

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from captax.metrics import Comparison, DocumentFrequencies, Interval, Scores
    from captax.metrics.align import Aligned
    from captax.metrics.caption_files import CaptionFile

_OUTPUT = "Output"

Metrics = Annotated[
    str,
    typer.Option(
        help="Of bleu, rouge-l, cider-d, cider, meteor, spice, wer, cer, rouge-score, chair, "
        "diversity, mbleu."
    ),
]
STANDARD = "bleu,rouge-l,cider-d"


def names(metrics: str) -> list[str]:
    """The metrics that an option names."""
    return [name.strip() for name in metrics.split(",")]


def score(
    hypotheses: Annotated[Path, typer.Argument(help="Captions, one a picture, to be scored.")],
    references: Annotated[
        list[Path], typer.Argument(help="What people wrote: a file, several, or a dataset.")
    ],
    metrics: Metrics = STANDARD,
    against: Annotated[
        Path | None, typer.Option(help="Captions of another system: compare with them.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Of a dataset or Karpathy's JSON: train, dev or test.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out pictures without a hypothesis.")
    ] = False,
    document_frequencies: Annotated[
        Path | None,
        typer.Option(
            help="For CIDEr: references to count n-grams in, or what was written of them."
        ),
    ] = None,
    write_document_frequencies: Annotated[
        Path | None, typer.Option(help="Write those that were used here, as JSON.")
    ] = None,
    training: Annotated[
        Path | None, typer.Option(help="Training captions: add diversity, with the share of novel.")
    ] = None,
    objects: Annotated[
        Path | None,
        typer.Option(help="COCO's instances, or names by picture: add CHAIR."),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            help="CLIP's checkpoint directory or hub name: add CLIPScore, of the pictures."
        ),
    ] = None,
    json_out: Annotated[
        Path | None,
        typer.Option("--json", help="All values as JSON.", rich_help_panel=_OUTPUT),
    ] = None,
    csv_out: Annotated[
        Path | None,
        typer.Option("--csv", help="A row a picture.", rich_help_panel=_OUTPUT),
    ] = None,
    worst: Annotated[
        int, typer.Option(min=0, help="So many worst captions as a page.", rich_help_panel=_OUTPUT)
    ] = 0,
    by: Annotated[
        str | None,
        typer.Option(help="Worst by this; default: CIDEr-D.", rich_help_panel=_OUTPUT),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="The folder of the pictures, for --worst and --clip."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page.", rich_help_panel=_OUTPUT)] = Path(
        "worst.html"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Of the samples for intervals and p.")] = 0,
) -> None:
    """Score captions and print the field's metrics (x 100) with 95% confidence intervals.

    Files are recognised by their content: COCO's results and annotations, Karpathy's JSON, JSON
    lines, CSV, Flickr8k.token.txt, or plain text, line for line.
    """
    from captax import metrics as library
    from captax.errors import CaptaxError
    from captax.metrics.align import align, merge
    from captax.metrics.caption_files import read_captions, read_objects
    from captax.worst import find_pictures, write_worst

    wanted = names(metrics)
    several = "mbleu" in wanted
    known = merge([_references(path, split) for path in references])

    def aligned(path: Path) -> "Aligned":
        captions = read_captions(path, alternatives=several)
        return align(captions, known, partial=partial, several=several)

    found = aligned(hypotheses)
    left_out = len(known.rows) - len(found.hypotheses)
    if left_out:
        print(f"captax: left out for want of a hypothesis: {left_out:,}", file=sys.stderr)
    frequencies = None
    if document_frequencies is not None:
        frequencies = _frequencies(document_frequencies)
    options: dict[str, Any] = {"document_frequencies": frequencies}
    if objects is not None:
        wanted.append("chair")
        options["objects"] = there = read_objects(objects)
        if unknown := [image for image in found.hypotheses if image not in there]:
            raise CaptaxError(f"{objects}: no objects of image {unknown[0]!r}; add them ([]: none)")
    if training is not None:
        wanted.append("diversity")
        rows = _training(training).rows.values()
        options["training_captions"] = [row.caption for captions in rows for row in captions]
    pictures = find_pictures(found.pictures, images) if worst or clip is not None else {}

    clip_scorer = None
    if clip is not None:
        from captax.clip_scoring import ClipScorer

        clip_scorer = ClipScorer(clip, found.references, pictures)

    def score(system: "Aligned") -> "Scores":
        said = system.hypotheses
        if several:
            options["all_hypotheses"] = system.all_hypotheses
        scores = library.score(said, found.references, metrics=wanted, **options)
        return scores if clip_scorer is None else clip_scorer.add(scores, said)

    scores = score(found)
    chosen = _worst_by(scores, by) if worst else ""
    intervals = library.bootstrap(scores.statistics, seed=seed)
    other, compared = None, {}
    if against is not None:
        theirs = aligned(against)
        systems = (hypotheses, found), (against, theirs)
        for (has, one), (lacks, another) in (systems, systems[::-1]):
            for image in one.hypotheses:
                if image not in another.hypotheses:
                    raise CaptaxError(
                        f"{lacks}: no caption of image {image!r}, which {has} has; add it"
                    )
        other = score(theirs)
        compared = library.compare(scores.statistics, other.statistics, seed=seed)

    for line in _table(scores, intervals, other, compared):
        print(line)
    print(f"pictures: {len(found.hypotheses):,}, {_count(found)}; values x 100")
    if write_document_frequencies is not None:
        frequencies = frequencies or library.document_frequencies_of(found.references)
        frequencies.write(write_document_frequencies)
    if json_out is not None:
        _write_json(json_out, found.hypotheses, scores, intervals, other, compared)
    if csv_out is not None:
        _write_csv(csv_out, found.hypotheses, scores)
    if worst:
        write_worst(
            out,
            scores,
            found.hypotheses,
            found.references,
            pictures,
            by=chosen,
            count=worst,
        )
        print(f"wrote {out}")


def _worst_by(scores: "Scores", by: str | None) -> str:
    """The metric of single images by which the worst are chosen."""
    from captax.errors import CaptaxError

    measured = {name.lower(): name for name in next(iter(scores.per_image.values()))}
    name = (by or ("CIDEr-D" if "cider-d" in measured else next(iter(measured), ""))).lower()
    if name not in measured:
        there = ", ".join(measured.values()) or "none"
        raise CaptaxError(f"no metric {by!r} of single images, only {there}; add it to --metrics")
    return measured[name]


def _count(found: "Aligned") -> str:
    captions, references = (
        sum(map(len, each.values())) for each in (found.all_hypotheses, found.references)
    )
    of = f"captions: {captions:,} (mBLEU is of all, the rest of the first), "
    return (of if captions > len(found.hypotheses) else "") + f"references: {references:,}"


def _references(path: Path, split: str | None) -> "CaptionFile":
    """A file's captions, or those of a dataset's directory."""
    from captax.metrics.caption_files import CaptionFile, Row, read_captions

    if not path.is_dir():
        return read_captions(path, split=split)

    from captax import data

    rows: dict[str, list[Row]] = {}
    for example in data.open(path, split=split):
        picture = str(example.image) if isinstance(example.image, Path) else None
        rows[example.id] = [Row(example.id, text, str(path), picture) for text in example.captions]
    return CaptionFile(str(path), rows)


def _training(path: Path) -> "CaptionFile":
    """What `_references` gives of the training split, or of all where there are no splits."""
    from captax.errors import CaptaxError

    try:
        return _references(path, "train")
    except CaptaxError:
        return _references(path, None)


def _frequencies(path: Path) -> "DocumentFrequencies":
    """Stored document frequencies, or those of a file or dataset of references."""
    from captax.metrics import DocumentFrequencies, document_frequencies_of

    if path.is_file():
        with path.open("rb") as file:
            if b'"frequencies"' in file.read(100):
                return DocumentFrequencies.read(path)
    rows = _references(path, None).rows
    return document_frequencies_of(
        {image: [row.caption for row in captions] for image, captions in rows.items()}
    )


def _table(
    scores: "Scores",
    intervals: "dict[str, Interval]",
    other: "Scores | None",
    compared: "dict[str, Comparison]",
) -> list[str]:
    from captax.metrics import COUNTS

    lines = [f"{'':12} {'score':>7}  {'95% interval':^16}"]
    if other is not None:
        lines[0] += f" {'against':>8} {'difference':>11} {'p':>7}"
    for name, value in scores.corpus.items():
        times, digits = (1, 0) if name in COUNTS else (100, 2)
        line = f"{name:12} {times * value:7.{digits}f}  "
        if name in intervals:
            interval = intervals[name]
            line += f"{100 * interval.low:7.2f} to {100 * interval.high:6.2f}"
        if other is not None:
            line = f"{line:37} {times * other.corpus[name]:9.{digits}f} "
            line += f"{times * (value - other.corpus[name]):+11.{digits}f}"
            line += f" {compared[name].p_value:7.4f}" if name in compared else ""
        lines.append(line.rstrip())
    return [line.rstrip() for line in lines]


def _write_json(
    path: Path,
    hypotheses: dict[str, str],
    scores: "Scores",
    intervals: "dict[str, Interval]",
    other: "Scores | None",
    compared: "dict[str, Comparison]",
) -> None:
    from captax.files import write_text

    content: dict[str, Any] = {
        "scores": scores.corpus,
        "intervals": {name: [each.low, each.high] for name, each in intervals.items()},
    }
    if other is not None:
        content["against"] = {
            "scores": other.corpus,
            "p_values": {name: each.p_value for name, each in compared.items()},
        }
    content |= {"captions": hypotheses, "per_image": scores.per_image}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _write_csv(path: Path, hypotheses: dict[str, str], scores: "Scores") -> None:
    from captax.files import replacing

    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "caption", *next(iter(scores.per_image.values()))])
        for image, values in scores.per_image.items():
            writer.writerow([image, hypotheses[image], *values.values()])
