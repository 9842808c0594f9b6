"""A tree of 20,000 pictures, with all that such trees have in them, through the real command."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SMALL, LARGE = 2_000, 20_000
EACH = 12  # broken files of every kind
# What 18,000 names more may take; the journal, and so all else, is on the disk.
MARGIN = 24 * 2**20


def encoded(image: Image.Image, format: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


def scene(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    tiles = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(tiles).resize(size)


def resized(png: bytes, width: int, height: int) -> bytes:
    """A PNG that says it is of that size."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def broken() -> dict[str, bytes]:
    """Ten kinds of files that only look like pictures."""
    jpeg, png = encoded(scene(0), "JPEG"), encoded(scene(0), "PNG")
    return {
        "empty.jpg": b"",
        "text.jpg": b"<html>not found</html>",
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "header.jpg": jpeg[:30],
        "cut.png": png[: len(png) // 2],
        "huge.png": resized(png, 100_000, 100_000),
        "no pixels.png": resized(png, 0, 40),
        "cut.webp": encoded(scene(0), "WEBP")[:60],
        "phone.heic": b"\0\0\0\x18ftypheic" + bytes(100),
        "damaged.tif": b"II*\0\xff\xff\xff\x7f" + bytes(50),
    }


ODD = [
    b"with spaces .jpg",
    "ünïcödé 犬 🐕.jpg".encode(),
    b"new\nline.jpg",
    b"'\"$`\\;&|<>*?[].jpg",
    b"\xff\xfe no utf-8.jpg",
    b"x" * 251 + b".jpg",
    b"-rf.jpg",
    b"UPPER.JPG",
]


def make_tree(folder: Path, count: int) -> Counter[str]:
    """A tree in which a search finds `count` pictures; of each kind, how many."""
    folder.mkdir()
    top = os.fsencode(folder)
    for name in ODD:
        Path(os.fsdecode(top + b"/" + name)).write_bytes(encoded(scene(1), "JPEG"))
    (folder / "photo.jpg").write_bytes(encoded(scene(2, (5_472, 3_648)), "JPEG"))
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    (folder / "x.jpg").mkdir()
    scene(3).save(folder / "x.jpg" / "in.png")
    (folder / "x.jpg" / "loop").symlink_to("..")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "gone.jpg").symlink_to("nowhere")
    (folder / "notes.txt").write_text("left alone")
    (folder / "a-masklabel.png").write_bytes(encoded(scene(4), "PNG"))
    for name, content in broken().items():
        for n in range(EACH):
            path = folder / "broken" / f"{n}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    failed = 2 + 10 * EACH
    originals = []
    for n, format in enumerate(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]):
        originals.append(folder.with_name(f"{folder.name} {n}.{format.lower()}"))
        originals[-1].write_bytes(encoded(scene(10 + n), format))
    rest = count - len(ODD) - 3 - failed
    for n in range(rest):
        original = originals[n % len(originals)]
        path = folder / "many" / f"{n // 1000}" / f"{n}{original.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if n % 50 == 0:
            path.write_bytes(original.read_bytes())
        else:
            path.hardlink_to(original)
    return Counter(captioned=count - failed, failed=failed)


def run(model: Path, cache: Path, *arguments: object) -> tuple[str, int]:
    """What the command says at its end, and the most memory that it had, in bytes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "captax", "caption", "--model", model, *map(str, arguments)],
        env={**os.environ, "CAPTAX_CACHE": str(cache)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    told = process.stderr.read()
    process.stderr.close()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 1, told
    return told, used.ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.nightly("collections")
def test_twenty_thousand_pictures_in_flat_memory(model: Path, tmp_path: Path) -> None:
    memory = {}
    for count in (SMALL, LARGE):
        folder, out = tmp_path / f"{count}", tmp_path / f"{count}.jsonl"
        expected = make_tree(folder, count)
        told, memory[count] = run(model, tmp_path / "cache", folder, "--out", out)
        print(f"{count:,} pictures: {memory[count] / 2**20:.0f} MiB", told.splitlines()[-20:])
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert len({row["path"] for row in rows}) == len(rows) == count
        found = Counter("failed" if "error" in row else "captioned" for row in rows)
        assert found == expected
        summary = (
            f"{count:,} pictures: {expected['captioned']:,} captioned, {expected['failed']} failed"
        )
        assert summary in told
    assert memory[LARGE] < memory[SMALL] + MARGIN

    expected = Counter(captioned=found["captioned"], failed=found["failed"])
    folder = tmp_path / f"{LARGE}"
    told, used = run(model, tmp_path / "cache", folder, "--format", "sidecar")
    print(f"sidecars: {used / 2**20:.0f} MiB", told.splitlines()[-20:])
    sidecars = [path for path in folder.rglob("*.txt") if path.name != "notes.txt"]
    assert len(sidecars) == expected["captioned"]
    for row in rows:
        if "caption" in row:
            text = Path(row["path"]).with_suffix(".txt").read_text(encoding="utf-8")
            assert text == f"{row['caption']}\n"
    assert used < memory[SMALL] + 2 * MARGIN  # also whose sidecar each one is
    told, _ = run(model, tmp_path / "cache", folder, "--format", "sidecar")
    assert f"{LARGE:,} pictures: {expected['captioned']:,} captioned before" in told
