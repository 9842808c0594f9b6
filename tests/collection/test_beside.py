"""Captions beside pictures: whose they are, and what becomes of what was there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from captax.collection.beside import Beside, TextSidecars, XmpSidecars
from captax.collection.caption_template import CaptionTemplate, merged
from captax.collection.choices import OnExists
from captax.collection.description import described, xmp_sidecar
from captax.collection.items import find_items
from captax.collection.job import Summary, caption_collection
from captax.errors import CaptaxError


def run(folder: Path, output: Beside, engine: Any) -> Summary:
    return caption_collection(find_items([str(folder)]), engine, output)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (OnExists.skip, "old\n\n"),
        (OnExists.overwrite, "0 a\n1 a\n"),
        (OnExists.append, "old\n0 a\n1 a\n"),
        (OnExists.prepend, "0 a\n1 a\nold\n"),
    ],
)
def test_what_was_there_is_dealt_with_as_asked(
    engine: Any, pictures: Callable[..., Path], policy: OnExists, expected: str
) -> None:
    folder = pictures("a.jpg", "b.jpg", "c.jpg")
    (folder / "a.txt").write_text("old\n\n")
    (folder / "b.txt").write_text(" \n")  # says nothing
    summary = run(folder, Beside(TextSidecars(), policy=policy), engine(captions=2))
    assert (folder / "a.txt").read_text() == expected
    assert (folder / "b.txt").read_text() == "0 b\n1 b\n"
    assert (summary.skipped, summary.captioned) == ((1, 2) if policy is OnExists.skip else (0, 3))


def test_the_separator_is_what_is_asked() -> None:
    assert merged(OnExists.append, "old\n", ["a", "b"], ", ") == ["old, a", "b"]
    assert merged(OnExists.prepend, "old\n", ["a", "b"], ", ") == ["a", "b, old"]
    assert merged(OnExists.append, " \n", ["a"], ", ") == ["a"]


@pytest.mark.parametrize("kind", [TextSidecars(), XmpSidecars(adobe=True)])
def test_two_pictures_never_share_a_sidecar(
    engine: Any, pictures: Callable[..., Path], kind: Any
) -> None:
    folder = pictures("a.jpg", "a.png", "b.jpg")
    summary = run(folder, Beside(kind), engine(batch_size=1))
    assert kind.read(folder / "a.jpg").strip() == "0 a"
    assert summary.captioned == 2
    [reason] = summary.errors
    assert reason == "another picture's caption goes to the same file"


def test_what_is_no_picture_is_told_as_such(engine: Any, pictures: Callable[..., Path]) -> None:
    folder = pictures("a.jpg")
    os.mkfifo(folder / "pipe.jpg")
    summary = run(folder, Beside(TextSidecars()), engine())
    assert list(summary.errors) == ["is not a regular file, so it cannot be a picture"]


def test_a_folder_of_sidecars_mirrors_that_of_the_pictures(
    engine: Any, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    folder = pictures("a.jpg", "sub/new\nline é.jpg", f"{'x' * 251}.jpg")
    run(folder, Beside(TextSidecars(".caption"), tmp_path / "out"), engine())
    assert (tmp_path / "out" / "sub" / "new\nline é.caption").read_text() == "0 new\nline é\n"
    assert sum(path.is_file() for path in (tmp_path / "out").rglob("*")) == 2  # a name too long
    summary = run(folder, Beside(TextSidecars(".txt"), tmp_path / "two"), engine())
    assert summary.captioned == 3 and (tmp_path / "two" / f"{'x' * 251}.txt").exists()


def test_pictures_without_a_file_need_a_folder(engine: Any, tmp_path: Path) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/beside/a.jpg", b"x")
    items = find_items(["memory://beside"])
    summary = caption_collection(items, engine(), Beside(TextSidecars()))
    assert list(summary.errors) == [
        "is not a file on this disk, so nothing can be written beside it"
    ]
    items = find_items(["memory://beside"])
    caption_collection(items, engine(), Beside(TextSidecars(), tmp_path))
    assert (tmp_path / "a.txt").read_text() == "0 a\n"


@pytest.mark.parametrize(
    ("content", "reason"), [(b"\xff\xfe", "is not UTF-8 text"), (None, "cannot be read")]
)
def test_a_sidecar_that_cannot_be_read_is_left_alone(
    engine: Any, pictures: Callable[..., Path], content: bytes | None, reason: str
) -> None:
    folder = pictures("a.jpg")
    path = folder / "a.txt"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    summary = run(folder, Beside(TextSidecars(), policy=OnExists.overwrite), engine())
    assert list(summary.errors) == [reason] and summary.captioned == 0
    assert content is None or path.read_bytes() == content


def test_where_nothing_may_be_written_no_model_is_asked(
    engine: Any, pictures: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures("a.jpg", "b.jpg")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    summary = run(folder, Beside(TextSidecars()), one := engine())
    assert dict(summary.errors) == {"you have no permission to write there": 2}
    assert list(folder.glob("*.txt")) == [] and len(one.given) == 2


def test_what_somebody_wrote_meanwhile_stays(engine: Any, pictures: Callable[..., Path]) -> None:
    folder = pictures("a.jpg")

    class Slow(engine):  # type: ignore[misc]
        def _record(self, *arguments: Any) -> Any:
            (folder / "a.txt").write_text("by hand")
            return super()._record(*arguments)

    run(folder, Beside(TextSidecars()), Slow())
    assert (folder / "a.txt").read_text() == "by hand"


def test_templates_are_filled() -> None:
    template = CaptionTemplate("{folder}/{name}: {{{caption}}}", "pre ", " post")
    assert template("a cat", "x/y/z.tar.jpg") == "pre y/z.tar: {a cat} post"
    assert CaptionTemplate("{name} {caption}")("a {name}", "b\udcff.jpg") == "b\\udcff a {name}"


@pytest.mark.parametrize(
    "template",
    ["{", "{}", "{0}", "{captions}", "plain", "{caption.x}", "{caption[0]}", "{caption:d}"],
)
def test_templates_that_mean_nothing_are_refused(template: str) -> None:
    with pytest.raises(CaptaxError, match=r"\A--template "):
        CaptionTemplate(template)


@pytest.mark.parametrize("kind", [TextSidecars(), XmpSidecars()])
def test_a_link_that_leads_out_of_the_folder_costs_its_picture(
    engine: Any, pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, kind: Any
) -> None:
    folder = pictures("a.jpg", "b.jpg", "sub/c.jpg")
    outside = tmp_path_factory.mktemp("outside")
    kind.write(outside / "victim.jpg", ["old"])
    victim = kind.file(outside / "victim.jpg")
    before = victim.read_bytes()
    kind.file(folder / "a.jpg").symlink_to(victim)
    kind.file(folder / "sub" / "c.jpg").symlink_to(kind.file(folder / "c.jpg"))
    for roots, good in ((), 1), ((folder,), 2):
        output = Beside(kind, policy=OnExists.overwrite, roots=roots)
        summary = run(folder, output, engine(batch_size=1))
        assert summary.captioned == good and summary.errors.total() == 3 - good
        assert victim.read_bytes() == before
    output = Beside(kind, policy=OnExists.overwrite, follow_links=True)
    assert run(folder, output, engine(batch_size=1)).captioned == 3
    assert victim.read_bytes() != before and kind.file(folder / "a.jpg").is_symlink()


def test_a_link_within_the_folder_of_sidecars_costs_its_pictures(
    engine: Any, pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, out = pictures("a.jpg", "sub/b.jpg"), tmp_path_factory.mktemp("out")
    outside = tmp_path_factory.mktemp("outside")
    (out / "sub").symlink_to(outside)
    summary = run(folder, Beside(TextSidecars(), out), engine(batch_size=1))
    assert (summary.captioned, summary.errors.total()) == (1, 1)
    assert not list(outside.iterdir())


def test_pipes_and_hard_links_beside_pictures_lead_nowhere(
    engine: Any, pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = pictures("a.jpg", "b.jpg", "c.jpg")
    victim = tmp_path_factory.mktemp("outside") / "victim"
    victim.write_text("dear")
    os.mkfifo(folder / "a.txt")
    (folder / "b.txt").hardlink_to(victim)
    (folder / ".c.txt.captax.partial").symlink_to(victim)
    summary = run(folder, Beside(TextSidecars(), policy=OnExists.overwrite), engine(batch_size=1))
    assert summary.captioned == 2 and summary.errors == {"is not a regular file": 1}
    assert victim.read_text() == "dear" and (folder / "c.txt").read_text() == "0 c\n"


PERSON = "Meine Katze Tömmes"


def _exif(picture: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = PERSON.encode()
    picture.save(path, exif=exif)


def _xmp(picture: Image.Image, path: Path) -> None:
    packet = xmp_sidecar(None, PERSON)
    if path.suffix == ".png":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", packet.decode())
        picture.save(path, pnginfo=info)
    else:
        picture.save(
            path, **({"tiffinfo": {700: packet}} if path.suffix == ".tif" else {"xmp": packet})
        )


def _other_sidecar(picture: Image.Image, path: Path) -> None:
    picture.save(path)
    path.with_suffix(".xmp").write_bytes(xmp_sidecar(None, PERSON))


@pytest.mark.parametrize("policy", [OnExists.skip, OnExists.append, OnExists.overwrite])
@pytest.mark.parametrize(
    ("describe", "suffix"),
    [
        *((_exif, suffix) for suffix in (".jpg", ".png")),
        *((_xmp, suffix) for suffix in (".jpg", ".png", ".webp", ".tif")),
        (_other_sidecar, ".jpg"),
    ],
)
def test_a_persons_words_are_found_wherever_they_are(
    engine: Any, tmp_path: Path, describe: Any, suffix: str, policy: OnExists
) -> None:
    picture = tmp_path / f"a{suffix}"
    describe(Image.new("RGB", (8, 8)), picture)
    summary = run(tmp_path, Beside(XmpSidecars(), policy=policy), engine())
    sidecar = picture.with_name(f"{picture.name}.xmp")
    assert summary.skipped == (policy is OnExists.skip) == (not sidecar.exists())
    if policy is not OnExists.skip:
        expected = f"{PERSON}\n0 a" if policy is OnExists.append else "0 a"
        assert described(sidecar.read_bytes()) == expected


def test_what_a_camera_wrote_and_damage_are_nobodys_words(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "OLYMPUS DIGITAL CAMERA         "
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff\xe1\xff\xff" + b"x" * 99)
    (tmp_path / "c.jpg").write_bytes(b"")
    Image.new("RGB", (8, 8)).save(tmp_path / "d.jpg", xmp=b"<x")
    for name in "abcd":
        assert XmpSidecars().read(tmp_path / f"{name}.jpg") == ""


def test_sidecars_that_are_captions_elsewhere_are_captions_here(
    engine: Any, pictures: Callable[..., Path]
) -> None:
    folder = pictures("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    (folder / "a.TXT").write_text("old")
    (folder / "b.Caption").write_text("old")
    (folder / "d.TXT").symlink_to("/etc/passwd")
    assert run(folder, Beside(TextSidecars()), engine()).skipped == 2
    appended = TextSidecars(".caption")
    run(folder, Beside(appended, policy=OnExists.append), engine(captions=2))
    assert (folder / "a.caption").read_text() == "old\n0 a\n1 a\n"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_line_ends_and_the_byte_order_mark_are_kept(
    engine: Any, pictures: Callable[..., Path], mark: bytes, end: bytes
) -> None:
    folder = pictures("a.jpg")
    (folder / "a.txt").write_bytes(mark + "é".encode() + end + b"two" + end)
    run(folder, Beside(TextSidecars(), policy=OnExists.append), engine())
    expected = end.join([mark + "é".encode(), b"two", b"0 a", b""])
    assert (folder / "a.txt").read_bytes() == expected
