"""Pictures of every format and mode, decoded and prepared for an encoder."""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from captax.images import ImageProcessor, decode

KINDS = ("picture", "mended")
MOST = 1_000_000  # pixels, so that memory is bounded tightly
# Tags and markers that the formats branch on.
WORDS = (
    *(b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"zTXt"),
    *(b"iTXt", b"tEXt", b"gAMA", b"cHRM", b"pHYs", b"IEND", b"Exif\0\0", b"MM\0*", b"II*\0"),
    *(b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP ", b"RIFF"),
    *(b"\xff\xd8", b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xda", b"\xff\xdb", b"\xff\xdd"),
    *(b"\xff\xe0", b"\xff\xe1", b"\xff\xe2", b"\xff\xee", b"Adobe", b"ICC_PROFILE\0", b"MPF\0"),
    *(b"GIF89a", b"NETSCAPE2.0", b"\x21\xf9\x04", b"\x21\xff\x0b", b"\x2c", b"\x3b"),
    *(b"ftypheic", b"mif1", b"hvcC", b"hvc1", b"pitm", b"iinf", b"infe", b"jP  ", b"ftypjp2 "),
    *(b"jp2h", b"ihdr", b"colr", b"pclr", b"cmap", b"cdef", b"jp2c", b"\xff\x4f", b"\xff\x51"),
    *(b"\xff\x52", b"\xff\x5c", b"\xff\x90", b"\xff\x93", b"\xff\xd9"),
    *(b"ftypavif", b"meta", b"iloc", b"iprp", b"ipma", b"ispe", b"av1C", b"irot", b"imir", b"grid"),
    *(b"P1\n", b"P2\n", b"P3\n", b"P4\n", b"P5\n", b"P6\n", b"# ", b"65535\n", b"BM"),
    *(b"\x01\x12\0\x03", b"\x12\x01\x03\0", b"\x01\x03\0\x03", b"\x03\x01\x03\0"),
    *(b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"),
)
_PROCESSORS = (
    ImageProcessor(size=(16, 16), resize="shortest_edge", resize_to=18),
    ImageProcessor(size=(16, 16), resize_to=(16, 16)),
)


def seeds() -> Iterator[tuple[str, bytes]]:
    """Small pictures as Pillow writes them."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 13, 4), np.uint8)
    noise[:, :6] = 200
    rgba = Image.fromarray(noise)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "F"):
        if mode == "I;16":
            picture = Image.fromarray(noise[..., 0].astype(np.uint16) * 200)
        elif mode == "LAB":
            picture = Image.new("LAB", (13, 9), (100, 3, 5))
        else:
            picture = rgba.convert("RGB").convert(mode) if mode != "RGBA" else rgba
        for kind, options in _FORMATS:
            file = io.BytesIO()
            try:
                picture.save(file, kind, **options)
            except (OSError, ValueError, KeyError):
                continue  # not every format has every mode
            yield "picture", file.getvalue()
    file = io.BytesIO()
    rgba.convert("RGB").save(file, "AVIF", quality=40)
    # The containers of both are alike, and captax reads them itself before a decoder does.
    yield "picture", file.getvalue().replace(b"avif", b"heic", 1).replace(b"av01", b"hvc1")
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        file = io.BytesIO()
        frames = [rgba.rotate(90 * n) for n in range(2)]
        rgba.save(file, kind, save_all=True, append_images=frames)
        yield "picture", file.getvalue()
    exif = Image.Exif()
    for orientation in (6, 7):
        exif[0x0112] = orientation
        for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
            file = io.BytesIO()
            rgba.convert("RGB").save(file, kind, exif=exif)
            yield "mended", file.getvalue()
    for plain in (b"P1\n3 2\n101 010", b"P2\n2 1\n255\n7 8", b"P3 1 1 65535 1 2 3"):
        yield "picture", plain
    file = io.BytesIO()
    Image.new("L", (1, 60_000)).save(file, "PNG")
    yield "mended", file.getvalue()


_FORMATS: tuple[tuple[str, dict], ...] = (
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True, "quality": 20}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {}),
    ("GIF", {}),
    *(("TIFF", {"compression": kind}) for kind in
      (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4", "zstd", "lzma")),
    ("BMP", {}),
    ("PPM", {}),
    ("AVIF", {}),
    ("JPEG2000", {}),
    ("JPEG2000", {"irreversible": True, "quality_layers": [20, 5], "num_resolutions": 2}),
    ("JPEG2000", {"no_jp2": True, "tile_size": (8, 8)}),
)  # fmt: skip


def finish(kind: str, content: bytes) -> bytes:
    """A mended picture has the checksums and the length that it should have."""
    if kind == "mended" and content.startswith(b"\x89PNG"):
        return _with_checksums(content)
    if kind == "mended" and content.startswith(b"RIFF"):
        return content[:4] + struct.pack("<I", max(0, len(content) - 8)) + content[8:]
    return content


def _with_checksums(content: bytes) -> bytes:
    parts, at = [content[:8]], 8
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        chunk = content[at + 4 : at + 8 + length]
        parts += [content[at : at + 4], chunk, struct.pack(">I", zlib.crc32(chunk))]
        at += 12 + length
    return b"".join(parts) + content[at:]


def read(path: Path) -> None:
    """Decode by path, at a smaller size too, and prepare."""
    decode(path, max_pixels=MOST, at_least=(4, 4))
    picture = decode(path, max_pixels=MOST)
    assert picture.mode == "RGB" and min(picture.size) > 0 and not picture.info
    for processor in _PROCESSORS:
        processor([picture])
