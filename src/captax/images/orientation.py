"""Which way up a picture is, as its metadata tells."""

import re
import struct
from collections.abc import Mapping
from typing import Any

TAG = 274
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """The orientation, 1 to 8, in EXIF or else in XMP; 0 if neither tells it."""
    told = _in_exif(exif)
    if told is None:
        found = _XMP.search(xmp)
        told = int(found[1]) if found else 0
    return told


def orientation_in(info: Mapping[Any, Any]) -> int:
    """The orientation in the `info` of a Pillow picture; 0 if it does not tell."""

    def content(key: str) -> bytes | None:
        value = info.get(key)
        if isinstance(value, str):
            return value.encode(errors="replace")
        return value if isinstance(value, bytes) else None

    exif = content("exif")
    if exif is None:
        exif = raw_profile(content("Raw profile type exif") or b"")
    return orientation_of(exif, content("XML:com.adobe.xmp") or content("xmp") or b"")


def raw_profile(text: bytes) -> bytes:
    """The bytes of a profile that ImageMagick wrote into a text: a name, a length and digits."""
    digits = re.sub(rb"[^0-9a-fA-F]", b"", b"".join(text.split(b"\n")[3:]))
    return bytes.fromhex(digits[: len(digits) // 2 * 2].decode())


def _in_exif(exif: bytes) -> int | None:
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag == TAG:
                (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), tiff, entry + 8)
                return value
    except struct.error:
        pass
    return None
