"""Checks a dataset before a model is trained on it."""

import dataclasses
import os
import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from tokenizers import Regex, pre_tokenizers

from captax.data.batches import map_ahead
from captax.data.example import Example, SplitError, collecting_faults, refuse
from captax.data.faults import LONGEST_CAPTION, Kind, picture_fault, text_fault
from captax.data.folder import has_sidecars, texts_alone
from captax.data.huggingface import Rows, find_rows, only_labels
from captax.data.labelled import (
    Labelled,
    LabelledExample,
    is_labelled,
    read_labelled,
    read_labelled_rows,
    unlabelled,
)
from captax.data.sources import SIDECARS, UnknownLayout, recognise
from captax.data.splits import SPLIT_NAMES, split_name
from captax.images import ImageError, SheetRow, decode
from captax.progress import Progress
from captax.text.vocabulary import WORD

SPLITS = ("train", "dev", "test")
FREQUENT = 5  # the count from which recipes keep a word


@dataclasses.dataclass(frozen=True)
class Spread:
    """The minimum, median, 95th percentile and maximum of some values."""

    min: int
    median: int
    p95: int
    max: int


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """How many different words, in lower case: all, seen 5 times or more, seen once."""

    size: int
    frequent: int
    singletons: int


@dataclasses.dataclass(frozen=True)
class Report:
    """What `check` found. Lists name examples as `split/id`, or as `id` where that tells the split.

    Attributes:
        layout: what the dataset was recognised as.
        pictures: how many each split has.
        captions: how many each split has; empty for labelled pictures.
        classes: how many labelled pictures each split has of each class.
        faults: what is refused when the dataset is opened, such as repeated ids.
        unreadable: pictures that cannot be decoded, with the reason.
        leaks: pictures that are in more than one split, pixel for pixel, as groups of names.
        repeated: pictures that are in one split more than once, as groups of names.
        uncaptioned: pictures without a caption.
        empty: pictures with an empty caption.
        unpictured: captions beside no picture of their name.
        repeated_captions: pictures that have the same caption twice.
        shared_captions: how many captions belong to more than one picture.
        words: how many words a caption has.
        vocabulary: the words of all captions.
        sizes: the most common sizes (width, height, number of pictures), in falling order.
        size_count: how many different sizes there are.
        widths: the widths of readable pictures, in pixels.
        heights: the heights of readable pictures, in pixels.
    """

    layout: str
    pictures: dict[str, int]
    captions: dict[str, int]
    classes: dict[str, dict[str, int]]
    faults: list[str]
    unreadable: dict[str, str]
    leaks: list[list[str]]
    repeated: list[list[str]]
    uncaptioned: list[str]
    empty: list[str]
    unpictured: list[str]
    repeated_captions: list[str]
    shared_captions: int
    words: Spread | None
    vocabulary: Vocabulary | None
    sizes: list[tuple[int, int, int]]
    size_count: int
    widths: Spread | None
    heights: Spread | None

    @property
    def sound(self) -> bool:
        """Whether training can trust it: it opens, every picture is readable, nothing leaks."""
        refused = self.faults or self.uncaptioned or self.empty or self.unpictured
        return not (refused or self.unreadable or self.leaks)

    def to_json(self) -> dict[str, Any]:
        """All fields, and `sound`."""
        return {"sound": self.sound, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class _Looked:
    """An example, and the size and a digest of its picture or the error in reading it."""

    split: str
    example: Example | LabelledExample
    size: tuple[int, int] | None
    pixels: bytes
    error: str | None


_SAYS = {
    Kind.empty: "has an empty caption",
    Kind.uncaptioned: "has no caption",
    Kind.long: f"has a caption of more than {LONGEST_CAPTION:,} characters",
}


class Check:
    """The result of `check`: a `report` of the dataset, and a contact sheet of it."""

    def __init__(
        self,
        layout: str,
        pictures: dict[str, int],
        faults: list[str],
        looked: list[_Looked],
        outside: Mapping[str, str] = MappingProxyType({}),
        unpictured: Sequence[str] = (),
    ):
        """`outside` are unreadable pictures that belong to no split, with the reason."""
        self._looked = looked
        self._many = len(pictures) > 1
        report = self._report(layout, pictures, faults)
        self.report = dataclasses.replace(
            report,
            unreadable={**report.unreadable, **outside},
            unpictured=list(unpictured),
        )

    def sheet_rows(self, count: int, *, seed: int = 0) -> Iterator[SheetRow]:
        """Cards for `write_sheet`: first the faulty examples, then others drawn by `seed`.

        There are `count` in all, or as many as the dataset has.
        """
        leaking = {name for names in self.report.leaks for name in names}
        wrong: list[tuple[_Looked, str]] = []
        right: list[_Looked] = []
        for each in self._looked:
            name = self._name(each)
            error = each.error or ("is in another split too" if name in leaking else None)
            if error is None:
                kind = text_fault(each.example)
                error = None if kind is None else _SAYS[kind]
            if error is None:
                right.append(each)
            else:
                wrong.append((each, error))
        drawn = random.Random(seed).sample(right, min(len(right), max(0, count - len(wrong))))
        for each, error in wrong[:count]:
            yield self._row(each, error)
        for each in drawn:
            yield self._row(each, None)

    def _row(self, looked: _Looked, error: str | None) -> SheetRow:
        example = looked.example
        says = (
            example.label if isinstance(example, LabelledExample) else " · ".join(example.captions)
        )
        title = self._name(looked)
        try:
            return SheetRow(example.image, title, says, None, error=error)
        except ImageError:  # the file that it is stored in was removed
            return SheetRow(None, title, says, None, error=error)

    def _name(self, looked: _Looked) -> str:
        id = looked.example.id
        told = not self._many or SPLIT_NAMES.get(id.partition("/")[0]) == looked.split
        return id if told else f"{looked.split}/{id}"

    def _report(self, layout: str, pictures: dict[str, int], faults: list[str]) -> Report:
        examples = {self._name(each): each.example for each in self._looked}
        captions = {n: e.captions for n, e in examples.items() if isinstance(e, Example)}
        spoken = [text for texts in captions.values() for text in texts if text]
        words = [_words(text) for text in spoken]
        counts = Counter(word for each in words for word in each)
        sizes = Counter(each.size for each in self._looked if each.size is not None)
        leaks, repeated = self._same_pictures()
        of_each = defaultdict(set)
        for name, texts in captions.items():
            for text in set(texts):
                of_each[_plain(text)].add(name)
        classes: dict[str, Counter[str]] = {}
        spoken_in: Counter[str] = Counter()
        for each in self._looked:
            if isinstance(each.example, LabelledExample):
                classes.setdefault(each.split, Counter())[each.example.label] += 1
            else:
                spoken_in[each.split] += len(each.example.captions)
        return Report(
            layout=layout,
            pictures=pictures,
            captions=dict(spoken_in),
            classes={split: dict(sorted(found.items())) for split, found in classes.items()},
            faults=[
                *faults,
                *(f"{n} {_SAYS[Kind.long]}" for n, e in examples.items() if _is_long(e)),
            ],
            unreadable={self._name(e): e.error for e in self._looked if e.error is not None},
            leaks=leaks,
            repeated=repeated,
            uncaptioned=[n for n, e in examples.items() if text_fault(e) is Kind.uncaptioned],
            empty=[n for n, e in examples.items() if text_fault(e) is Kind.empty],
            unpictured=[],
            repeated_captions=[n for n, t in captions.items() if len(set(map(_plain, t))) < len(t)],
            shared_captions=sum(len(names) > 1 for text, names in of_each.items() if text),
            words=_spread([len(each) for each in words]),
            vocabulary=_vocabulary(counts) if words else None,
            sizes=[(width, height, n) for (width, height), n in sizes.most_common(5)],
            size_count=len(sizes),
            widths=_spread([width for (width, _), n in sizes.items() for _ in range(n)]),
            heights=_spread([height for (_, height), n in sizes.items() for _ in range(n)]),
        )

    def _same_pictures(self) -> tuple[list[list[str]], list[list[str]]]:
        """Groups of names with the same pixels: those across splits, and those within one."""
        same: dict[bytes, list[_Looked]] = defaultdict(list)
        for each in self._looked:
            if each.size is not None:
                same[each.pixels].append(each)
        groups = [group for group in same.values() if len(group) > 1]
        across = [len({each.split for each in group}) > 1 for group in groups]
        names = [[self._name(each) for each in group] for group in groups]
        leaks = [group for group, leaking in zip(names, across, strict=True) if leaking]
        return leaks, [group for group, leaking in zip(names, across, strict=True) if not leaking]


def check(path: str | Path, *, split: str | None = None, progress: bool = False) -> Check:
    """Open every split of a dataset of captions or labels, and decode every picture.

    Faults of single examples do not stop the check; they are listed in the report.

    Args:
        path: as `captax.data.open` or `open_labelled` takes it.
        split: check only this split; leaks between splits are then not found.
        progress: show progress on stderr, as `captax.progress` does.

    Raises:
        DataError: the path is not a dataset, a file cannot be read at all, or the split does not
            exist.
    """
    with collecting_faults(keep_empty=True) as faults:
        layout, splits = _splits(path, None if split is None else split_name(split))
    pairs = [(name, example) for name, examples in splits.items() for example in examples]
    if not pairs:
        raise SplitError(f"{path}: no pictures{f' in its {split} split' if split else ''}")
    pictures = {name: len(examples) for name, examples in splits.items()}
    outside, unpictured = {}, []
    root = find_rows(path)
    if isinstance(root, Path):
        if layout != SIDECARS and layout.startswith("folder with") and has_sidecars(root):
            layout += " (the text files beside its pictures are not read)"
        if layout == SIDECARS:
            unpictured = texts_alone(root)
        elif isinstance(pairs[0][1], LabelledExample) and is_labelled(root):
            with collecting_faults() as more:
                outside = _unlabelled(root)
            faults += more
    threads = os.cpu_count() or 1
    looked = map_ahead(lambda pair: _look(*pair), pairs, threads, 4 * threads)
    bar = Progress(len(pairs), unit="picture", shown=progress).over(looked)
    told = list(dict.fromkeys(fault.told for fault in faults))
    return Check(layout, pictures, told, list(bar), outside, unpictured)


def _unlabelled(root: Path) -> dict[str, str]:
    """Report the pictures of no class; return those that cannot be read, with the reason."""
    names = {path.relative_to(root).as_posix(): path for path in unlabelled(root)}
    refuse(names, root, "is in no folder of a class; move it into one, or write its caption")
    looked = {name: _look("", LabelledExample(name, path, "")) for name, path in names.items()}
    return {name: each.error for name, each in looked.items() if each.error is not None}


def _splits(
    path: str | Path, split: str | None
) -> tuple[str, Mapping[str, Sequence[Example | LabelledExample]]]:
    """The layout's name, and the examples of each split that the dataset has."""
    try:
        layout = recognise(path)
    except UnknownLayout:
        where = find_rows(path)
        if isinstance(where, Rows) or not is_labelled(where):
            raise
        return _labelled_splits(read_labelled(path), path, split)
    if layout.rows is not None and only_labels(layout.rows, split):
        return _labelled_splits(read_labelled_rows(layout.rows), path, split)
    if split is not None:
        return layout.name, {split: layout.read(split=split)}
    found: dict[str, list[Example]] = {}
    for name in SPLITS:
        try:
            found[name] = layout.read(split=name)
        except SplitError:
            continue  # not every dataset has all three
    return layout.name, found


def _labelled_splits(
    labelled: Labelled, path: str | Path, split: str | None
) -> tuple[str, dict[str, list[LabelledExample]]]:
    names = labelled.split_names if split is None else (split,)
    return labelled.layout, {name: labelled.part(name, path) for name in names}


def _look(split: str, example: Example | LabelledExample) -> _Looked:
    seen: list[tuple[tuple[int, int], bytes]] = []

    def look(image: Any) -> None:
        picture = decode(image)
        person = b"%dx%d" % picture.size
        digest = blake2b(picture.tobytes(), digest_size=16, person=person).digest()
        seen.append((picture.size, digest))

    if (fault := picture_fault(example, look)) is not None:
        return _Looked(split, example, None, b"", fault[1])
    return _Looked(split, example, *seen[0], None)


def _is_long(example: Example | LabelledExample) -> bool:
    return text_fault(example) is Kind.long


_SPLIT_WORDS = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)


def _plain(caption: str) -> str:
    """The caption as the word vocabulary reads it, without case, curly apostrophes and spaces."""
    lower = " ".join(caption.lower().replace("\u2019", "'").split())
    return unicodedata.normalize("NFC", lower)


def _words(caption: str) -> list[str]:
    return [word for word, _ in _SPLIT_WORDS.pre_tokenize_str(_plain(caption))]


def _vocabulary(counts: Mapping[str, int]) -> Vocabulary:
    frequent = sum(count >= FREQUENT for count in counts.values())
    return Vocabulary(len(counts), frequent, sum(count == 1 for count in counts.values()))


def _spread(values: Sequence[int]) -> Spread | None:
    if not values:
        return None
    levels = np.percentile(values, [0, 50, 95, 100], method="inverted_cdf")
    return Spread(*(int(level) for level in levels))
