"""Captions and objects read from files, in the layouts that the field uses."""

import csv
import dataclasses
import io
import os
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

from captax.errors import CaptaxError, quoted
from captax.files import CSV_HEADER, TABLE_LIMIT, csv_text, parse_json, read_text
from captax.metrics.chair import known_object

# The keys or columns by which a record may name its picture; the first one present counts. In
# COCO's own annotations `id` is the caption's id.
ID_KEYS = ("image_id", "id")
PICTURE_KEYS = ("image", "file_name", "filename", "file", "path")
CAPTION_KEYS = ("caption", "captions", "references", "text")
_TOKEN_LINE = re.compile(r"([^\t]+)#\d+\t(.*)")
# As `captax caption` prints captions.
_NAMED_LINE = re.compile(r"(\S.*?\.[A-Za-z0-9]{1,5}(?:\?\S*)?): (.*)")
_SPLITS = {"val": "dev", "valid": "dev", "validation": "dev", "restval": "train"}


class CaptionFileError(CaptaxError):
    """A file of captions cannot be read, or does not fit the other files."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A caption in a file; `where` names the file and the line or key."""

    image: str
    caption: str
    where: str
    picture: str | None = None


@dataclasses.dataclass(frozen=True)
class CaptionFile:
    """The captions of a file.

    Attributes:
        path: the file, as messages name it.
        rows: image id -> its captions.
        by_line: whether the file has no ids; the ids are then the numbers of lines: "1", "2", ...
        failed: picture -> why it has no caption, where `captax caption` says so.
    """

    path: str
    rows: dict[str, list[Row]]
    by_line: bool = False
    failed: dict[str, str] = dataclasses.field(default_factory=dict)

    def picture(self, image: str) -> str:
        """The file name of an image's picture, or the image's id if the file has no such name."""
        return self.rows[image][0].picture or image


def read_captions(
    path: str | os.PathLike[str], *, split: str | None = None, alternatives: bool = False
) -> CaptionFile:
    """Read the captions in a file, whose layout is recognised by its content.

    The layouts are: COCO's results (`[{"image_id": 42, "caption": "a dog"}]`) and annotations;
    Karpathy's JSON; one JSON object of captions, or lists of captions, by image id; JSON objects,
    one on each line, such as `captax caption` writes; CSV with a header; Flickr8k's
    `picture.jpg#0<tab>caption`; `picture.jpg: caption` on each line, as `captax caption` prints;
    and plain text with a caption on each line. Records name the picture by one of `ID_KEYS` and
    `PICTURE_KEYS`, and its captions by one of `CAPTION_KEYS`. In files that `captax caption` wrote,
    pictures are named by `path`, and those that failed have no row.

    Args:
        path: the file.
        split: the split of Karpathy's JSON: `train`, `dev` (or `val`) or `test`; `None` takes all.
        alternatives: also take the alternatives that `captax caption` writes beside a caption.

    Raises:
        CaptionFileError: the file cannot be read or is malformed, or it has no caption or no such
            split. The message names the file and the line or key.
    """
    text = _read_text(Path(path))
    start = text.lstrip()[:1]
    suffix, path = Path(path).suffix.lower(), str(path)
    lines = text.removesuffix("\n").split("\n")
    rows: Iterable[Row]
    by_line = False
    failed: dict[str, str] = {}
    if split is not None and suffix != ".json" and start != "{":
        raise CaptionFileError(f"{path}: has no splits; leave out --split {split}")
    if suffix == ".jsonl" or (start == "{" and suffix != ".txt" and _is_record(lines[0])):
        rows = _json_lines(path, lines, alternatives, failed)
    elif suffix == ".json" or (start in ("{", "[") and suffix != ".txt"):
        rows = _json(path, text, split, failed)
    elif suffix == ".csv" or _is_header(lines[0]):
        rows = _csv(path, text, failed)
    elif _TOKEN_LINE.fullmatch(lines[0].rstrip("\r")):
        rows = _tokens(path, lines)
    elif all(_NAMED_LINE.fullmatch(line.rstrip("\r")) for line in lines if line.strip()) and text:
        rows = _named(path, lines)
    else:
        by_line = True
        rows = (
            Row(str(number), line.strip(), f"{path}, line {number}")
            for number, line in enumerate(lines if text else [], 1)
        )
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.image, []).append(row)
    if not found:
        raise CaptionFileError(
            f"{path}: no captions of split {split}; use another --split"
            if split
            else f"{path}: no captions; give a file that has captions"
        )
    return CaptionFile(path, found, by_line, failed)


def read_objects(path: str | os.PathLike[str]) -> dict[str, set[str]]:
    """Read the objects that are in pictures, for CHAIR.

    The file holds COCO's instance annotations, or one JSON object: image id -> list of names.

    Returns:
        Image id -> the names of the objects in it.

    Raises:
        CaptionFileError: the file cannot be read or is malformed, or names an object that COCO does
            not have. The message names the file and the key.
    """
    path, content = str(path), _parse(str(path), _read_text(Path(path)))
    if not isinstance(content, dict):
        raise CaptionFileError(f"{path}: expected an object: image id -> list of objects")
    if "annotations" not in content:
        return {
            image: _objects(f"{path}, {quoted(image)}", names) for image, names in content.items()
        }
    names = {}
    for index, category in enumerate(_list(path, content, "categories")):
        where = f"{path}, categories[{index}]"
        names[_id(where, _value(where, category, "id"))] = _value(where, category, "name")
    found: dict[str, set[str]] = {}
    for index, image in enumerate(_list(path, content, "images")):
        where = f"{path}, images[{index}]"
        found[_id(where, _value(where, image, "id"))] = set()
    for index, note in enumerate(_list(path, content, "annotations")):
        where = f"{path}, annotations[{index}]"
        id = _id(where, _value(where, note, "image_id"))
        category = _id(where, _value(where, note, "category_id"))
        if category not in names:
            raise CaptionFileError(
                f"{where}: no category has the id {quoted(category)}; add it to 'categories'"
            )
        found.setdefault(id, set()).update(_objects(where, [names[category]]))
    return found


def _objects(where: str, names: object) -> set[str]:
    if not isinstance(names, list):
        raise CaptionFileError(f"{where}: expected a list of objects, got {type(names).__name__}")
    try:
        return set(map(known_object, names))
    except CaptaxError as error:
        raise CaptionFileError(f"{where}: {error}") from None


def _read_text(path: Path) -> str:
    try:
        return read_text(path, limit=TABLE_LIMIT, pipes=True)
    except UnicodeDecodeError as error:
        raise CaptionFileError(
            f"{path}: byte {error.start} is not UTF-8 text; save the file as UTF-8"
        ) from None
    except OSError as error:
        raise CaptionFileError(f"{path}: cannot be read ({error.strerror or error})") from None


def _is_record(line: str) -> bool:
    """Whether a line is a complete JSON object that has a picture and captions."""
    try:
        record = parse_json(line)
    except ValueError:
        return False
    if not isinstance(record, dict):
        return False
    names_picture = not record.keys().isdisjoint(ID_KEYS + PICTURE_KEYS)
    return names_picture and (not record.keys().isdisjoint(CAPTION_KEYS) or _failed(record))


def _is_header(line: str) -> bool:
    columns = {name.strip() for name in line.split(",")}
    return not columns.isdisjoint(ID_KEYS + PICTURE_KEYS) and not columns.isdisjoint(CAPTION_KEYS)


def _parse(where: str, text: str) -> Any:
    try:
        return parse_json(text, pairs=_unlike)
    except ValueError as error:
        raise CaptionFileError(f"{where}: not JSON ({error})") from None


def _json(path: str, text: str, split: str | None, failed: dict[str, str]) -> Iterator[Row]:
    content = _parse(path, text)
    karpathy = isinstance(content, dict) and "annotations" not in content and "images" in content
    if split is not None and not karpathy:
        raise CaptionFileError(f"{path}: has no splits; leave out --split {split}")
    if isinstance(content, list):
        for index, record in enumerate(content):
            yield from _record(f"{path}, [{index}]", record, failed)
        return
    if not isinstance(content, dict):
        raise CaptionFileError(
            f"{path}: neither a list nor an object of captions; see `captax score --help`"
        )
    if karpathy:
        yield from _karpathy(path, content, split)
    elif "annotations" in content:
        yield from _coco(path, content)
    else:
        captions = content.get("captions")  # as `captax evaluate --json` writes them
        for image, value in (captions if isinstance(captions, dict) else content).items():
            yield from _rows(f"{path}, {quoted(image)}", image, value)


def _coco(path: str, content: dict[str, Any]) -> Iterator[Row]:
    names: dict[str, str] = {}
    for index, image in enumerate(_list(path, content, "images")):
        where = f"{path}, images[{index}]"
        id = _id(where, _value(where, image, "id"))
        _refuse_second(where, id, names)
        names[id] = str(image.get("file_name", ""))
    captioned = set()
    for index, note in enumerate(_list(path, content, "annotations")):
        where = f"{path}, annotations[{index}]"
        id = _id(where, _value(where, note, "image_id"))
        captioned.add(id)
        yield from _rows(where, id, _value(where, note, "caption"), names.get(id))
    for index, id in enumerate(names):
        if id not in captioned:
            raise CaptionFileError(
                f"{path}, images[{index}]: image {quoted(id)} has no captions; add some or remove "
                "it"
            )


def _karpathy(path: str, content: dict[str, Any], split: str | None) -> Iterator[Row]:
    wanted = _SPLITS.get(split or "", split)
    seen: set[str] = set()
    for index, image in enumerate(_list(path, content, "images")):
        where = f"{path}, images[{index}]"
        if wanted and _SPLITS.get(s := str(_value(where, image, "split")), s) != wanted:
            continue
        name = str(_value(where, image, "filename"))
        id = str(image["cocoid"]) if "cocoid" in image else Path(name).stem
        _refuse_second(where, id, seen)
        seen.add(id)
        sentences = _value(where, image, "sentences")
        if not isinstance(sentences, list) or not sentences:
            raise CaptionFileError(
                f"{where}: image {quoted(id)} has no captions; add some or remove the image"
            )
        for place, sentence in enumerate(sentences):
            place_of = f"{where}.sentences[{place}]"
            yield from _rows(place_of, id, _value(place_of, sentence, "raw"), name)


def _json_lines(
    path: str, lines: list[str], alternatives: bool, failed: dict[str, str]
) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        record = _parse(where, line)
        yield from _record(where, record, failed)
        if alternatives and "alternatives" in record:
            for other in _list(where, record, "alternatives"):
                said = {"caption": _value(where, other, "caption")}
                yield from _record(where, record | said, failed)


def _csv(path: str, text: str, failed: dict[str, str]) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        ours = header[: len(CSV_HEADER)] == CSV_HEADER
        line = reader.line_num + 1
        for row in reader:
            # A quoted row may span several lines; messages name its first.
            where, line = f"{path}, line {line}", reader.line_num + 1
            if not row:
                continue
            if len(row) != len(header):
                raise CaptionFileError(
                    f"{where}: {len(row)} fields, but the header has {len(header)}; put captions "
                    f"that contain commas in double quotes"
                )
            fields = map(csv_text, row) if ours else row
            yield from _record(where, dict(zip(header, fields, strict=True)), failed)
    except csv.Error as error:
        raise CaptionFileError(f"{path}, line {line}: {error}; check its quotes") from None


def _tokens(path: str, lines: list[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        match = _TOKEN_LINE.fullmatch(line.rstrip("\r"))
        if match is None:
            raise CaptionFileError(f"{where}: expected picture.jpg#number<tab>caption")
        yield Row(match[1], match[2].strip(), where, match[1])


def _named(path: str, lines: list[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if match := _NAMED_LINE.fullmatch(line.rstrip("\r")):
            yield Row(match[1], match[2].strip(), f"{path}, line {number}", match[1])


def _record(where: str, record: object, failed: dict[str, str]) -> Iterator[Row]:
    """The captions of one picture; `record` is a JSON object or a row of CSV."""
    if not isinstance(record, dict):
        raise CaptionFileError(f"{where}: expected an object, got {type(record).__name__}")
    if _failed(record):
        failed[str(record["path"])] = str(record["error"])
        return
    if {"path", "caption", "score"} <= record.keys():  # captax's; the rest may be a list's columns
        record = {key: record[key] for key in ("path", "caption")}
    picture = next((str(record[key]) for key in PICTURE_KEYS if key in record), None)
    id = next((record[key] for key in ID_KEYS if key in record), picture)
    key = next((key for key in CAPTION_KEYS if key in record), None)
    if id is None or key is None:
        wanted = ID_KEYS + PICTURE_KEYS if id is None else CAPTION_KEYS
        of = "" if id is None else f" of image {quoted(str(id))}"
        there = ", ".join(map(str, record)) or "nothing"
        raise CaptionFileError(
            f"{where}: no {' or '.join(wanted)}{of}; add one of them (found: {there})"
        )
    yield from _rows(where, _id(where, id), record[key], picture)


def _failed(record: dict[str, Any]) -> bool:
    """Whether `captax caption` wrote the record, for a picture that has no caption."""
    return "path" in record and bool(record.get("error")) and not record.get("caption")


def _rows(where: str, image: str, value: object, picture: str | None = None) -> Iterator[Row]:
    captions = value if isinstance(value, list) else [value]
    if not captions:
        raise CaptionFileError(
            f"{where}: image {quoted(image)} has an empty list of captions; add some or remove "
            "the image"
        )
    for caption in captions:
        if not isinstance(caption, str):
            raise CaptionFileError(
                f"{where}: image {quoted(image)} has {quoted(caption)} as a caption; a caption "
                "must be a string"
            )
        yield Row(image, caption.strip(), where, picture or None)


def _id(where: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise CaptionFileError(f"{where}: {quoted(value)} is no id; give a number or a string")
    return str(value)


def _refuse_second(where: str, id: str, seen: Container[str]) -> None:
    if id in seen:
        raise CaptionFileError(f"{where}: image {quoted(id)} comes twice; remove one")


def _unlike(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object; refuse a key that comes twice, whose first caption would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = [key for key, _ in pairs]
        twice = next(key for key in seen if seen.count(key) > 1)
        raise ValueError(f"key {quoted(twice)} comes twice in one object")
    return found


def _list(where: str, record: object, key: str) -> list[Any]:
    found = _value(where, record, key)
    if not isinstance(found, list):
        raise CaptionFileError(f"{where}: {quoted(key)} must be a list")
    return found


def _value(where: str, record: object, key: str) -> Any:
    if not isinstance(record, dict) or key not in record:
        raise CaptionFileError(f"{where}: {quoted(key)} is missing; add it")
    return record[key]
