"""The description inside a picture's own file, read without exiftool."""

import contextlib
import io
import struct
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile, IptcImagePlugin

from captax.collection.description import DescriptionError, described
from captax.files import open_regular

_IMAGE_DESCRIPTION, _XMP = 0x010E, 700  # tags of EXIF and TIFF
_CAPTION = (2, 120)  # IPTC's Caption-Abstract
_XMP_LIMIT = 2**24  # bytes
_PNG_KEPT = (b"IHDR", b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"IEND")

# What cameras write as the description of every picture.
_CAMERA_TEXTS = frozenset(
    text.casefold()
    for text in (
        "OLYMPUS DIGITAL CAMERA",
        "SONY DSC",
        "MINOLTA DIGITAL CAMERA",
        "KONICA MINOLTA DIGITAL CAMERA",
        "KODAK Digital Still Camera",
        "SAMSUNG DIGITAL CAMERA",
        "DIGITAL CAMERA",
        "Exif_JPEG_PICTURE",
    )
)


def from_camera(text: str) -> bool:
    """Whether a text is what cameras write by themselves."""
    return text.casefold() in _CAMERA_TEXTS


def embedded(picture: Path) -> str:
    """The description in a picture's own file, "" if there is none or it cannot be read.

    It is read from EXIF, IPTC and XMP, in this order, as `captax.collection.exiftool` reads it.
    Pixels are not decoded.
    """
    with contextlib.suppress(OSError), open_regular(picture) as file:
        try:
            image = open_for_metadata(file)
        except Exception:  # damaged pictures, for which Pillow raises nearly anything
            return ""
        for read in (_exif, _iptc, _xmp):
            # A damaged part does not hide the others.
            with contextlib.suppress(Exception):
                if (text := read(image).strip()) and not from_camera(text):
                    return text
    return ""


def open_for_metadata(file: Any) -> ImageFile.ImageFile:
    """The picture in an open file, with metadata, whose pixels need not be there.

    Raises nearly anything for damaged pictures. Of a PNG, metadata may stand after the pixels, and
    Pillow would decode these to come to them.
    """
    image = Image.open(file)
    if image.format != "PNG":
        return image
    file.seek(0)
    parts, size = [file.read(8)], 0
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in _PNG_KEPT and (size := size + length) <= 2 * _XMP_LIMIT:
            parts += head, file.read(length + 4)
        else:
            file.seek(length + 4, io.SEEK_CUR)
    return Image.open(io.BytesIO(b"".join(parts)))


def exif_of(image: Image.Image) -> Image.Exif:
    """The EXIF of a picture that is opened for metadata."""
    return Image.Image.getexif(image)  # that of PNG's class decodes pixels


def _exif(image: Image.Image) -> str:
    value: Any = exif_of(image).get(_IMAGE_DESCRIPTION, "")
    if isinstance(value, str):  # Pillow reads every byte as a character
        value = value.encode("latin-1", errors="replace")
    return text_of(value)


def _iptc(image: ImageFile.ImageFile) -> str:
    found: Any = IptcImagePlugin.getiptcinfo(image) or {}
    value = found.get(_CAPTION, b"")
    return text_of(value[0] if isinstance(value, list) else value)


def _xmp(image: Image.Image) -> str:
    try:
        return described(xmp_in(image) or None)
    except DescriptionError:
        return ""


def xmp_in(image: Image.Image) -> bytes:
    """The XMP document in a picture's file, b"" if there is none or it is too large."""
    value: Any = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if value is None and image.format == "TIFF":
        value = exif_of(image).get(_XMP)
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes) or len(value) > _XMP_LIMIT:
        return b""
    return value.strip(b"\0 \r\n\t")


def text_of(value: Any) -> str:
    """The text that these bytes are: UTF-8, or else Latin-1."""
    value = bytes(value).rstrip(b"\0")
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
