"""Pictures whose container says something else: fields of its structure are set to odd values.

Where `images` mutates bytes, this target knows where the numbers are: tags of TIFF, segments of
JPEG, chunks of PNG (with the right checksum) and WebP, blocks of GIF, boxes of AVIF, the headers of
BMP and PPM. Decoding takes no more than the limits of `judge.py`, whatever the numbers say.
"""

import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from targets import images

from captax.images import decode

KINDS = ("container",)
MOST = 1_000_000  # pixels
WORDS = images.WORDS
STARTS = True  # pictures that may take long are decoded in another process

_ODD = (0, 1, 2, 7, 8, 255, 256, 4096, 32767, 40_000, 65_535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_TIFF_TAGS = (256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325,
              330, 338, 339, 347, 530, 34665, 34675)  # fmt: skip


def seeds() -> Iterator[tuple[str, bytes]]:
    """Small pictures, and hostile ones of every kind that was found."""
    for _, content in images.seeds():
        yield "container", content
    tags = [(256, 10), (257, 10), (258, 8), (259, 8), (262, 1), (277, 1)]
    tiles = [(322, 40_000), (323, 50_000), (324, 8), (325, 20)]
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags + tiles)
    yield "container", b"II*\0" + struct.pack("<I", 28) + bytes(20) + b"\x0a\0" + rows + bytes(4)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """`content` with a few fields changed, or parts repeated, moved or removed."""
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        if len(content) > 200_000:  # repeated before
            break
        content = _mutators(content)(bytearray(content), rng)
    return content


def _mutators(content: bytes):
    if content[:4] in (b"II*\0", b"MM\0*"):
        return _tiff
    if content.startswith(b"\x89PNG"):
        return _png
    if content.startswith(b"\xff\xd8"):
        return _jpeg
    if content.startswith(b"RIFF"):
        return _webp
    return _bmp if content.startswith(b"BM") else _numbers


def _number(rng: random.Random, size: int) -> int:
    value = rng.choice(_ODD) if rng.random() < 0.7 else rng.getrandbits(8 * size)
    return value % 256**size


def _numbers(content: bytearray, rng: random.Random) -> bytes:
    """A number in the first bytes, or a later one: headers of GIF, PPM and AVIF are short."""
    size = rng.choice((1, 2, 4))
    at = rng.randrange(max(1, min(len(content), rng.choice((40, 400, 10**6))) - size))
    order = rng.choice(("little", "big"))
    content[at : at + size] = _number(rng, size).to_bytes(size, order)
    if content[:1] == b"P" and rng.random() < 0.7:
        sizes = [str(rng.choice(_ODD)).encode() for _ in range(3)]
        return content[:3] + b" ".join(sizes) + b"\n" + content[-30:]
    return bytes(content)


def _tiff(content: bytearray, rng: random.Random) -> bytes:
    order = "<" if content[:1] == b"I" else ">"
    (start,) = struct.unpack_from(order + "I", content, 4)
    if start + 2 > len(content):
        return _numbers(content, rng)
    (count,) = struct.unpack_from(order + "H", content, start)
    rows = [content[start + 2 + 12 * n : start + 14 + 12 * n] for n in range(min(count, 60))]
    rows = [row for row in rows if len(row) == 12]
    row = struct.pack(order + "HHII", rng.choice(_TIFF_TAGS), rng.choice((1, 3, 4, 5, 7, 13, 16)),
                      rng.choice((1, 1, 1, 2, 4, *_ODD)), _number(rng, 4))  # fmt: skip
    match rng.randrange(4):
        case 0 if rows:
            at = rng.randrange(len(rows))
            rows[at] = rows[at][:8] + struct.pack(order + "I", _number(rng, 4))
        case 1 if rows:
            rows.pop(rng.randrange(len(rows)))
        case 2:
            tag = row[:2]
            rows = [each for each in rows if each[:2] != tag] + [row]
        case _:
            rows.append(row)
    if rng.random() < 0.9:
        rows.sort(key=lambda each: struct.unpack_from(order + "H", each)[0])
    after = rng.choice((0, start, _number(rng, 4)))
    ifd = struct.pack(order + "H", len(rows)) + b"".join(rows) + struct.pack(order + "I", after)
    return bytes(content[:4]) + struct.pack(order + "I", len(content)) + content[8:] + ifd


def _png(content: bytearray, rng: random.Random) -> bytes:
    parts, at = [], 8
    while at + 8 <= len(content) and len(parts) < 200:
        length, kind = struct.unpack_from(">I4s", content, at)
        parts.append((kind, bytes(content[at + 8 : at + 8 + length])))
        at += 12 + length
    if not parts:
        return bytes(content)
    where = rng.randrange(len(parts))
    kind, data = parts[where]
    match rng.randrange(5):
        case 0:
            parts.insert(rng.randrange(len(parts) + 1), parts[where])
        case 1:
            parts.pop(where)
        case 2:
            bomb = b"a\0\0" + zlib.compress(bytes(rng.choice((10, 10**5, 10**7))))
            parts.insert(where, (rng.choice((b"iCCP", b"zTXt", b"IDAT", b"eXIf", b"tRNS")), bomb))
        case 3:
            parts *= rng.choice((2, 50))
        case _:
            changed = bytearray(data)
            if size := min(len(changed), rng.choice((1, 4))):
                place = rng.randrange(len(changed) - size + 1)
                changed[place : place + size] = _number(rng, size).to_bytes(size, "big")
            parts[where] = kind, bytes(changed)
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return bytes(content[:8]) + body


def _jpeg(content: bytearray, rng: random.Random) -> bytes:
    places, at = [], 2
    while at + 4 <= len(content) and len(places) < 500:
        at = content.find(b"\xff", at)
        if at < 0 or at + 4 > len(content):
            break
        if content[at + 1] in (0, 0xFF, *range(0xD0, 0xDA)):
            at += 1
            continue
        (length,) = struct.unpack_from(">H", content, at + 2)
        places.append((at, at + 2 + length))
        at += 2 + length
    if not places:
        return bytes(content)
    begin, end = rng.choice(places)
    match rng.randrange(5):
        case 0:
            content[begin:begin] = content[begin:end][:1000] * rng.choice((1, 50, 2000))
        case 1:
            del content[begin:end]
        case 2:
            begin = max(content.rfind(b"\xff\xda"), 0)
            content[-2:-2] = content[begin:-2][:1000] * rng.choice((1, 50, 2000))
        case 3:
            content[begin + 1] = rng.choice((0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA, 0xDD, 0xE1, 0xEE))
        case _:
            size = rng.choice((1, 2))
            place = rng.randrange(begin + 2, max(begin + 3, min(end, len(content) - 2)))
            content[place : place + size] = _number(rng, size).to_bytes(size, "big")
    return bytes(content)


def _webp(content: bytearray, rng: random.Random) -> bytes:
    parts, at = [], 12
    while at + 8 <= len(content) and len(parts) < 100:
        kind, length = struct.unpack_from("<4sI", content, at)
        parts.append((kind, bytes(content[at + 8 : at + 8 + length])))
        at += 8 + length + length % 2
    if not parts:
        return _numbers(content, rng)
    where = rng.randrange(len(parts))
    kind, data = parts[where]
    match rng.randrange(4):
        case 0:
            parts.insert(0, (b"VP8X", bytes(4) + rng.randbytes(6)))
        case 1:
            parts *= rng.choice((2, 50))
        case 2:
            parts.pop(where)
        case _ if data:
            changed = bytearray(data)
            changed[rng.randrange(min(len(changed), 16))] = _number(rng, 1)
            parts[where] = kind, bytes(changed)
    body = b"".join(
        struct.pack("<4sI", kind, len(data)) + data + bytes(len(data) % 2) for kind, data in parts
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _bmp(content: bytearray, rng: random.Random) -> bytes:
    at = rng.choice((10, 14, 18, 22, 28, 30, 34, 46))
    size = 2 if at == 28 else 4
    values = (1, 2, 3, 4, 8, 12, 16, 24, 32, 40, 1000, 2**32 - 1000, *_ODD)
    content[at : at + size] = (rng.choice(values) % 256**size).to_bytes(size, "little")
    return bytes(content)


def read(path: Path) -> None:
    """Decode, smaller too, within time."""
    decode(path, max_pixels=MOST, at_least=(4, 4), seconds=20.0)
    picture = decode(path, max_pixels=MOST, seconds=20.0)
    assert picture.mode == "RGB" and min(picture.size) > 0
