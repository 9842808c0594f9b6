"""Pictures made here, described by captax, read by Pillow and by exiftool called on its own."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageSequence, IptcImagePlugin

from captax.collection.description import DescriptionError
from captax.collection.exiftool import ExifTool
from captax.errors import CaptaxError

TEXT = 'Ein "Kätzchen" & <zwei>\nHunde 猫 $HOME @x \\n'


@pytest.fixture(scope="module")
def descriptions(exiftool: str) -> Iterator[ExifTool]:
    with ExifTool(exiftool) as tool:
        yield tool


def picture(path: Path, **options: object) -> Path:
    values = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(values).save(path, **options)
    return path


def frames(path: Path) -> list[np.ndarray]:
    with Image.open(path) as image:
        return [np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(image)]


def tags(exiftool: str, path: Path, *arguments: str) -> dict[str, str]:
    command = [exiftool, "-j", "-G1", "-a", "-charset", "exif=UTF8", *arguments, str(path)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]


def set_tags(exiftool: str, path: Path, *arguments: str) -> None:
    command = [exiftool, "-q", "-m", "-overwrite_original", *arguments, path]
    subprocess.run(command, check=True, capture_output=True)


def canon_exif(text: str) -> bytes:
    """EXIF with a maker note like Canon's, whose text lies at an offset from EXIF's own start."""
    note = bytearray(b"\x01\x00\x06\x00\x02\x00" + (32).to_bytes(4, "little") + b"????\0\0\0\0")
    note += text.encode().ljust(32, b"\0")
    exif = Image.Exif()
    exif.endian = "<"
    exif[0x010F], exif[0x0110] = "Canon", "Canon EOS 5D"
    exif.get_ifd(0x8769)[0x927C] = bytes(note)
    blob = bytearray(exif.tobytes())
    at = blob.index(note)
    start = blob.index(b"II*\0")
    blob[at + 10 : at + 14] = (at - start + 18).to_bytes(4, "little")
    return bytes(blob)


KINDS = {
    "jpg": ("EXIF", "IPTC", "XMP"),
    "jpeg": ("EXIF", "IPTC", "XMP"),
    "mpo": ("EXIF", "IPTC", "XMP"),
    "tif": ("EXIF", "IPTC", "XMP"),
    "jp2": ("EXIF", "IPTC", "XMP"),
    "png": ("EXIF", "XMP"),
    "webp": ("EXIF", "XMP"),
    "avif": ("EXIF", "XMP"),
    "gif": ("XMP",),
}
PLACES = {
    "EXIF": "IFD0:ImageDescription",
    "IPTC": "IPTC:Caption-Abstract",
    "XMP": "XMP-dc:Description",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_description_goes_where_the_kind_of_file_holds_it_and_pixels_stay(
    kind: str, tmp_path: Path, exiftool: str, descriptions: ExifTool
):
    path = picture(tmp_path / f"a.{kind}")
    before = frames(path)
    assert descriptions.read(path) == ""
    for text in ("another", TEXT):
        descriptions.write(path, text)
        assert descriptions.read(path) == text
    found = tags(exiftool, path)
    assert {place: found.get(tag) for place, tag in PLACES.items()} == {
        place: TEXT if place in KINDS[kind] else None for place in PLACES
    }
    assert ("IPTC:CodedCharacterSet" in found) == ("IPTC" in KINDS[kind])
    assert not [key for key in found if key.endswith(("Warning", "Error"))]
    after = frames(path)
    assert len(before) == len(after)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_pillow_reads_what_was_written(kind: str, tmp_path: Path, descriptions: ExifTool):
    path = picture(tmp_path / f"a.{kind}")
    descriptions.write(path, TEXT)
    with Image.open(path) as image:
        image.load()
        description = image.getxmp()["xmpmeta"]["RDF"]["Description"]["description"]
        assert description["Alt"]["li"] == {"lang": "x-default", "text": TEXT}
        # Pillow reads EXIF's bytes as Latin 1, as before the guidelines.
        assert image.getexif()[0x010E].encode("latin-1").decode() == TEXT
        if kind == "jpg":
            iptc = IptcImagePlugin.getiptcinfo(image)
            assert iptc is not None
            assert (iptc[2, 120], iptc[1, 90]) == (TEXT.encode(), b"\x1b%G")


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tif"])
def test_animations_and_further_pages_stay(kind: str, tmp_path: Path, descriptions: ExifTool):
    path = tmp_path / f"a.{kind}"
    pages = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    before = frames(path)
    descriptions.write(path, TEXT)
    after = frames(path)
    assert len(before) == len(after) == 3
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_all_else_in_a_photo_stays(tmp_path: Path, exiftool: str, descriptions: ExifTool):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = picture(tmp_path / "a.jpg", exif=canon_exif("IMG:5D JPEG"), icc_profile=profile)
    set_tags(
        exiftool,
        path,
        *["-Orientation#=6", "-GPSLatitude=47.3", "-GPSLatitudeRef=N", "-Comment=scanned"],
        *["-DateTimeOriginal=2001:02:03 04:05:06", "-XMP:Rating=4", "-XMP-dc:Description-de=Hund"],
        *["-Keywords=dog", "-Keywords=grass", "-IPTC:By-line=Ann", "-XMP-crs:Exposure2012=0.5"],
    )
    everything = ("-All:All", "--System:All", "--ExifTool:All", "--CurrentIPTCDigest")
    before = tags(exiftool, path, *everything)
    assert before["Canon:CanonImageType"] == "IMG:5D JPEG"
    descriptions.write(path, TEXT)
    after = tags(exiftool, path, *everything)
    assert {key: after.get(key) for key in before} == before
    assert set(after) - set(before) <= {
        *PLACES.values(),
        "IPTC:CodedCharacterSet",
        "IPTC:EnvelopeRecordVersion",
        "Photoshop:IPTCDigest",
    }
    with Image.open(path) as image:
        assert image.info["icc_profile"] == profile
        assert image.getexif()[0x0112] == 6


@pytest.mark.parametrize("charset", ["Latin", "UTF8"])
def test_iptc_without_a_mark_becomes_utf8_whole(
    charset: str, tmp_path: Path, exiftool: str, descriptions: ExifTool
):
    path = picture(tmp_path / "a.jpg")
    others = ["-Keywords=Zürich", "-Keywords=Süd & Ost", "-IPTC:By-line=Jörg", "-IPTC:City=Köln"]
    others += ["-IPTC:DateCreated=2001:02:03", "-IPTC:TimeCreated=04:05:06+01:00", "-Urgency=5"]
    set_tags(exiftool, path, "-charset", f"iptc={charset}", *others, "-IPTCDigest=new")
    before = tags(exiftool, path, "-charset", f"iptc={charset}", "-IPTC:all")
    descriptions.write(path, TEXT)
    found = tags(exiftool, path)
    assert found["Photoshop:IPTCDigest"] == found["File:CurrentIPTCDigest"]
    assert found["IPTC:Caption-Abstract"] == TEXT
    assert before["IPTC:Keywords"] == ["Zürich", "Süd & Ost"]
    assert {key: found.get(key) for key in before} == before
    with Image.open(path) as image:
        iptc = IptcImagePlugin.getiptcinfo(image)
    assert iptc is not None
    assert iptc[2, 25] == ["Zürich".encode(), "Süd & Ost".encode()]


def test_the_iptc_digest_is_renewed_only_where_it_was_true(
    tmp_path: Path, exiftool: str, descriptions: ExifTool
):
    none, true, false = (picture(tmp_path / f"{name}.jpg") for name in ("none", "true", "false"))
    set_tags(exiftool, none, "-IPTC:By-line=Ann")
    set_tags(exiftool, true, "-IPTC:By-line=Ann", "-IPTCDigest=new")
    set_tags(exiftool, false, "-IPTC:By-line=Ann", f"-IPTCDigest={'ab' * 16}")
    agreed = {}
    for path in (none, true, false):
        descriptions.write(path, TEXT)
        found = tags(exiftool, path, "-IPTCDigest", "-CurrentIPTCDigest")
        agreed[path.stem] = found["Photoshop:IPTCDigest"] == found["File:CurrentIPTCDigest"]
    assert agreed == {"none": True, "true": True, "false": False}


def test_tags_are_read_in_the_guidelines_order(
    tmp_path: Path, exiftool: str, descriptions: ExifTool
):
    path = picture(tmp_path / "a.jpg")
    set_tags(exiftool, path, "-XMP-dc:Description=in XMP")
    assert descriptions.read(path) == "in XMP"
    set_tags(exiftool, path, "-IPTC:Caption-Abstract=in IPTC", f"-IPTCDigest={'ab' * 16}")
    assert descriptions.read(path) == "in IPTC"  # newer than XMP, says the digest
    set_tags(exiftool, path, "-EXIF:ImageDescription=in EXIF")
    assert descriptions.read(path) == "in EXIF"


def test_what_a_camera_wrote_by_itself_is_no_description(
    tmp_path: Path, exiftool: str, descriptions: ExifTool
):
    path = picture(tmp_path / "a.jpg")
    set_tags(exiftool, path, "-EXIF:ImageDescription=OLYMPUS DIGITAL CAMERA         ")
    assert descriptions.read(path) == ""
    set_tags(exiftool, path, "-IPTC:Caption-Abstract=by hand")
    assert descriptions.read(path) == "by hand"


def test_a_long_text_is_cut_in_iptc_alone_and_between_characters(
    tmp_path: Path, exiftool: str, descriptions: ExifTool
):
    path = picture(tmp_path / "a.jpg")
    text = "a" + "ä" * 3000
    descriptions.write(path, text)
    assert descriptions.read(path) == text
    found = tags(exiftool, path)
    assert found["XMP-dc:Description"] == found["IFD0:ImageDescription"] == text
    assert found["IPTC:Caption-Abstract"] == "a" + "ä" * 999


@pytest.mark.parametrize(
    "text",
    [
        "<=x",
        "=x",
        "+=1",
        "@",
        "-execute",
        "{ready}",
        "true",
        "1.50",
        "&amp;&#10;",
        "#[CSTR]\\n",
        "%d",
    ],
)
def test_text_that_means_something_to_exiftool_is_text(
    text: str, tmp_path: Path, descriptions: ExifTool
):
    path = picture(tmp_path / "a.jpg")
    descriptions.write(path, text)
    assert descriptions.read(path) == text


NAMES = [
    *[
        b"-x.jpg",
        b" a b .jpg",
        b"line\nbreak.jpg",
        b'\\n"\r.jpg',
        b"\xff\xe4.jpg",
        "猫.jpg".encode(),
    ],
    *[b"touch x|", b"%d*?[$@].jpg", b"#c.jpg", b"n" * 238 + b".jpg"],
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.skipif(sys.platform != "linux", reason="such names are Linux's")
def test_any_name_is_a_name(name: bytes, tmp_path: Path, descriptions: ExifTool):
    bystander = picture(tmp_path / "x.jpg").read_bytes()
    path = picture(tmp_path / "a.jpg").rename(tmp_path / os.fsdecode(name))
    descriptions.write(path, TEXT)
    assert descriptions.read(path) == TEXT
    assert (tmp_path / "x.jpg").read_bytes() == bystander
    assert len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_described_is_one_clear_error_and_work_goes_on(
    tmp_path: Path, descriptions: ExifTool
):
    whole = picture(tmp_path / "whole.jpg")
    png = picture(tmp_path / "a.png").read_bytes()
    (tmp_path / "half.png").write_bytes(png[: len(png) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "wrong.jpg").write_bytes(png)
    (tmp_path / "odd$\n.jpg").write_bytes(whole.read_bytes())
    (tmp_path / f"{'n' * 246}.jpg").write_bytes(whole.read_bytes())
    refused = ["half.png", "empty.jpg", "text.jpg", "wrong.jpg", "odd$\n.jpg", f"{'n' * 246}.jpg"]
    refused += [picture(tmp_path / f"a.{kind}").name for kind in ("bmp", "ppm")]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    loop = tmp_path / "loop.jpg"
    loop.symlink_to(loop)
    for name in refused:
        with pytest.raises(
            DescriptionError, match=r"(?s)as it was; --format xmp writes to .*\.xmp instead"
        ) as error:
            descriptions.write(tmp_path / name, TEXT)
        assert str(error.value).startswith(str(CaptaxError(str(tmp_path / name))))
    for nothing in (tmp_path, tmp_path / "absent.jpg", loop):
        with pytest.raises(DescriptionError, match="no such file"):
            descriptions.write(nothing, TEXT)
    for text in ("", "a\x00b"):
        with pytest.raises(DescriptionError, match="the description"):
            descriptions.write(whole, text)
    loop.unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    descriptions.write(whole, TEXT)
    assert descriptions.read(whole) == TEXT


def test_mode_and_links_stay(tmp_path: Path, descriptions: ExifTool):
    (tmp_path / "store").mkdir()
    stored = picture(tmp_path / "store" / "1.jpg")
    stored.chmod(0o640)
    link = tmp_path / "a.jpg"
    link.symlink_to(stored)
    descriptions.write(link, TEXT)
    assert link.is_symlink()
    assert descriptions.read(stored) == TEXT
    assert stat.S_IMODE(stored.stat().st_mode) == 0o640


def test_the_rest_of_a_killed_run_is_replaced(tmp_path: Path, descriptions: ExifTool):
    path = picture(tmp_path / "a.jpg")
    (tmp_path / "a.jpg_exiftool_tmp").write_bytes(path.read_bytes()[:100])
    descriptions.write(path, TEXT)
    assert descriptions.read(path) == TEXT
    assert [file.name for file in tmp_path.iterdir()] == ["a.jpg"]


def test_half_a_command_is_not_carried_out(tmp_path: Path, exiftool: str):
    before = picture(tmp_path / "a.jpg").read_bytes()
    with ExifTool(exiftool) as tool:
        assert tool._feeder is not None and tool._feeder.stdin is not None
        command = ["-overwrite_original", "-EXIF:ImageDescription=x", str(tmp_path), ""]
        tool._feeder.stdin.write("\n".join(command).encode())
    assert (tmp_path / "a.jpg").read_bytes() == before


@pytest.mark.slow
def test_an_exiftool_that_dies_or_hangs_costs_one_picture_an_error(tmp_path: Path, exiftool: str):
    path = picture(tmp_path / "a.jpg")
    with ExifTool(exiftool, seconds=2.0) as tool:
        for blow, said in (
            (signal.SIGKILL, "ended unexpectedly"),
            (signal.SIGSTOP, "more than 2 s"),
        ):
            assert tool._process is not None
            tool._process.send_signal(blow)
            with pytest.raises(DescriptionError, match=said):
                tool.write(path, TEXT)
            tool.write(path, f"after {said}")
            assert tool.read(path) == f"after {said}"


def running(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_captax_leaves_whole_pictures_and_no_process(tmp_path: Path, exiftool: str):
    values = np.random.default_rng(0).integers(0, 255, (1500, 2000, 3), dtype=np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(values).save(path, quality=95)
    pixels = frames(path)[0]
    program = (
        "import sys, time; from captax.collection.exiftool import ExifTool\n"
        f"with ExifTool({exiftool!r}) as tool:\n"
        "    print(tool._process.pid, tool._feeder.pid, flush=True)\n"
        "    for number in range(int(sys.argv[2])): tool.write(sys.argv[1], f'text {number}')\n"
        "    time.sleep(60)\n"
    )
    for writes, seconds in ((0, 0.0), (10**9, 0.2), (10**9, 0.221), (10**9, 0.243)):
        command = [sys.executable, "-c", program, path, str(writes)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        processes = [int(number) for number in child.stdout.readline().split()]
        time.sleep(seconds)
        child.kill()
        child.wait()
        child.stdout.close()
        deadline = time.monotonic() + 20
        while any(map(running, processes)) and time.monotonic() < deadline:
            assert np.array_equal(frames(path)[0], pixels)
        assert not any(map(running, processes))
        assert np.array_equal(frames(path)[0], pixels)
        assert [file.name for file in tmp_path.iterdir()] == ["a.jpg"]
    with ExifTool(exiftool) as tool:
        assert tool.read(path).startswith("text ")


def test_a_users_own_configuration_of_exiftool_is_left_out(
    tmp_path: Path, exiftool: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EXIFTOOL_HOME", str(tmp_path))
    (tmp_path / ".ExifTool_config").write_text("exit 3;\n")
    with ExifTool(exiftool) as tool:
        assert tool.read(picture(tmp_path / "a.jpg")) == ""


# Answers whatever it is asked as an exiftool does that is asked for its version.
OLD = r"""
import sys
for line in sys.stdin:
    if line.startswith("-echo4"):
        print(next(sys.stdin).strip(), file=sys.stderr, flush=True)
    if line.startswith("-execute"):
        print("11.88\n{ready" + line.strip().removeprefix("-execute") + "}", flush=True)
    if line.startswith("False"):
        break
"""


def test_a_missing_or_old_program_is_said_with_what_to_do(tmp_path: Path):
    with pytest.raises(
        DescriptionError, match=r"is not installed; install it: apt-get .* --format xmp"
    ):
        ExifTool(str(tmp_path / "exiftool")).__enter__()
    with pytest.raises(DescriptionError, match=r"does not run; install it: apt-get"):
        ExifTool("false").__enter__()
    old = tmp_path / "exiftool"
    old.write_text(f"#!{sys.executable}\n{OLD}")
    old.chmod(0o755)
    with pytest.raises(
        DescriptionError,
        match=r"exiftool 11\.88 is older than 12\.38; install a newer one: apt-get",
    ):
        ExifTool(str(old)).__enter__()
