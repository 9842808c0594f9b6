"""Files that ask for much more memory or time than their pixels: refused before it is taken."""

import contextlib
import io
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captax.images import ImageError, ImageProcessor, apart, decode
from captax.images.budget import NotWanted
from captax.images.decode import NotQuick, TooManyPixels, TooMuchMemory

MIB = 1 << 20


def saved(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def tiff(*tags: tuple[int, int], width: int = 10, height: int = 10, compression: int = 8) -> bytes:
    """A grey TIFF whose further tags are whole numbers, with 20 bytes of pixels at 8."""
    first = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 277: 1}
    entries = sorted({**first, **dict(tags)}.items())
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return (
        b"II*\0"
        + struct.pack("<I", 28)
        + bytes(20)
        + struct.pack("<H", len(entries))
        + rows
        + bytes(4)
    )


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(width: int, height: int, *chunks: bytes) -> bytes:
    lines = zlib.compressobj(1)
    block, left, data = b"\0" * MIB, height * (width + 1), b""
    while left > 0:
        data, left = data + lines.compress(block[: min(left, MIB)]), left - MIB
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", data + lines.flush())
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def many_scans(scans: int, size: tuple[int, int] = (40, 30)) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = saved(Image.new("RGB", size), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    last = data[at:-2]
    return data[:-2] + last * (scans - data.count(b"\xff\xda")) + data[-2:]


TILE = [(322, 40_000), (323, 50_000), (324, 8), (325, 20)]


@pytest.mark.parametrize("compression", [1, 5, 8, 32773])
def test_a_tile_far_larger_than_the_picture(compression):
    data = tiff(*TILE, compression=compression)
    with pytest.raises(TooMuchMemory, match="TIFF picture takes more than") as error:
        decode(data)
    assert "\n" not in str(error.value)
    assert error.value.__context__ is None or not error.value.__context__.__traceback__


def test_the_memory_of_hostile_files_is_not_taken(tmp_path):
    """In a process that has 1 GiB more than it started with, so a MemoryError would show."""
    names = {
        "tile": tiff(*TILE),
        "planes": tiff(*TILE, (284, 2), (277, 4)),
        "strip": tiff((278, 2**31), (273, 8), (279, 20), height=2**27, width=1000),
        "tall": tiff((278, 2**31), (273, 8), (279, 20), height=10**8, width=1),
    }
    for name, data in names.items():
        (tmp_path / name).write_bytes(data)
    script = f"""
import resource, sys
from pathlib import Path
from captax.images import ImageError, decode
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (1 << 30),) * 2)
for name in {list(names)!r}:
    try:
        decode(Path({str(tmp_path)!r}) / name, max_pixels=50_000_000)
        sys.exit(name)
    except ImageError as error:
        assert "MemoryError" not in str(error), error
        assert "not enough memory" not in str(error), error
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_picture_for_which_there_is_no_memory_is_one_error(tmp_path):
    """A job goes on to the next picture."""
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    script = f"""
import resource
from pathlib import Path
from PIL import Image
from captax.images import ImageError, decode
path = Path({str(tmp_path)!r}) / "large.png"
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (200 << 20),) * 2)
for source, name in ((path, str(path)), (path.read_bytes(), "picture"), (Image.open(path), path)):
    try:
        decode(source)
        raise SystemExit("it was decoded")
    except ImageError as error:
        assert str(error).startswith(f"{{name}}: there is not enough memory to decode it"), error
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_very_long_picture_is_resized_in_little_memory():
    image = Image.new("RGB", (1, 4_000_000), (10, 20, 30))
    image.paste((200, 100, 50), (0, 2_000_000, 1, 4_000_000))
    for processor in (ImageProcessor((224, 224)), ImageProcessor((64, 32), resample="lanczos")):
        Path("/proc/self/clear_refs").write_text("5")
        before = _memory("VmRSS")
        pixels = processor.prepare(image).pixels
        assert _memory("VmHWM") - before < 300 * MIB
        half = pixels.shape[0] // 2
        assert (pixels[: half - 4] == (10, 20, 30)).all()
        assert (pixels[half + 4 :] == (200, 100, 50)).all()


def test_sides_of_ordinary_length_are_resized_as_before():
    image = noise(3, 131_071)
    want = image.resize((24, 24), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(ImageProcessor((24, 24)).prepare(image).pixels, want)


def _memory(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{name}:")[2].split(maxsplit=1)[0])


def test_too_many_scans_are_refused_before_they_are_decoded():
    started = time.monotonic()
    with pytest.raises(ImageError, match="more than 100 scans"):
        decode(many_scans(20_000, (2000, 1500)))
    assert time.monotonic() - started < 2
    assert decode(many_scans(60)).size == (40, 30)


def test_scans_of_a_thumbnail_or_of_a_picture_behind_do_not_count():
    data = saved(noise(), "JPEG", progressive=True)
    thumbnail = b"\xff\xe2" + struct.pack(">H", 2 + 400) + b"\xff\xda" * 200
    want = np.asarray(decode(data))
    got = decode(data[:2] + thumbnail + data[2:] + b"\xff\xd8" + b"\xff\xda\0\2" * 300)
    np.testing.assert_array_equal(np.asarray(got), want)


def test_what_is_not_about_pixels_is_left_out():
    """Each of these takes minutes or gigabytes in Python, or is refused by Pillow."""
    image = noise()
    bomb = zlib.compress(bytes(200 * MIB))
    started = time.monotonic()
    jpeg = saved(image, "JPEG")
    exif = b"\xff\xe1" + struct.pack(">H", 2 + 6 + 1) + b"Exif\0\0x"
    plain = np.asarray(decode(jpeg))
    np.testing.assert_array_equal(np.asarray(decode(jpeg[:2] + exif * 90_000 + jpeg[2:])), plain)
    want = np.asarray(decode(png(5, 4)))
    for extra in (chunk(b"iCCP", b"x\0\0" + bomb), chunk(b"zTXt", b"x\0\0" + bomb) * 9):
        np.testing.assert_array_equal(np.asarray(decode(png(5, 4, extra))), want)
    gif = saved(image.quantize(16), "GIF")
    start = 13 + (3 << (gif[10] & 7) + 1)
    comment = b"\x21\xfe" + (b"\xff" + b"x" * 255) * 50_000 + b"\0"
    want = np.asarray(decode(gif))
    np.testing.assert_array_equal(np.asarray(decode(gif[:start] + comment + gif[start:])), want)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"P6\n#" + b"x" * 70_000 + b"\n1 1 255\n123", "header has no size"),
        (b"P6\n" + b" " * 70_000 + b"1 1 255\n123", "header has no size"),
        (b"\xff\xd8" + b"\xff" * 10_000_000, "the file is truncated"),
        (b"\xff\xd8" + b"\xff\xe0\0\2" * 200_000, "more than 100,000 parts"),
        (png(5, 4, chunk(b"tEXt", b"") * 200_000), "more than 100,000 parts"),
        (b"GIF89a" + bytes(7) + b"\x21\xfe" + b"\1x" * 200_000, "more than 100,000 parts"),
        (tiff((278, 0), (273, 8), (279, 20)), "tiles or strips without pixels"),
    ],
)  # fmt: skip
def test_endless_structure_is_refused(data, message):
    started = time.monotonic()
    with pytest.raises(ImageError, match=message):
        decode(data)
    assert time.monotonic() - started < 5


def test_values_of_a_tiff_that_no_block_needs_are_not_read():
    """Strips that do not exist cost Pillow a Python object each."""
    data = saved(noise(), "TIFF", compression="raw")
    at = data.index(struct.pack("<HHI", 273, 4, 1))
    hostile = bytearray(data + bytes(4 * 1_000_000))
    hostile[at : at + 12] = struct.pack("<HHII", 273, 4, 1_000_000, len(data))
    with pytest.raises(ImageError, match="1,000,000 values for 1 tiles or strips"):
        decode(bytes(hostile))


def test_lengths_of_strips_may_be_bytes():
    data = bytearray(saved(noise(), "TIFF", compression="tiff_lzw"))
    at = data.index(struct.pack("<H", 279))
    data[at : at + 12] = struct.pack("<HHII", 279, 1, 1, 200)
    with pytest.raises(ImageError, match="damaged or truncated TIFF"):
        decode(bytes(data))


def slow_ppm(side: int = 3000) -> bytes:
    """Numbers of a maximum that Pillow scales in Python, one at a time."""
    return b"P6\n%d %d\n77\n" % (side, side) + bytes(3 * side * side)


def test_what_may_take_long_is_ended_and_the_next_is_decoded():
    started = time.monotonic()
    with pytest.raises(ImageError, match=r"took more than 1 s; save it again as a usual PPM"):
        decode(slow_ppm(), seconds=1.0)
    assert time.monotonic() - started < 10
    assert decode(saved(noise(), "AVIF")).size == (40, 30)


def test_a_picture_that_nobody_waits_for_is_ended():
    gone = threading.Event()
    threading.Timer(1, gone.set).start()
    started = time.monotonic()
    with pytest.raises(NotWanted):
        decode(slow_ppm(), gone=gone.is_set)
    assert time.monotonic() - started < 10


def test_a_worker_that_dies_costs_one_picture(monkeypatch):
    decode(saved(noise(), "AVIF"))
    worker = apart._idle[-1]
    os.kill(worker.process.pid, signal.SIGSTOP)  # it lives, and dies with the next request
    threading.Timer(0.5, worker.process.kill).start()
    with pytest.raises(ImageError, match="its decoder ended with SIGKILL"):
        decode(saved(noise(), "AVIF"))
    assert decode(saved(noise(), "AVIF")).size == (40, 30)


def test_errors_of_a_worker_name_the_file(tmp_path):
    path = tmp_path / "cut.avif"
    path.write_bytes(saved(noise(), "AVIF")[:-40])
    with pytest.raises(ImageError, match=r"cut\.avif: damaged or truncated AVIF picture"):
        decode(path)
    with pytest.raises(TooManyPixels, match="40x30 is more than 1,199 pixels"):
        decode(saved(noise(), "AVIF"), max_pixels=1199)


def test_quick_pictures_alone():
    assert decode(saved(noise(), "JPEG"), quick=True).size == (40, 30)
    for data in (slow_ppm(), saved(noise(), "AVIF"), png(8000, 8000)):
        with pytest.raises(NotQuick):
            decode(data, quick=True)


def test_a_worker_has_a_limit_of_memory_and_leaves_with_its_parent():
    script = """
from captax.images import apart, decode
import sys
decode(sys.stdin.buffer.read())
print(apart._idle[0].process.pid, flush=True)
sys.stdin.close()
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], input=saved(noise(), "AVIF"), stdout=subprocess.PIPE
    )
    pid, end = int(run.stdout), time.monotonic() + 20
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        while time.monotonic() < end:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                break
            time.sleep(0.05)
        else:
            pytest.fail("the worker goes on without the process that asked it")
    assert run.returncode == -signal.SIGKILL and resource.RLIMIT_AS is not None
