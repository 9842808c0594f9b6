import io
import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from captax.images import ImageError, decode, find_images, is_image_path, walk_images


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    for name in (
        "b.jpg",
        "a.PNG",
        "notes.txt",
        ".hidden.jpg",
        "sub/c.webp",
        "sub/deep/d.tif",
        "sub/.git/e.jpg",
        "odd [1] *.jpg",
        "odd é\n.jpeg",
        "plain",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*paths) -> list[str]:
    return [str(path) for path in find_images(paths)]


ALL = ["a.PNG", "b.jpg", "odd [1] *.jpg", "odd é\n.jpeg", "sub/c.webp", "sub/deep/d.tif"]


def test_a_folder_is_searched_in_order_without_hidden_or_other_files(folder):
    assert names(".") == ALL
    assert names(folder) == [str(folder / name) for name in ALL]
    assert names("sub/.git") == ["sub/.git/e.jpg"]  # asked for by name


def test_files_are_taken_as_given_in_order_once(folder):
    assert names("plain", "b.jpg", Path("a.PNG")) == ["plain", "b.jpg", "a.PNG"]
    assert names("b.jpg", "sub/../b.jpg", folder / "b.jpg") == ["b.jpg"]
    assert names("sub", ".")[:2] == ["sub/c.webp", "sub/deep/d.tif"]
    assert sorted(names("sub", ".")) == ALL
    assert names() == []


def test_patterns(folder):
    assert names("*.jpg") == ["b.jpg", "odd [1] *.jpg"]
    assert names("sub/**/*.tif") == ["sub/deep/d.tif"]
    assert names("su?") == ["sub/c.webp", "sub/deep/d.tif"]
    assert names("odd [1] *.jpg") == ["odd [1] *.jpg"]  # the name of a file before a pattern


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone", r"^gone: no such file or folder$"),
        ("*.gif", r"^\*\.gif: this pattern matches no picture$"),
        ("void", r"^void: no pictures in this folder"),
        ("", "empty path"),
        ("n" * 5000, "cannot be looked at"),
    ],
)
def test_what_means_no_picture(folder, path, message):
    (folder / "void").mkdir()
    (folder / "void" / "notes.txt").touch()
    with pytest.raises(ImageError, match=message):
        find_images(["b.jpg", path])


def test_a_picture_that_is_gone_does_not_keep_others_from_being_read(folder):
    assert names("gone.jpg", "b.jpg")[0] == "gone.jpg" and len(names("gone.jpg", "b.jpg")) == 2
    for wrong in ("gone", "*.gif", "void.jpg/gone"):
        with pytest.raises(ImageError, match=r"no such file or folder|no picture"):
            find_images([wrong, "b.jpg"])


def test_one_path_is_not_taken_for_a_list(folder):
    with pytest.raises(ImageError, match=r"b\.jpg: give a list"):
        find_images("b.jpg")


def test_links(folder):
    (folder / "sub" / "loop").symlink_to(folder)
    assert names(".") == ALL
    (folder / "sub2").symlink_to(folder / "sub")
    assert names("sub2") == [
        "sub2/c.webp",
        "sub2/deep/d.tif",
        *(f"sub2/loop/{name}" for name in ALL[:4]),
    ]
    (folder / "broken.jpg").symlink_to("gone.jpg")
    assert "broken.jpg" in names(".")  # a picture that cannot be read is not passed over
    with pytest.raises(
        ImageError, match=r"broken\.jpg: no such file or folder; it is a link to gone\.jpg"
    ):
        find_images(["broken.jpg"])


def test_what_a_walk_cannot_use_is_told_in_its_place(folder):
    os.mkfifo(folder / "c.jpg")
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "self.png").symlink_to("self.png")
    (folder / "shut").mkdir()
    (folder / "shut" / "x.jpg").touch()
    (folder / "shut").chmod(0)
    found = list(walk_images("."))
    errors = [str(each) for each in found if isinstance(each, ImageError)]
    paths = [str(each) for each in found if not isinstance(each, ImageError)]
    assert errors[0] == "c.jpg: is not a regular file, so it cannot be a picture"
    if os.geteuid():  # to root no folder is shut
        assert errors[1:] == ["shut: this folder cannot be looked into: Permission denied"]
        assert paths == sorted([*ALL, "gone.png", "self.png"])
    (folder / "shut").chmod(0o755)
    with pytest.raises(ImageError, match=r"^c\.jpg: is not a regular file"):
        find_images(["."])


def test_is_image_path():
    assert is_image_path("a/B.JPEG") and is_image_path(Path("x.tiff")) and is_image_path("p.heic")
    assert not any(map(is_image_path, ("a.txt", "jpg", ".jpg", "a.jpg/b", "a.jpg.part")))


# The first bytes of kinds that captax does not read.
STRANGE = {
    "JPEG XL": b"\xff\x0a\xfa\x1f\x41",
    "Photoshop": b"8BPS\0\1",
    "SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg">',
    "icon": b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0",
    "Canon raw": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
}


def test_no_picture_is_passed_over_for_its_name(tmp_path):
    for suffix in ("jp2", "j2k", "jxl", "dng", "cr2", "nef", "tga", "psd", "svg", "heic"):
        (tmp_path / f"b.{suffix}").write_text("x")
    for format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PPM"):
        picture = io.BytesIO()
        Image.new("RGB", (8, 8)).save(picture, format)
        (tmp_path / f"bare {format}").write_bytes(picture.getvalue())
        (tmp_path / f"odd {format}.bak").write_bytes(picture.getvalue())
    for kind, header in STRANGE.items():
        (tmp_path / f"bare {kind}").write_bytes(header + bytes(600))
    left_out: Counter[str] = Counter()
    assert len(list(walk_images(tmp_path, left_out))) == 10 + 2 * 8 + len(STRANGE)
    assert not left_out
    for kind in STRANGE:
        with pytest.raises(ImageError, match=f"does not read {kind} pictures; convert it to"):
            decode(tmp_path / f"bare {kind}")


def test_what_is_no_picture_is_counted_by_suffix(tmp_path):
    texts = ["BMW cars are fast", "P1 is a track", "GIF is a format", "<html><svg></svg>", "\xff\n"]
    for n, text in enumerate(texts):
        (tmp_path / f"{n}.TXT").write_text(text, encoding="latin-1")
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom")
    (tmp_path / "Makefile").touch()
    (tmp_path / f"a.{'x' * 100}").touch()
    os.mkfifo(tmp_path / "pipe")
    left_out: Counter[str] = Counter()
    assert not list(walk_images(tmp_path, left_out))
    assert left_out == {".txt": len(texts), ".mp4": 1, "without suffix": 2, "others": 1}
