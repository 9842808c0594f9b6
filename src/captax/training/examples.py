"""The examples that a recipe names: read, looked through for faults, and some left out."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from captax import data
from captax.data.example import DataError, OnDemand, collecting_faults
from captax.data.faults import LONGEST_CAPTION, Fault, Kind, counted, picture_fault, text_fault
from captax.files import absent, is_file, own_file, parse_json, write_text
from captax.images import ImageError, decode, inspect
from captax.progress import Progress
from captax.training.folder import SKIPPED
from captax.training.recipe import Recipe, RecipeError, Source

SHOWN = 20  # how many faults are told one by one
# A minute of decoding on a small machine. Where a run decodes all pictures for its features
# anyway, more than these are not decoded twice.
MOST_DECODED = 20_000
_SMALL = (224, 224)  # JPEG is read whole, but decoded smaller, which is faster

Part = Literal["train", "dev"]


class BrokenData(DataError, ImageError):
    """Examples that cannot be trained on: `faults` are all of them, the message tells some."""

    def __init__(self, faults: Sequence[Fault]):
        self.faults = list(dict.fromkeys(faults))
        told = "; ".join(fault.told for fault in self.faults[:SHOWN])
        more = "; ..." if len(self.faults) > SHOWN else ""
        super().__init__(f"{self.counts}: {told}{more}. {self.remedy}")

    @property
    def counts(self) -> str:
        """How many faults there are of each kind."""
        return counted(self.faults)

    @property
    def remedy(self) -> str:
        """What to do."""
        if all(fault.kind.of_example for fault in self.faults):
            them = "it" if len(self.faults) == 1 else "them"
            do = f"Repair or remove {them}, or leave {them} out with --skip-broken"
        else:
            do = "Repair it" if len(self.faults) == 1 else "Repair them"
        return f"{do}; `captax data check` lists all that is wrong with a dataset"


@pydantic.dataclasses.dataclass(frozen=True)
class Skipped:
    """An example that is left out: its part, the number of its source there, its id, and why."""

    part: Part
    source: int
    id: str
    fault: str


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a recipe trains on and is evaluated on.

    Attributes:
        train: the training examples of all sources.
        parts: for each training source how many examples it has, and its weight.
        dev: the dev examples.
        skipped: what is left out of both.
    """

    train: list[Any]
    parts: list[tuple[int, float]]
    dev: list[Any]
    skipped: Sequence[Skipped] = ()

    def faults(self) -> list[Fault]:
        """What is wrong with their pictures, each of which is decoded."""
        return [fault for fault in _looked([*self.train, *self.dev], decoded) if fault is not None]


def present(image: Any) -> None:
    """Look whether a picture's file exists, and no more."""
    if isinstance(image, Path) and not is_file(image):
        link = absent(image).partition("; ")[2]
        why = f"does not exist ({link})" if link else "does not exist"
        raise ImageError(f"{image}: {why}; restore the picture or remove it from the list")


def decoded(image: Any) -> None:
    """Look at a picture by decoding it."""
    decode(image, at_least=_SMALL)


def thorough(recipe: Recipe, count: int) -> Callable[[Any], None]:
    """How a new run looks at its `count` pictures: by decoding them, or by their structure.

    Features that are kept are computed from all pictures, before the first step; a run with many
    pictures learns then what its files' structure does not show.
    """
    again = recipe.stages[0].views is not None
    return inspect if again and count > MOST_DECODED else decoded


@dataclasses.dataclass(frozen=True)
class _Found:
    """An example, and the part and the number of the source that it was read from."""

    part: Part
    source: int
    example: Any

    @property
    def place(self) -> tuple[Part, int, str]:
        return self.part, self.source, self.example.id


def open_examples(
    recipe: Recipe,
    *,
    look: Callable[[Any], None] | None = present,
    skip: bool = False,
    skipped: Sequence[Skipped] | None = None,
) -> Examples:
    """Read a recipe's data, and refuse what is wrong with it, all at once.

    Args:
        recipe: names the sources.
        look: how a picture is looked at, such as `present`; as `thorough` says if it is None.
        skip: leave out the examples that have a fault.
        skipped: what the run leaves out since it began; None for a run without `skip`.

    Raises:
        BrokenData: examples have faults, or a dataset cannot be read.
        RecipeError: a source has no examples.
    """
    faults: list[Fault] = []
    found = [
        *_read(recipe, "train", recipe.data.train, faults),
        *_read(recipe, "dev", recipe.data.dev, faults)[: recipe.evaluation.limit],
    ]
    gone = {(each.part, each.source, each.id) for each in skipped or ()}
    found = [each for each in found if each.place not in gone]
    look = look or thorough(recipe, len(found))
    looked = _looked([each.example for each in found], look)
    if skip or skipped is not None:
        faults = [fault for fault in faults if not fault.kind.of_example]
    if not skip:
        faults += [fault for fault in looked if fault is not None]
    if faults:
        raise BrokenData(faults)
    return _examples(recipe, list(zip(found, looked, strict=True)), skipped or ())


def _examples(
    recipe: Recipe, looked: Sequence[tuple[_Found, Fault | None]], skipped: Sequence[Skipped]
) -> Examples:
    """Those without a fault, source by source."""
    train: list[list[Any]] = [[] for _ in recipe.data.train]
    dev: list[list[Any]] = [[] for _ in recipe.data.dev]
    for each, fault in looked:
        if fault is None:
            (train if each.part == "train" else dev)[each.source].append(each.example)
    for source, examples in zip(recipe.data.train, train, strict=True):
        if not examples:
            raise RecipeError(f"data: all examples of {source.path} are left out; repair some")
    if not any(dev):
        raise RecipeError("data.dev: all its examples are left out; repair some")
    sizes = zip(recipe.data.train, train, strict=True)
    new = [Skipped(*each.place, fault.told) for each, fault in looked if fault is not None]
    return Examples(
        _joined(recipe, train),
        [(len(examples), source.weight) for source, examples in sizes],
        _joined(recipe, dev),
        (*skipped, *new),
    )


def _read(
    recipe: Recipe, part: Part, sources: Sequence[Source], faults: list[Fault]
) -> list[_Found]:
    """The examples in the rows of all sources; what is wrong with whole datasets joins `faults`."""
    found: list[_Found] = []
    for number, source in enumerate(sources):
        try:
            with collecting_faults() as noted:
                path = recipe.data.place(source)
                examples = _READERS[recipe.task](recipe, path, source.split)
        except DataError as error:
            faults.append(Fault(Kind.dataset, str(error)))
            continue
        finally:
            faults += noted
        if not (examples := data.take_rows(examples, source.rows)):
            raise RecipeError(
                f"data: {source.path} has no examples in rows {source.rows}; give other rows"
            )
        found += [_Found(part, number, example) for example in examples]
    return found


def _labelled(recipe: Recipe, path: str | Path, split: str | None) -> Sequence[Any]:
    return data.open_labelled(path, split=split, classes=recipe.data.classes)


_READERS: Mapping[str, Callable[[Recipe, str | Path, str | None], Sequence[Any]]] = {
    "caption": lambda _, path, split: data.open(path, split=split),
    "rewrite": lambda _, path, split: data.open_pairs(path, split=split),
    "classify": _labelled,
}


def _joined(recipe: Recipe, parts: Sequence[Sequence[Any]]) -> list[Any]:
    return data.mix(*parts) if recipe.task == "caption" else [x for part in parts for x in part]


def _looked(examples: Sequence[Any], look: Callable[[Any], None]) -> list[Fault | None]:
    """The fault of each example, if it has one."""

    def fault(example: Any) -> Fault | None:
        if (kind := text_fault(example)) is not None:
            return Fault(kind, f"{_name(example)}: {_SAYS[kind]}")
        if not hasattr(type(example), "image") and not hasattr(example, "image"):
            return None
        if look is present and isinstance(example, OnDemand):
            return None  # its picture would be read
        found = picture_fault(example, look)
        return None if found is None else Fault(found[0], f"{_name(example)}: {found[1]}")

    if look is present:
        return [fault(example) for example in examples]
    threads = os.cpu_count() or 1
    shown = Progress(len(examples), label="checking the data", unit="example")
    return list(shown.over(data.map_ahead(fault, examples, threads, 4 * threads)))


_SAYS = {
    Kind.uncaptioned: "has no caption; write one, or remove the picture",
    Kind.empty: "has an empty caption; write it or drop it",
    Kind.long: f"has a text of more than {LONGEST_CAPTION:,} characters; shorten it",
    Kind.blank: "has an empty text; write it or drop the row",
}


def _name(example: Any) -> str:
    """An example's name among those of all sources, as `mix` gives it."""
    source = example.source if isinstance(example, data.Example) else ""
    return f"{source}/{example.id}" if source else str(example.id)


def told_skipped(examples: Examples) -> list[str]:
    """Lines that say what was left out; none if nothing was."""
    if not examples.skipped:
        return []
    count = len(examples.skipped)
    of = count + len(examples.train) + len(examples.dev)
    lines = [f"skipped {count:,} of {of:,} examples, which are listed in {SKIPPED}:"]
    lines += [f"  {each.fault}" for each in examples.skipped[:SHOWN]]
    return [*lines, *([f"  and {count - SHOWN:,} more"] if count > SHOWN else [])]


def write_skipped(out: Path, skipped: Sequence[Skipped]) -> None:
    """Record in a run's folder what it leaves out, so that it does so again when it goes on."""
    listed = [dataclasses.asdict(each) for each in skipped]
    text = json.dumps({"skipped": listed}, indent=1, ensure_ascii=False)
    write_text(out / SKIPPED, text + "\n", own=True)


def read_skipped(out: Path) -> list[Skipped] | None:
    """What the run in a folder leaves out; None if it began without leaving out.

    Raises `RecipeError` if the record is not what `write_skipped` wrote.
    """
    path = out / SKIPPED
    try:
        with own_file(path, "rb") as file:
            listed = parse_json(file.read().decode())["skipped"]
        return pydantic.TypeAdapter(list[Skipped]).validate_python(listed)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError):
        raise RecipeError(
            f"{path}: does not say what the run leaves out; start another run with --skip-broken"
        ) from None
