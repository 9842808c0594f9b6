"""A comparison: what each captioner says of each picture, what it took, and how it is measured."""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pydantic

from captax.collection.record import Record, utf8
from captax.compare import words
from captax.compare.child import Measured
from captax.compare.contenders import Contender
from captax.compare.pictures import ComparedPicture
from captax.errors import CaptaxError, plural
from captax.evaluation.clip_scoring import ClipScorer
from captax.files import TABLE_LIMIT, Kind, make_folder, read_bytes, replacing, write_text
from captax.images import ImageError
from captax.images.sheet import JPEG, thumbnail
from captax.metrics import STANDARD_METRICS, Metric, Scores, bootstrap, score
from captax.metrics.diversity import vocabulary_size
from captax.progress import Progress

FILE = "comparison.json"
PAGE = "index.html"
THUMBNAILS = "thumbnails"
_GENERATOR = "captax: comparison"
COMPARISON = Kind(
    "comparison",
    re.compile(rb'\{\s*"generator":\s*"%b"' % _GENERATOR.encode()),
    (".json",),
)
COMPARISON_PAGE = Kind(
    "page of a comparison",
    re.compile(rb'.{,200}<meta name="generator" content="%b">' % _GENERATOR.encode(), re.DOTALL),
    (".html", ".htm"),
)
_THUMBNAIL = re.compile(r"[0-9a-f]{16}\.jpg")


@dataclasses.dataclass(frozen=True)
class Value:
    """A metric of all pictures, with the ends of its 95% interval if it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Statement:
    """What a captioner says of a picture, or why it says nothing.

    Attributes:
        caption: the caption.
        error: why there is none.
        only: words that no other captioner says.
        scores: the metrics of this caption.
    """

    caption: str | None = None
    error: str = ""
    only: list[str] = dataclasses.field(default_factory=list)
    scores: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Shown:
    """A picture with what is said of it, by the captioners in their order.

    `disagreement` is 1 minus the mean agreement of the captions; None if fewer than two have one.
    """

    name: str
    id: str
    thumbnail: str | None
    references: list[str]
    said: list[Statement]
    shared: list[str]
    disagreement: float | None


@dataclasses.dataclass(frozen=True)
class Compared:
    """A captioner and what is known of its captions without looking at pictures.

    Attributes:
        name: its name here.
        source: checkpoint, endpoint or file.
        told: where its captions come from, in words.
        captions: how many pictures have one.
        failed: how many have none.
        words: the mean number of words of a caption.
        shortest: the fewest.
        longest: the most.
        vocabulary: the number of different words in all captions.
        repeated: the share of captions that another picture has, too.
        most_repeated: the caption that most pictures have, if more than one has it.
        agreement: the mean agreement with each other captioner, by name.
        scores: metrics.
        measured: what captioning took, if that is known.
        cut: captions that CLIP reads only the beginning of.
    """

    name: str
    source: str
    told: str
    captions: int
    failed: int
    words: float
    shortest: int
    longest: int
    vocabulary: int
    repeated: float
    most_repeated: str
    agreement: dict[str, float]
    scores: dict[str, Value]
    measured: Measured | None
    cut: int = 0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Captioners on the same pictures.

    Attributes:
        generator: whose file it is.
        data: the folder of the pictures.
        captioners: who is compared.
        pictures: what they say.
        scored: how many pictures the scores are of: those of which all captioners have a caption.
        notes: what a reader must know of the numbers.
    """

    generator: str
    data: str
    captioners: list[Compared]
    pictures: list[Shown]
    scored: int
    notes: list[str]


_READER = pydantic.TypeAdapter(Comparison)


@dataclasses.dataclass(frozen=True)
class Measuring:
    """What is measured: metrics of references, and a CLIP for CLIPScore."""

    metrics: Sequence[Metric | str] = STANDARD_METRICS
    clip: str | None = None
    seed: int = 0


def compare(
    data: str,
    pictures: Sequence[ComparedPicture],
    said: Mapping[Contender, Mapping[str, Record]],
    measured: Mapping[str, Measured | None],
    thumbnails: Mapping[str, str],
    how: Measuring,
) -> Comparison:
    """Compare what was `said` of the pictures.

    Args:
        data: the folder of the pictures.
        pictures: the pictures.
        said: captioner -> name of each picture -> its record.
        measured: what captioning took, by names of captioners.
        thumbnails: names of pictures -> their small copies; others cannot be read.
        how: what is measured.

    Raises:
        CaptaxError: a metric cannot be computed.
    """
    contenders = list(said)
    texts = {
        each: {name: found.text for name, found in records.items() if not found.error}
        for each, records in said.items()
    }
    common = [
        picture
        for picture in pictures
        if all(picture.name in captions for captions in texts.values())
    ]
    notes: list[str] = []
    scores, cut = _scored(common, texts, thumbnails, how, notes)
    if scores and len(common) < len(pictures):
        notes.append(
            f"Scores are of the {plural(len(common), 'picture')} of {len(pictures):,} of which "
            "every captioner has a caption."
        )
    return Comparison(
        _GENERATOR,
        utf8(data),
        [
            _compared(each, texts, said[each], scores.get(each), measured.get(each.name), cut, how)
            for each in contenders
        ],
        [_shown(each, contenders, said, scores, thumbnails) for each in pictures],
        len(common) if scores else 0,
        notes,
    )


def _scored(
    common: Sequence[ComparedPicture],
    texts: Mapping[Contender, Mapping[str, str]],
    thumbnails: Mapping[str, str],
    how: Measuring,
    notes: list[str],
) -> tuple[dict[Contender, Scores], dict[Contender, int]]:
    """The scores of each captioner, and how many of its captions CLIP does not read whole."""
    references = {each.name: list(each.references) for each in common if each.references}
    found: dict[Contender, Scores] = {}
    if references:
        for contender, captions in texts.items():
            mine = {name: captions[name] for name in references}
            found[contender] = score(mine, references, metrics=how.metrics)
        if len(references) == 1 and any(
            n.startswith("CIDEr") for s in found.values() for n in s.corpus
        ):
            notes.append("CIDEr of a single picture is always 0; compare more pictures.")
    cut: dict[Contender, int] = {}
    # A picture that has references is scored by all metrics, and without any, CLIPScore is alone.
    seen = [p for p in common if p.name in thumbnails and (not references or p.name in references)]
    if how.clip is None or not seen:
        return found, cut
    if references and len(seen) < len(references):
        notes.append("CLIPScore is missing, because some of the pictures cannot be read.")
        return found, cut
    pictures = {each.name: each.item.source() for each in seen}
    scorer = ClipScorer(how.clip, {n: references.get(n, []) for n in pictures}, pictures)
    for contender, captions in texts.items():
        mine = {name: captions[name] for name in pictures}
        start = found.get(contender) or Scores({}, {name: {} for name in pictures})
        found[contender] = scorer.add(start, mine)
        cut[contender] = scorer.count_cut(list(mine.values()))
        if cut[contender]:
            notes.append(
                f"CLIPScore reads only the first {scorer.most_tokens} tokens of "
                f"{plural(cut[contender], 'caption')} of {contender.name}; what comes after them "
                "does not count."
            )
    return found, cut


def _compared(
    contender: Contender,
    texts: Mapping[Contender, Mapping[str, str]],
    records: Mapping[str, Record],
    scores: Scores | None,
    measured: Measured | None,
    cut: Mapping[Contender, int],
    how: Measuring,
) -> Compared:
    mine = texts[contender]
    lengths = [len(words.WORD.findall(caption)) for caption in mine.values()] or [0]
    times = Counter(mine.values())
    most, count = times.most_common(1)[0] if times else ("", 0)
    return Compared(
        contender.name,
        str(contender.source),
        contender.told(),
        captions=len(mine),
        failed=len(records) - len(mine),
        words=sum(lengths) / len(lengths),
        shortest=min(lengths),
        longest=max(lengths),
        vocabulary=vocabulary_size(
            [w.casefold() for w in words.WORD.findall(caption)] for caption in mine.values()
        ),
        repeated=sum(n for n in times.values() if n > 1) / max(1, len(mine)),
        most_repeated=most if count > 1 else "",
        agreement={
            other.name: _mean(
                words.agreement(caption, theirs[name])
                for name, caption in mine.items()
                if name in theirs
            )
            for other, theirs in texts.items()
            if other is not contender
        },
        scores={} if scores is None else _values(scores, how.seed),
        measured=measured,
        cut=cut.get(contender, 0),
    )


def _values(scores: Scores, seed: int) -> dict[str, Value]:
    intervals = bootstrap(scores.statistics, seed=seed)
    return {
        name: Value(value, intervals[name].low, intervals[name].high)
        if name in intervals
        else Value(value)
        for name, value in scores.corpus.items()
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def _shown(
    picture: ComparedPicture,
    contenders: Sequence[Contender],
    said: Mapping[Contender, Mapping[str, Record]],
    scores: Mapping[Contender, Scores],
    thumbnails: Mapping[str, str],
) -> Shown:
    records = [said[each][picture.name] for each in contenders]
    captions = [record.text for record in records if not record.error]
    only = iter(words.alone(captions))
    return Shown(
        utf8(picture.name),
        utf8(picture.id),
        thumbnails.get(picture.name),
        list(picture.references),
        [
            Statement(error=utf8(record.error))
            if record.error
            else Statement(
                record.text,
                only=next(only),
                scores=dict(scores[each].per_image.get(picture.name, {})) if each in scores else {},
            )
            for each, record in zip(contenders, records, strict=True)
        ],
        words.shared(captions) if len(captions) > 1 else [],
        words.disagreement(captions),
    )


def write_comparison(out: Path, comparison: Comparison) -> None:
    """Write it to the folder `out`. Raises `OutputError` if that is not possible."""
    text = _READER.dump_json(comparison, indent=1).decode()
    write_text(out / FILE, text + "\n", inside=out)


def read_comparison(out: Path) -> Comparison:
    """The comparison in a folder.

    Raises:
        CaptaxError: there is none, or it is damaged.
    """
    path = out / FILE
    try:
        found = _READER.validate_json(read_bytes(path, limit=TABLE_LIMIT))
    except FileNotFoundError:
        raise CaptaxError(
            f"{path}: no such file; give the folder that captax compare --out wrote"
        ) from None
    except OSError as error:
        raise CaptaxError(f"{path}: cannot be read ({error.strerror or error})") from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CaptaxError(
            f"{path}: is no comparison that this version of captax wrote ({where}: {first['msg']})"
        ) from None
    names = {each.name for each in found.captioners}
    whole = all(len(each.said) == len(found.captioners) for each in found.pictures)
    plain = all(not p.thumbnail or _THUMBNAIL.fullmatch(p.thumbnail) for p in found.pictures)
    if len(names) < 2 or len(names) < len(found.captioners) or not whole or not plain:
        raise CaptaxError(f"{path}: is damaged; run captax compare again")
    return found


def make_thumbnails(out: Path, pictures: Sequence[ComparedPicture]) -> dict[str, str]:
    """Write small copies of the pictures; those of an earlier run stay, and others of it go.

    Returns:
        Names of pictures -> names of the files; a picture that cannot be read has none.
    """
    folder = out / THUMBNAILS
    make_folder(folder, inside=out)
    found: dict[str, str] = {}
    bar = Progress(len(pictures), unit="picture", label="thumbnails")
    for picture in bar.over(pictures):
        try:
            source = picture.item.source()
            key = f"{picture.name}\0{_state(source)}".encode(errors="surrogateescape")
            name = f"{hashlib.sha256(key).hexdigest()[:16]}.jpg"
            if not (folder / name).is_file():
                small = thumbnail(source)
                with replacing(folder / name, inside=out, own=True) as file:
                    small.save(file, "JPEG", **JPEG)
        except ImageError:
            continue
        found[picture.name] = name
    kept = set(found.values())
    for path in folder.iterdir():
        if _THUMBNAIL.fullmatch(path.name) and path.name not in kept:
            path.unlink()
    return found


def _state(source: Path | bytes) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    try:
        status = source.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"
