"""What the file of a picture says about itself: read in bounded time, before anything is decoded.

Pictures come from strangers. A file of a few bytes can ask its decoder for gigabytes (a tile much
larger than the picture) or for hours (thousands of scans, millions of blocks). Each function here
reads the structure of one format and estimates the memory and the time of decoding it. It also
leaves out what has no influence on pixels, such as comments and colour profiles, so the decoder
never sees a hostile one.
"""

import dataclasses
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from captax.images.orientation import TAG, orientation_of, raw_profile

# Files with more segments, chunks or blocks are refused; each costs time in Python.
MOST_PARTS = 100_000
# libtiff has the same limit. Encoders write about 10 scans.
MOST_SCANS = 100
# Seconds of decoding that cannot be told from the structure.
UNKNOWN = math.inf


class Damaged(Exception):
    """The structure of a file is broken, or nothing that an encoder writes."""


@dataclasses.dataclass(frozen=True)
class Structure:
    """What decoding a file will take.

    Attributes:
        size: width and height in pixels, as far as the file says; zeros if it does not.
        memory: about the bytes at the peak of decoding, conversion to RGB and turning included.
        seconds: about the time on a slow processor; infinite if the structure does not bound it.
        data: the file with what its pixels depend on.
        orientation: which way up it is, if what `data` lacks tells; else 0.
        ended: whether the file has its end. What else it lacks, only decoding can tell.
    """

    size: tuple[int, int]
    memory: int
    seconds: float
    data: bytes
    orientation: int = 0
    ended: bool = True


def read_structure(format: str, data: bytes, at_least: tuple[int, int] | None) -> Structure:
    """The structure of a file of Pillow's `format`; `at_least` is as in `decode`.

    Raises:
        Damaged: the structure is broken.
    """
    try:
        return _READERS[format](data, at_least)
    except (struct.error, IndexError):
        raise Damaged("the file is truncated") from None


def reduction(size: tuple[int, int], at_least: tuple[int, int], *, lying: bool) -> int:
    """The factor 8, 4, 2 or 1 by which a JPEG is decoded smaller; `lying` on its side or not."""
    height, width = at_least[::-1] if lying else at_least
    fits = min(size[0] // max(1, 2 * width), size[1] // max(1, 2 * height))
    return next((factor for factor in (8, 4, 2) if fits >= factor), 1)


def _images(size: tuple[int, int], *pixel_bytes: int) -> int:
    """Memory of Pillow's pictures of this size: each also has a pointer for each row."""
    width, height = size
    return sum(height * (-(-width * each // 4) * 4 + 8) for each in pixel_bytes)


# Pictures that exist at once while one without transparency, or any other, becomes upright RGB.
_OPAQUE = (4, 4, 4)
_ANY = (4, 4, 1, 4, 4)


def _parts() -> Iterator[int]:
    """Counts the parts of a file. Raises `Damaged` if there are too many."""
    yield from range(MOST_PARTS)
    raise Damaged(f"it has more than {MOST_PARTS:,} parts; save it again with another program")


_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_SOI, _EOI, _SOS, _ADOBE, _JFIF, _APP1, _COM = 0xD8, 0xD9, 0xDA, 0xEE, 0xE0, 0xE1, 0xFE
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def _jpeg(data: bytes, at_least: tuple[int, int] | None) -> Structure:
    kept, exif, xmp, frame, at = [data[:2]], b"", b"", None, 2
    for _ in _parts():
        if (found := _MARKER.search(data, at)) is None:
            raise Damaged("the file is truncated")
        marker, at = found[1][0], found.end()
        if marker == _EOI:
            raise Damaged("it has no pixels")
        if marker in (_SOI, 0x01):
            continue
        (length,) = struct.unpack_from(">H", data, at)
        segment = data[at + 2 : at + length]
        if marker == _SOS:
            start = at - 2
            break
        if marker in _FRAMES:
            height, width, channels = struct.unpack_from(">HHB", segment, 1)
            frame = marker, (width, height), channels, segment
        about = 0xE0 <= marker <= 0xEF or marker == _COM
        if marker == _APP1 and segment.startswith(b"Exif\0\0") and len(exif) < 2**17:
            exif += segment[6 if exif else 0 :]
        if marker == _APP1 and segment.startswith(_XMP):
            xmp = segment
        if not about or marker in (_ADOBE, _JFIF):
            kept.append(b"\xff%c" % marker + data[at : at + length])
        at += length
    if frame is None:
        raise Damaged("it has no size")
    kind, size, channels, segment = frame
    pixels = size[0] * size[1]
    orientation = orientation_of(exif, xmp)
    ended = data.rfind(b"\xff\xd9", start) >= 0
    factor = reduction(size, at_least, lying=orientation >= 5) if at_least and ended else 1
    smaller = -(-size[0] // factor), -(-size[1] // factor)
    memory = _images(smaller, *_OPAQUE) + 64 * size[0] * channels + 2 * len(data)
    seconds = 15e-9 * pixels
    if kind in (0xC2, 0xC6, 0xCA, 0xCE) or data[start + 4] < channels:
        if (scans := _scans(data, start)) > MOST_SCANS:
            raise Damaged(f"it has more than {MOST_SCANS} scans; save it again as a usual JPEG")
        # All coefficients are kept, 2 bytes each, in blocks that are padded to whole units.
        across = max((segment[7 + 3 * n] >> 4 for n in range(channels)), default=1)
        down = max((segment[7 + 3 * n] & 15 for n in range(channels)), default=1)
        padded = (size[0] + 8 * across) * (size[1] + 8 * down)
        memory += 2 * channels * padded
        seconds += 2e-9 * scans * pixels
    if kind not in (0xC0, 0xC1, 0xC2):
        seconds = UNKNOWN  # arithmetic coding is slow, and other kinds are hardly ever seen
    rest = data[start:]
    if not ended:
        if not _all_scans(data, start, channels):
            raise Damaged("the file is truncated")
        seconds *= 4
        rest = rest.rstrip(b"\xff") + b"\xff\xd9"
    return Structure(size, memory, seconds, b"".join([*kept, rest]), orientation, ended)


def _all_scans(data: bytes, start: int, channels: int) -> bool:
    """Whether the scans from `start` on bring all coefficients of all channels, or the last do."""
    brought: dict[int, int] = {}
    at = start
    for _ in _parts():
        if (found := _MARKER.search(data, at)) is None:
            break
        at = found.end()
        if found[1][0] in (_SOI, 0x01) or at + 2 > len(data):
            continue
        if found[1][0] == _SOS:
            count = data[at + 2]
            first, last, bits = data[at + 3 + 2 * count : at + 6 + 2 * count]
            for channel in data[at + 3 : at + 3 + 2 * count : 2]:
                # Ones at the coefficients that are complete with this scan.
                ones = (1 << min(last, 63) + 1) - (1 << min(first, 63)) if not bits & 15 else 0
                brought[channel] = brought.get(channel, 0) | ones
        at += struct.unpack_from(">H", data, at)[0]
    return len(brought) == channels and all(ones == 2**64 - 1 for ones in brought.values())


def _scans(data: bytes, start: int) -> int:
    """How many scans there are from `start` to the end of the picture."""
    if data.count(b"\xff\xda", start) <= MOST_SCANS:
        return data.count(b"\xff\xda", start)
    scans, at = 0, start  # some may lie in tables, or behind the picture
    for _ in _parts():
        found = _MARKER.search(data, at)
        if found is None or found[1][0] == _EOI or scans > MOST_SCANS:
            break
        at = found.end()
        scans += found[1][0] == _SOS
        if found[1][0] not in (_SOI, 0x01) and at + 2 <= len(data):
            at += struct.unpack_from(">H", data, at)[0]
    return scans


def _png(data: bytes, at_least: tuple[int, int] | None) -> Structure:
    (length,) = struct.unpack_from(">I", data, 8)
    if data[12:16] != b"IHDR" or length < 13:
        raise Damaged("it does not begin with its size")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    kept: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    about: dict[bytes, bytes] = {}
    at, last = 8, b""
    for _ in _parts():
        if at + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT" and (not pixels or last == b"IDAT"):
            pixels.append(data[at + 8 : at + 8 + length])
        elif kind in _PNG_KEPT and kind not in kept and length <= 2**16:
            kept[kind] = data[at : at + 12 + length]
        elif kind in _PNG_ABOUT:
            key, told = _png_about(kind, data[at + 8 : at + 8 + min(length, _MOST_ABOUT)])
            about.setdefault(key, told)
        if kind == b"IEND":
            break
        if kind[0] & 32 and not pixels and at + 12 + length > len(data):
            # The length is damaged; the pixels are not.
            following = data.find(b"IDAT", at + 8)
            if following < 0:
                break
            at, last = following - 4, kind
            continue
        at, last = at + 12 + length, kind
    if colour != 3:
        kept.pop(b"PLTE", None)  # a suggestion
    if len(kept.get(b"tRNS", b"")) < 12 + {0: 2, 2: 6, 3: 1}.get(colour, 2**32):
        kept.pop(b"tRNS", None)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 4)
    opaque = colour in (0, 2, 3) and b"tRNS" not in kept and depth <= 8
    memory = _images((width, height), *(_OPAQUE if opaque else _ANY)) + 2 * len(data)
    memory += 4 * width * channels * max(1, depth // 8)
    seconds = width * height * (10e-9 + 2.5e-9 * channels * max(1, depth // 8))
    if b"tRNS" in kept:
        kept[b"tRNS"] = _png_chunk(b"tRNS", kept[b"tRNS"][8:-4])  # its sum may be wrong
    # Pillow does not check the sum of these chunks, and reads one more quickly than many.
    size = struct.pack(">I", sum(map(len, pixels)) & 0xFFFFFFFF)
    cut = at + 12 > len(data)  # then the decoder has to notice
    content = (data[:8], *kept.values(), size, b"IDAT", *pixels, b"" if cut else bytes(4))
    orientation = orientation_of(
        about.get(b"eXIf") or raw_profile(about.get(_PNG_EXIF, b"")), about.get(_PNG_XMP, b"")
    )
    whole = b"".join(content) + (b"" if cut else _png_chunk(b"IEND", b""))
    return Structure((width, height), memory, seconds, whole, orientation)


_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS")
_PNG_ABOUT = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_PNG_EXIF, _PNG_XMP = b"Raw profile type exif", b"XML:com.adobe.xmp"
_MOST_ABOUT = 2**20  # bytes that are read of metadata


def _png_about(kind: bytes, content: bytes) -> tuple[bytes, bytes]:
    """The name of metadata and their content, if it may tell an orientation."""
    if kind == b"eXIf":
        return kind, content
    key, _, text = content.partition(b"\0")
    if key not in (_PNG_EXIF, _PNG_XMP):
        return b"", b""
    packed = kind == b"zTXt"
    if kind == b"zTXt":
        text = text[1:]
    elif kind == b"iTXt":
        packed, text = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]
    if packed:
        try:
            text = zlib.decompressobj().decompress(text, _MOST_ABOUT)
        except zlib.error:
            text = b""
    return key, text


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    total = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", total)


def _gif(data: bytes, at_least: tuple[int, int] | None) -> Structure:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 128 else 0)
    head, control = data[:at], b""
    parts = _parts()
    while (kind := data[at]) != 0x2C:
        next(parts)
        if kind == 0x3B:
            raise Damaged("it has no pixels")
        if kind != 0x21:
            at += 1
            continue
        begin, at = at, at + 2
        while data[at]:
            next(parts)
            at += 1 + data[at]
        at += 1
        if data[begin + 1] == 0xF9:
            control = data[begin:at]
    left, top, across, down = struct.unpack_from("<HHHH", data, at + 1)
    size = max(width, left + across), max(height, top + down)
    memory = _images(size, 1, 1, *_ANY) + 2 * len(data)
    return Structure(size, memory, 20e-9 * size[0] * size[1], head + control + data[at:])


def _webp(data: bytes, at_least: tuple[int, int] | None) -> Structure:
    kind = data[12:16]
    if kind == b"VP8X":
        across, down = data[24:27] + b"\0", data[27:30] + b"\0"
        width, height = (1 + struct.unpack("<I", each)[0] for each in (across, down))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (each & 0x3FFF for each in struct.unpack_from("<HH", data, 26))
    else:
        raise Damaged("it does not begin with its size")
    pixels = width * height
    # Two canvases of the animation decoder and the bytes that it returns, beside the pictures.
    memory = _images((width, height), *_ANY) + 9 * pixels + 4 * len(data)
    if kind != b"VP8 ":
        # A lossless picture brings codes of its own for many small regions.
        memory += 6144 * min(65536, pixels // 16, len(data) // 2)
    return Structure((width, height), memory, 60e-9 * pixels, data)


def _bmp(data: bytes, at_least: tuple[int, int] | None) -> Structure:
    (header,) = struct.unpack_from("<I", data, 14)
    compression = 0
    if header == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height, _, _, compression = struct.unpack_from("<IIHHI", data, 18)
        if height >> 24 == 0xFF:
            height = 2**32 - height
    memory = _images((width, height), 4, *_ANY) + 2 * len(data)
    seconds = 20e-9 * width * height
    if compression in (1, 2):  # run lengths are decoded in Python
        seconds += 1e-7 * width * height + 5e-7 * len(data)
    return Structure((width, height), memory, seconds, data)


_PPM = re.compile(rb"P([1-6])" + rb"(?:\s|#[^\r\n]*[\r\n])+(\d{1,10})" * 3 + rb"\s")
_PBM = re.compile(rb"P([14])" + rb"(?:\s|#[^\r\n]*[\r\n])+(\d{1,10})" * 2 + rb"\s")


def _ppm(data: bytes, at_least: tuple[int, int] | None) -> Structure:
    bits = data[1:2] in b"14"
    head = (_PBM if bits else _PPM).match(data[: 2**16])
    if head is None:
        raise Damaged("its header has no size")
    kind, width, height, *most = map(int, head.groups())
    channels = 3 if kind in (3, 6) else 1
    memory = _images((width, height), *_ANY) + 2 * len(data)
    seconds = 20e-9 * width * height
    raw = ([], [255], [65535]) if kind == 5 else ([], [255])
    if kind <= 3 or most not in raw:
        # Numbers are decoded in Python, one at a time.
        values = width * height * channels
        memory += 6 * values
        seconds += 1e-6 * (min(values, len(data)) + (len(data) if kind <= 3 else 0))
    plain = b" ".join(head.groups())
    return Structure((width, height), memory, seconds, b"P" + plain + b"\n" + data[head.end() :])


# All tags that pixels depend on.
_TIFF_KEPT = {
    *(256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320),
    *(322, 323, 324, 325, 332, 338, 339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521),
    *(529, 530, 531, 532),
}
_TIFF_XMP = 700
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_WHOLE = {1: "u1", 3: "u2", 4: "u4", 16: "u8"}
_KNOWN_CODECS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}


def _tiff(data: bytes, at_least: tuple[int, int] | None) -> Structure:
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    entry, number = (order + "HHQ8s", "Q") if big else (order + "HHI4s", "I")
    (start,) = struct.unpack_from(order + number, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    first, length, inline = start + (8 if big else 2), struct.calcsize(entry), 8 if big else 4
    tags: dict[int, tuple[int, int, bytes]] = {}
    xmp = b""
    for place, _ in zip(range(count), _parts(), strict=False):
        tag, kind, values, value = struct.unpack_from(entry, data, first + place * length)
        if tag in _TIFF_KEPT and tag not in tags and kind in _SIZES:
            tags[tag] = kind, values, value
        if tag == _TIFF_XMP and values > inline and not xmp:
            (at,) = struct.unpack(order + number, value)
            xmp = data[at : at + min(values, _MOST_ABOUT)]

    def array(tag: int, most: int) -> np.ndarray:
        kind, values, value = tags[tag]
        values = min(values, most)
        if kind not in _WHOLE:
            raise Damaged(f"tag {tag} has no whole numbers")
        content, size = value, values * _SIZES[kind]
        if tags[tag][1] * _SIZES[kind] > inline:
            (at,) = struct.unpack(order + number, value)
            content = data[at : at + size]
        if len(content) < size:
            raise Damaged(f"tag {tag} reaches beyond the end of the file")
        return np.frombuffer(content, order + _WHOLE[kind], values)

    def one(tag: int, default: int) -> int:
        return int(array(tag, 1)[0]) if tag in tags and tags[tag][1] else default

    width, height, compression = one(256, 0), one(257, 0), one(259, 1)
    samples, planes = max(1, one(277, 3)), one(284, 1)
    bits = int(array(258, 8).max(initial=1)) if 258 in tags else 1
    planar = samples if planes == 2 else 1
    if min(width, height) < 1:
        raise Damaged("it has no size")
    tiled = 324 in tags and 273 not in tags
    if tiled or 322 in tags:
        across, down = one(322, 0), one(323, 0)
    else:
        across, down = width, min(height, one(278, height))
    if min(across, down) < 1:
        raise Damaged("it has tiles or strips without pixels")
    blocks = -(-width // across) * -(-height // down) * planar
    block = -(-across * bits * (samples // planar) // 8) * down
    for tag in (273, 279, 324, 325):  # more of them than blocks only cost memory
        if tag in tags and tags[tag][1] > blocks:
            kind, values, value = tags[tag]
            if (values * _SIZES[kind] > inline) == (blocks * _SIZES[kind] > inline):
                tags[tag] = kind, blocks, value
            else:
                raise Damaged(f"tag {tag} has {values:,} values for {blocks:,} tiles or strips")
    others = sum(
        n * _SIZES[k] for tag, (k, n, _) in tags.items() if tag not in (273, 279, 324, 325)
    )
    if others > 2**20:
        raise Damaged("its tags are larger than an encoder writes them")
    lengths = 325 if 325 in tags else 279
    packed = blocks * len(data)
    if lengths in tags and tags[lengths][1] >= blocks:
        packed = int(np.minimum(array(lengths, blocks).astype(float), len(data)).sum())
    memory = _images((width, height), 4, *_ANY) + 2 * len(data)
    memory += 3 * block + 4 * across * down + blocks * (600 if compression == 1 else 48)
    seconds = 20e-9 * width * height + 4e-9 * block * blocks + 4e-5 * blocks
    seconds += 1e-8 * packed if compression != 1 else 0
    if compression not in _KNOWN_CODECS or (compression == 7 and _several_scans(data, blocks)):
        seconds = UNKNOWN
    orientation = orientation_of(b"", xmp) if TAG not in tags else 0
    head = data[:4] + (data[4:8] if big else b"")
    tail = b"\0" * (len(data) % 2)
    rows = b"".join(struct.pack(entry, tag, *tags[tag]) for tag in sorted(tags))
    where = struct.pack(order + number, len(data) + len(tail))
    ifd = struct.pack(order + ("Q" if big else "H"), len(tags)) + rows + bytes(inline)
    body = data[len(head) + len(where) :]
    whole = b"".join([head, where, body, tail, ifd])
    return Structure((width, height), memory, seconds, whole, orientation)


def _several_scans(data: bytes, blocks: int) -> bool:
    return data.count(b"\xff\xda") > blocks + 8


def _heif(data: bytes, at_least: tuple[int, int] | None) -> Structure:
    """HEIC and AVIF. An item may have any number of frames that are never shown, in any time."""
    width = height = at = 0
    for _ in _parts():
        at = data.find(b"ispe", at) + 4
        if at < 4 or at + 12 > len(data):
            break
        across, down = struct.unpack_from(">II", data, at + 4)
        if across * down > width * height:
            width, height = across, down
    memory = _images((width, height), *_ANY) + 10 * width * height + 3 * len(data)
    return Structure((width, height), memory, UNKNOWN, data)


def _jpeg2000(data: bytes, at_least: tuple[int, int] | None) -> Structure:
    """How long the blocks of a codestream take, only decoding them tells."""
    at = 0
    if data[:4] != b"\xff\x4f\xff\x51":
        for _ in _parts():
            length, kind = struct.unpack_from(">I4s", data, at)
            head = 8
            if length == 1:
                head, (length,) = 16, struct.unpack_from(">Q", data, at + 8)
            if kind == b"jp2c":
                at += head
                break
            if length < head:
                raise Damaged("it has no codestream")
            at += length
        if data[at : at + 4] != b"\xff\x4f\xff\x51":
            raise Damaged("its codestream does not begin with its size")
    right, bottom, left, top, *tile = struct.unpack_from(">8I", data, at + 8)
    (channels,) = struct.unpack_from(">H", data, at + 40)
    width, height = right - left, bottom - top
    if min(width, height, *tile[:2]) < 1 or not 1 <= channels <= 4:
        raise Damaged("it has no size, or more than 4 channels")
    across = -(-(right - tile[2]) // tile[0])
    down = -(-(bottom - tile[3]) // tile[1])
    pixels = width * height
    memory = _images((width, height), *_ANY) + 8 * channels * pixels + 3 * len(data)
    memory += 6144 * max(1, across) * max(1, down)  # what the decoder keeps of each tile
    return Structure((width, height), memory, UNKNOWN, data)


_READERS: dict[str, Callable[[bytes, tuple[int, int] | None], Structure]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "WEBP": _webp,
    "BMP": _bmp,
    "PPM": _ppm,
    "TIFF": _tiff,
    "AVIF": _heif,
    "HEIF": _heif,
    "JPEG2000": _jpeg2000,
}
