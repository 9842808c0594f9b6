"""From pictures to records, batch by batch: the part of a job that one process does."""

import dataclasses
import re
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from captax.collection.copies import Fingerprints, fingerprint
from captax.collection.facts import TAGS, Facts, filled, names_in
from captax.collection.hints import Hints
from captax.collection.item import Item
from captax.collection.record import SAID, Record
from captax.data.batches import batched, map_ahead
from captax.errors import CaptaxError, OptionError
from captax.images import Group, ImageError
from captax.models.encoders import LengthError
from captax.pipelines.captioner import Caption, Captioner
from captax.pipelines.endpoint import EndpointCaptioner, Told
from captax.pipelines.streaming import Placed, pace
from captax.pipelines.tagger import Tagger
from captax.pipelines.vision_language import VisionLanguageCaptioner


@dataclasses.dataclass(frozen=True)
class PictureOptions:
    """What is asked of each picture, whatever is asked.

    Attributes:
        batch_size: pictures at a time.
        dedupe: pictures whose fingerprints differ in at most this many bits are looked at once.
    """

    done: ClassVar[str] = "captioned"  # the word for what was done with a picture

    batch_size: int = 32
    dedupe: int | None = None

    @property
    def several(self) -> int:
        """How many texts a picture gets."""
        return 1

    def arguments(self) -> dict[str, Any]:
        """What the pipeline's `stream_pixels` is called with, besides pictures and batch size."""
        raise NotImplementedError

    def asked(self, item: Item, source: Path | bytes) -> tuple[str | None, dict[str, str | None]]:
        """The prompt for one picture, if it is another than for all, and the facts that it tells.

        `source` is the picture's file or its bytes. May raise `ImageError`.
        """
        return None, {}

    def check(self, captioner: Any, prepared: Any, prompt: str | None) -> None:
        """Raise `OptionError` for what is wrong with one picture, which is not with all."""

    def said(self, found: Any) -> dict[str, Any] | None:
        """The fields of a record for what the pipeline found; None if it is nothing of its own."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """What texts depend on; it must stay the same when a job is resumed."""
        return {"dedupe": self.dedupe, **self.arguments()}


@dataclasses.dataclass(frozen=True)
class CaptionOptions(PictureOptions):
    """What is asked of a captioner.

    Attributes:
        prompt: what captions begin with.
        seed: random draws depend on it and on a picture's place in the collection.
        decoding: other options of `Captioner.stream`.
        hints: tags of each picture, which are put into the prompt, if there are any.
        facts: where the facts come from that the prompt tells of each picture, if it does.
        language: the code of the language that the prompt asks for, if it does.
    """

    prompt: str = ""
    seed: int = 0
    decoding: dict[str, Any] = dataclasses.field(default_factory=dict)
    hints: Hints | None = None
    facts: Facts | None = None
    language: str = ""

    @property
    def several(self) -> int:
        return self.decoding.get("num_return_sequences") or 1

    def arguments(self) -> dict[str, Any]:
        return {"prompt": self.prompt, "seed": self.seed, **self.decoding}

    def settings(self) -> dict[str, Any]:
        told = {} if self.hints is None else {"hints": str(self.hints.folder.absolute())}
        if self.facts is not None and self.facts.file is not None:
            told["facts"] = f"{self.facts.file.absolute()}, {self.facts.digest}"
        return {**super().settings(), **told}

    def asked(self, item: Item, source: Path | bytes) -> tuple[str | None, dict[str, str | None]]:
        if self.hints is None and self.facts is None:
            return None, {}
        prompt = self.prompt
        values: dict[str, str] = {}
        if self.facts is not None:
            values |= self.facts.values(item, source, names_in(prompt))
        if self.hints is not None:
            values[TAGS] = self.hints.tags(item)
            prompt = self.hints.prompt(prompt, values[TAGS])
        return filled(prompt, values)

    def check(self, captioner: Any, prepared: Any, prompt: str | None) -> None:
        # A prompt of the picture's own may be no text or too long, and a video's frames too many.
        frames = isinstance(prepared, Group)
        if not isinstance(captioner, VisionLanguageCaptioner) or (
            prompt is None and (not frames or self.decoding.get("raw"))
        ):
            return
        asked = captioner.asking(self.prompt if prompt is None else prompt)
        new = self.decoding.get("max_new_tokens") or captioner.generation.max_new_tokens or 1
        try:
            shown = captioner.arrangement(captioner.prepare(prepared))
            captioner.check_prompt(asked(shown), max(1, new - 1) if frames else 1)
        except LengthError as error:
            raise LengthError(
                f"{error}, or show fewer --frames" if frames else str(error)
            ) from None

    def said(self, found: Any) -> dict[str, Any] | None:
        if isinstance(found, Told):
            told = tuple((text, None) for text in found.texts)
            return {"captions": told, "removed": found.removed, "language": self.language}
        if not isinstance(found, Caption):
            return None
        captions = tuple((other.text, other.score) for other in found.alternatives)
        said = {
            name: getattr(found, name) for name in ("confidence", "regions", "looped", "removed")
        }
        return {"captions": captions, "language": self.language, **said}


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """A picture to caption, its place among all, and the other fields as in `Record`."""

    item: Item
    place: int
    target: str | None = None
    before: str = ""
    replaced: str = ""
    stamp: str = ""

    def error(self, reason: str) -> Record:
        """The record of a picture that has no caption."""
        return Record(self.item.name, error=reason, stamp=self.stamp, columns=self.item.columns)

    def record(self, fingerprint: int | None = None) -> Record:
        """The record of a picture that can be captioned, as yet without captions."""
        return Record(
            self.item.name,
            fingerprint=fingerprint,
            target=self.target,
            before=self.before,
            replaced=self.replaced,
            stamp=self.stamp,
            columns=self.item.columns,
        )


class Copies:
    """Finds copies, which look like an earlier picture, and keeps the captions of originals."""

    def __init__(self, distance: int):
        self._seen = Fingerprints(distance)
        self._originals: dict[str, Record] = {}

    def original(self, fingerprint: int, name: str) -> str | None:
        """The earlier picture that this one is a copy of.

        If it is not a copy, it is remembered and None is returned.
        """
        original = self._seen.like(fingerprint)
        if original is None:
            self._seen.add(fingerprint, name)
        return original

    def done(self, record: Record) -> None:
        """Remember a record that an earlier process of the job made."""
        if record.fingerprint is not None and not record.copy_of:
            self._seen.add(record.fingerprint, record.name)
            self.said(record)

    def forget(self, name: str) -> None:
        """Forget a picture that is not what it was."""
        self._seen.forget(name)
        self._originals.pop(name, None)

    def said(self, record: Record) -> None:
        """Remember the captions of an original."""
        self._originals[record.name] = record

    def told(self, copy: Record) -> Record:
        """The record of a copy, with what was said of its original, or why nothing was."""
        original = self._originals[copy.copy_of]
        if original.error:
            return dataclasses.replace(
                copy, copy_of="", fingerprint=None, error=original.error, target=None
            )
        said = {name: getattr(original, name) for name in SAID}
        return dataclasses.replace(copy, **said)


def caption_batches(
    captioner: Captioner | Tagger | EndpointCaptioner,
    wanted: Iterable[Wanted],
    options: PictureOptions,
    copies: Copies | None = None,
) -> Iterator[list[Record]]:
    """Records of the pictures, in order, in batches of `options.batch_size`.

    The model captions the pictures of a batch at once, except for errors and copies.
    """
    pipeline: Any = captioner
    # Records of the pictures that the captioner works on; their captions are added later.
    begun: deque[Record] = deque()

    def load(each: Wanted) -> tuple[Record, Placed | None]:
        try:
            source = each.item.source()
            picture = pipeline.read(source)
            # A video that looks like another for a moment is no copy of it.
            alike = copies is not None and isinstance(picture, Image.Image)
            look = fingerprint(picture) if alike else None
            prepared = pipeline.prepare(picture)
            prompt, facts = options.asked(each.item, source)
            options.check(pipeline, prepared, prompt)
        except (ImageError, OptionError) as error:
            return each.error(_reason(each.item, error)), None
        record = dataclasses.replace(each.record(look), facts=facts)
        return record, Placed(each.place, prepared, prompt)

    def ready() -> Iterator[Placed | Record]:
        """Pictures for the captioner, and between them the records of pictures without captions."""
        how = pace(options.batch_size, pipeline.at_once)
        for record, picture in map_ahead(load, wanted, how["threads"], how["ahead"]):
            original = None
            if copies is not None and record.fingerprint is not None:
                original = copies.original(record.fingerprint, record.name)
            if original is not None:
                yield dataclasses.replace(record, copy_of=original)
            elif picture is None:
                yield record
            else:
                begun.append(record)
                yield picture

    def ended(found: Any) -> Record:
        if (said := options.said(found)) is not None:
            record = dataclasses.replace(begun.popleft(), **said)
            if copies is not None:
                copies.said(record)
            return record
        if isinstance(found, ImageError):
            begin = begun.popleft()
            record = Record(begin.name, error=str(found), stamp=begin.stamp, columns=begin.columns)
            if copies is not None:
                copies.said(record)
            return record
        if copies is not None and found.copy_of:
            return copies.told(found)
        return found

    found: Iterator[Any] = captioner.stream_pixels(
        ready(), batch_size=options.batch_size, **options.arguments()
    )
    return batched(map(ended, found), options.batch_size)


def _reason(item: Item, error: CaptaxError) -> str:
    """Why a picture cannot be captioned, without its name."""
    reason = str(error).removeprefix(str(ImageError(f"{item.path}: ")))
    return re.sub(r"\A(picture|video) of \d+ bytes: ", "", reason)
