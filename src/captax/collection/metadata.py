"""What files tell of a picture besides its pixels: when and where it was taken, and who is in it.

It is read from the picture's EXIF, IPTC and XMP, from an `.xmp` sidecar, and from the JSON that
Google Takeout writes beside a picture. What is damaged tells nothing, and hides nothing else.
"""

import contextlib
import datetime
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lxml import etree
from PIL import Image, IptcImagePlugin

from captax.collection.description import DescriptionError, nodes_of, sidecar_path
from captax.collection.embedded import (
    exif_of,
    from_camera,
    open_for_metadata,
    text_of,
    xmp_in,
)
from captax.files import CONFIG_LIMIT, open_regular, parse_json, read_bytes

_DC = "{http://purl.org/dc/elements/1.1/}"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_PHOTOSHOP = "{http://ns.adobe.com/photoshop/1.0/}"
_XMP = "{http://ns.adobe.com/xap/1.0/}"
_EXIF = "{http://ns.adobe.com/exif/1.0/}"
_CORE = "{http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/}"
_EXT = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
_REGIONS = "{http://www.metadataworkinggroup.com/schemas/regions/}"
_MICROSOFT = "{http://ns.microsoft.com/photo/1.2/t/Region#}"
_SEPARATOR = ", "
# What data of another form than was expected raise.
_WRONG = OSError, ValueError, TypeError, AttributeError, LookupError, OverflowError
_HALVES = {"N": 1, "S": -1, "E": 1, "W": -1}

# IPTC's fields, in its old block and in XMP.
_FIELDS: dict[str, tuple[int | None, tuple[str, ...]]] = {
    "title": (5, (f"{_DC}title",)),
    "headline": (105, (f"{_PHOTOSHOP}Headline",)),
    "description": (120, (f"{_DC}description",)),
    "keywords": (25, (f"{_DC}subject",)),
    "people": (None, ()),
    "creator": (80, (f"{_DC}creator",)),
    "event": (None, (f"{_EXT}Event",)),
    "location": (92, (f"{_CORE}Location",)),
    "city": (90, (f"{_PHOTOSHOP}City",)),
    "state": (95, (f"{_PHOTOSHOP}State",)),
    "country": (101, (f"{_PHOTOSHOP}Country",)),
    "date": (55, (f"{_PHOTOSHOP}DateCreated", f"{_XMP}CreateDate")),
}
_EXIF_NAMES = (
    *("date", "time", "year", "camera", "lens", "latitude", "longitude", "altitude"),
    *("artist", "description"),
)
NAMES: tuple[str, ...] = (
    *(f"exif.{name}" for name in _EXIF_NAMES),
    *(f"iptc.{name}" for name in _FIELDS),
    *(f"xmp.{name}" for name in (*_FIELDS, "rating", "label")),
    *(f"takeout.{name}" for name in ("date", "description", "people", "latitude", "longitude")),
)


def metadata_of(source: Path | bytes, path: Path | None) -> dict[str, str]:
    """What is known of a picture, by those of `NAMES` that it has.

    `source` is the picture's file or its bytes, and `path` its file, if there may be others beside
    it. Numbers have points, dates are as 2024-05-31, and lists have commas.
    """
    exif: dict[str, str] = {}
    block: dict[str, str] = {}
    documents = [] if path is None else [_sidecar(path)]
    with contextlib.ExitStack() as stack:
        # Pillow raises nearly anything for what is damaged.
        stack.enter_context(contextlib.suppress(Exception))
        file: Any = io.BytesIO(source) if isinstance(source, bytes) else open_regular(source)
        image = open_for_metadata(stack.enter_context(file))
        with contextlib.suppress(Exception):
            exif = _exif(image)
        with contextlib.suppress(Exception):
            block = _iptc(image)
        with contextlib.suppress(Exception):
            documents.append(_xmp(xmp_in(image)))
    xmp: dict[str, str] = {}
    for each in documents:
        xmp = each | xmp
    # A sidecar is newer than what is in the file.
    first = documents[0] if path is not None else {}
    iptc = xmp | block | first
    told = {f"exif.{name}": value for name, value in ({**xmp, **exif}).items()}
    told |= {f"iptc.{name}": value for name, value in iptc.items()}
    told |= {f"xmp.{name}": value for name, value in xmp.items()}
    told["exif.description"] = exif.get("description", "")
    told["exif.date"] = exif.get("date") or xmp.get("taken", "")
    told["exif.year"] = told["exif.date"][:4]
    if path is not None:
        with contextlib.suppress(*_WRONG):
            told |= {f"takeout.{name}": value for name, value in _takeout(path).items()}
    return {name: told[name] for name in NAMES if told.get(name)}


def _exif(image: Image.Image) -> dict[str, str]:
    main: Any = exif_of(image)
    camera, place = _part(main, 0x8769), _part(main, 0x8825)
    make, model = (_text(main.get(tag)) for tag in (0x010F, 0x0110))
    told = {
        "camera": model if model.lower().startswith(make.lower()) else f"{make} {model}".strip(),
        "lens": _text(camera.get(0xA434)),
        "artist": _text(main.get(0x013B)),
        "description": _text(main.get(0x010E)),
        "altitude": _number(_ratio(place.get(6)), 0, -1 if _flag(place.get(5)) else 1),
    }
    if from_camera(told["description"]):
        told["description"] = ""
    for tags in ((camera, 0x9003), (camera, 0x9004), (main, 0x0132)):
        if when := _moment(_text(tags[0].get(tags[1]))):
            told |= {"date": when[0], "time": when[1]}
            break
    for name, tag, most in (("latitude", 2, 90), ("longitude", 4, 180)):
        spelt = place.get(tag)
        parts = [_ratio(part) for part in spelt] if isinstance(spelt, tuple) else []
        degrees = sum(part / 60**i for i, part in enumerate(parts)) if len(parts) == 3 else math.nan
        # Without its half of the earth, a place is none.
        sign = _HALVES.get(_text(place.get(tag - 1)).upper(), math.nan)
        told[name] = _degrees(sign * degrees, most)
    if not (told["latitude"] and told["longitude"]):
        told["latitude"] = told["longitude"] = ""
    return {name: value for name, value in told.items() if value}


def _part(main: Any, tag: int) -> Mapping[int, Any]:
    """A part of EXIF; what is damaged is empty."""
    with contextlib.suppress(Exception):
        return dict(main.get_ifd(tag))
    return {}


def _iptc(image: Any) -> dict[str, str]:
    found: Any = IptcImagePlugin.getiptcinfo(image) or {}
    told = {}
    for name, (number, _) in _FIELDS.items():
        value = found.get((2, number), b"")
        values = value if isinstance(value, list) else [value]
        told[name] = _SEPARATOR.join(filter(None, (text_of(each).strip() for each in values)))
    told["date"] = re.sub(r"\A(\d{4})(\d\d)(\d\d)\Z", r"\1-\2-\3", told["date"])
    return {name: value for name, value in told.items() if value}


def _sidecar(picture: Path) -> dict[str, str]:
    for adobe in (False, True):
        with contextlib.suppress(OSError, DescriptionError):
            return _xmp(read_bytes(sidecar_path(picture, adobe=adobe), limit=CONFIG_LIMIT))
    return {}


def _xmp(document: bytes) -> dict[str, str]:
    """The fields of an XMP document. Raises `DescriptionError` for one that is damaged."""
    if not document:
        return {}
    nodes = nodes_of(document)

    def first(names: Iterable[str]) -> str:
        return next((told for name in names if (told := _property(nodes, name))), "")

    told = {name: first(names) for name, (_, names) in _FIELDS.items()}
    told["people"] = _people(nodes)
    told["date"] = told["date"].partition("T")[0]
    told |= {"rating": first((f"{_XMP}Rating",)), "label": first((f"{_XMP}Label",))}
    taken = _moment(first((f"{_EXIF}DateTimeOriginal",)))
    told |= {"taken": taken[0], "time": taken[1]} if taken else {}
    places = {
        name: first((f"{_EXIF}GPS{name.capitalize()}",)) for name in ("latitude", "longitude")
    }
    degrees = [_spelt_degrees(places["latitude"], 90), _spelt_degrees(places["longitude"], 180)]
    if all(degrees):
        told["latitude"], told["longitude"] = degrees
    return {name: value for name, value in told.items() if value}


def _property(nodes: Iterable[etree._Element], name: str) -> str:
    for node in nodes:
        if name in node.attrib:
            return node.attrib[name].strip()
        for found in node.findall(name):
            items = found.findall(f"*/{_RDF}li")
            if found.find(f"{_RDF}Alt") is not None:  # the same in several languages
                default = [each for each in items if each.get(_LANGUAGE) == "x-default"]
                items = (default or items)[:1]
            texts = [each.xpath("string()").strip() for each in items or [found]]
            return _SEPARATOR.join(filter(None, texts))
    return ""


def _people(nodes: Iterable[etree._Element]) -> str:
    """Those that IPTC's extension names, and those of faces in regions."""
    names: dict[str, None] = {}
    for node in nodes:
        for item in node.findall(f"{_EXT}PersonInImage/*/{_RDF}li"):
            names[item.xpath("string()").strip()] = None
        for each in node.iter():
            if not isinstance(each.tag, str):
                continue
            name = each.get(f"{_REGIONS}Name") or each.findtext(f"{_REGIONS}Name")
            kind = each.get(f"{_REGIONS}Type") or each.findtext(f"{_REGIONS}Type")
            if name and kind == "Face":
                names[name.strip()] = None
            shown = f"{_MICROSOFT}PersonDisplayName"
            if name := each.get(shown) or each.findtext(shown):
                names[name.strip()] = None
    return _SEPARATOR.join(filter(None, names))


def _takeout(picture: Path) -> dict[str, str]:
    file = next((path for path in _takeout_files(picture) if path.is_file()), None)
    if file is None:
        return {}
    content = parse_json(read_bytes(file, limit=CONFIG_LIMIT).decode())
    told: dict[str, str] = {}
    for part in (_takeout_texts, _takeout_date, _takeout_place):
        with contextlib.suppress(*_WRONG):
            told |= part(content)
    return told


def _takeout_files(picture: Path) -> Iterator[Path]:
    """Where Google may have written of a picture.

    It cuts names to 46 characters and their suffix, and writes the number of `a(1).jpg` last.
    """
    stem, number = re.fullmatch(r"(.*?)(\(\d+\))?", picture.stem, re.DOTALL).groups("")  # type: ignore[union-attr]
    names = [(picture.name, "")]
    if number:
        names.append((f"{stem}{picture.suffix}", number))
    for name, last in names:
        for whole in (name, f"{name}.supplemental-metadata"):
            yield from (picture.with_name(f"{each}{last}.json") for each in (whole, whole[:46]))


def _takeout_texts(content: Any) -> dict[str, str]:
    people = content.get("people")
    names = [each.get("name") for each in people if isinstance(each, dict)] if people else []
    told = _SEPARATOR.join(each for each in names if isinstance(each, str))
    return {"description": _text(content.get("description")), "people": told}


def _takeout_date(content: Any) -> dict[str, str]:
    taken = int(content["photoTakenTime"]["timestamp"])
    return {"date": datetime.datetime.fromtimestamp(taken, datetime.UTC).date().isoformat()}


def _takeout_place(content: Any) -> dict[str, str]:
    place = float(content["geoData"]["latitude"]), float(content["geoData"]["longitude"])
    if not any(place):  # zeros stand for none
        return {}
    told = {"latitude": _degrees(place[0], 90), "longitude": _degrees(place[1], 180)}
    return told if all(told.values()) else {}


def _text(value: Any) -> str:
    """A text of EXIF, of which Pillow reads every byte as a character."""
    if isinstance(value, str):
        try:
            value = value.encode("latin-1")
        except UnicodeEncodeError:
            return str(value).strip()
    return text_of(value).strip("\0 \r\n\t") if isinstance(value, bytes) else ""


def _flag(value: Any) -> bool:
    return value in (1, b"\x01")


def _ratio(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return math.nan


def _number(value: float, digits: int, sign: int = 1) -> str:
    return f"{sign * value:.{digits}f}" if math.isfinite(value) else ""


def _degrees(value: float, most: int) -> str:
    return _number(value, 5) if abs(value) <= most else ""


def _spelt_degrees(value: str, most: int) -> str:
    """A coordinate as XMP spells it: `48,51.5N` or `48,51,30N`."""
    found = re.fullmatch(r"(\d{1,3}),(\d{1,2}(?:\.\d+)?)(?:,(\d{1,2}(?:\.\d+)?))?([NSEW])", value)
    if found is None:
        return ""
    degrees = int(found[1]) + float(found[2]) / 60 + float(found[3] or 0) / 3600
    return _degrees(-degrees if found[4] in "SW" else degrees, most)


def _moment(value: str) -> tuple[str, str] | None:
    """The date and the time of a moment, as EXIF or XMP spells it."""
    found = re.match(r"(\d{4})[:-](\d\d)[:-](\d\d)(?:[ T](\d\d):(\d\d))?", value)
    if found is None:
        return None
    try:
        date = datetime.date(int(found[1]), int(found[2]), int(found[3]))
    except ValueError:  # cameras write zeros where they do not know
        return None
    known = found[4] and int(found[4]) < 24 and int(found[5]) < 60
    return date.isoformat(), f"{found[4]}:{found[5]}" if known else ""
