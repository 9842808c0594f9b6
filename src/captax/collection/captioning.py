"""From pictures to records, batch by batch: the part of a job that one process does."""

import dataclasses
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from captax.collection.copies import Fingerprints, fingerprint
from captax.collection.item import Item
from captax.collection.record import Record
from captax.data.batches import batched, map_ahead
from captax.images import ImageError
from captax.pipelines.captioner import Caption, Captioner
from captax.pipelines.streaming import Placed, pace


@dataclasses.dataclass(frozen=True)
class CaptionOptions:
    """What is asked of each picture.

    Attributes:
        prompt: what captions begin with.
        seed: random draws depend on it and on a picture's place in the collection.
        batch_size: pictures at a time.
        dedupe: pictures whose fingerprints differ in at most this many bits are captioned once.
        decoding: other options of `Captioner.stream`.
    """

    prompt: str = ""
    seed: int = 0
    batch_size: int = 32
    dedupe: int | None = None
    decoding: dict[str, Any] = dataclasses.field(default_factory=dict)


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
        """The record of a copy, with what was said of its original, which has been captioned."""
        original = self._originals[copy.copy_of]
        fields = ("captions", "confidence", "regions", "looped")
        said = {name: getattr(original, name) for name in fields}
        return dataclasses.replace(copy, **said)


def caption_batches(
    captioner: Captioner,
    wanted: Iterable[Wanted],
    options: CaptionOptions,
    copies: Copies | None = None,
) -> Iterator[list[Record]]:
    """Records of the pictures, in order, in batches of `options.batch_size`.

    The model captions the pictures of a batch at once, except for errors and copies.
    """
    processor = captioner.processor
    # Records of the pictures that the captioner works on; their captions are added later.
    begun: deque[Record] = deque()

    def load(each: Wanted) -> tuple[Record, Placed | None]:
        try:
            picture = processor.decode(each.item.source())
            look = fingerprint(picture) if copies is not None else None
            prepared = captioner.prepare(processor.prepare(picture))
        except ImageError as error:
            return each.error(_reason(each.item, error)), None
        return each.record(look), Placed(each.place, prepared)

    def ready() -> Iterator[Placed | Record]:
        """Pictures for the captioner, and between them the records of pictures without captions."""
        for record, picture in map_ahead(load, wanted, **pace(options.batch_size)):
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

    def ended(found: Caption | Record) -> Record:
        if isinstance(found, Caption):
            said = tuple((other.text, other.score) for other in found.alternatives)
            record = dataclasses.replace(
                begun.popleft(),
                captions=said,
                confidence=found.confidence,
                regions=found.regions,
                looped=found.looped,
            )
            if copies is not None:
                copies.said(record)
            return record
        if copies is not None and found.copy_of:
            return copies.told(found)
        return found

    found = captioner.stream_pixels(
        ready(),
        prompt=options.prompt,
        seed=options.seed,
        batch_size=options.batch_size,
        **options.decoding,
    )
    return batched(map(ended, found), options.batch_size)


def _reason(item: Item, error: ImageError) -> str:
    """Why a picture cannot be captioned, without its name."""
    reason = str(error).removeprefix(str(ImageError(f"{item.path}: ")))
    return re.sub(r"\Apicture of \d+ bytes: ", "", reason)
