"""What sources mean: every picture once, in order, and an error for each that cannot be had."""

import base64
import contextlib
import csv
import functools
import http.server
import io
import json
import os
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from captax.collection import archives, remote
from captax.collection.item import REPEATED, CollectionError, Item, files_left_out
from captax.collection.items import find_items
from captax.data import shards, tables
from captax.data.example import DataError
from captax.errors import CaptaxError
from captax.images import ImageError

PIXEL = b"the bytes of a picture"


def contents(*sources: object) -> dict[str, bytes | str]:
    """What each item is: its bytes, or why there are none."""
    return {item.name: content(item) for item in find_items([str(source) for source in sources])}


def content(item: Item) -> bytes | str:
    try:
        source = item.source()
        return source.read_bytes() if isinstance(source, Path) else source
    except (ImageError, OSError) as error:
        return f"error: {error}"


def names(*sources: object) -> list[str]:
    return [item.name for item in find_items([str(source) for source in sources])]


def test_a_folder_is_searched_in_order_without_masks_and_hidden_files(
    pictures: Callable[..., Path],
) -> None:
    folder = pictures("b.jpg", "a.png", "c-masklabel.png", "c.png", ".d.png", "b/e f.webp", "é.jpg")
    (folder / "notes.txt").write_text("")
    found = list(find_items([str(folder)]))
    assert [item.name for item in found] == [
        str(folder / name) for name in ("a.png", "b/e f.webp", "b.jpg", "c.png", "é.jpg")
    ]
    assert found[1].place == PurePosixPath("b/e f.webp")


def test_patterns_files_and_folders_mean_each_picture_once(pictures: Callable[..., Path]) -> None:
    folder = pictures("a.png", "sub/b.png", "sub/deep/c.jpg")
    every = [str(folder / name) for name in ("a.png", "sub/b.png", "sub/deep/c.jpg")]
    assert names(folder / "**") == every
    assert names(folder / "s*") == every[1:]
    assert names(every[2], folder, f"{folder}/sub/../a.png", every[2]) == [
        every[2],
        every[0],
        every[1],
    ]
    assert names(folder / "sub", folder / "gone.jpg")[-1] == str(folder / "gone.jpg")


@pytest.mark.parametrize("name", ["gone.jpg", "gone", "gone.zip", "gone/list.csv"])
def test_one_of_several_sources_that_does_not_exist_is_one_error(
    pictures: Callable[..., Path], name: str
) -> None:
    folder = pictures("a.png")
    found = contents(folder / name, folder / "a.png")
    assert list(found) == [str(folder / name), str(folder / "a.png")]
    assert "o such file" in str(found[str(folder / name)]).replace(" or folder", "")


def test_one_of_several_sources_that_is_broken_is_one_error(pictures: Callable[..., Path]) -> None:
    folder = pictures("a.png")
    (folder / "b.zip").write_bytes(b"no zip")
    found = contents(folder / "b.zip", folder / "a.png")
    assert list(found) == [str(folder / "b.zip"), str(folder / "a.png")]
    assert "is not a complete zip file" in str(found[str(folder / "b.zip")])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "an empty path"),
        ("none", "no such file or folder"),
        ("link", "link: no such file or folder; it is a link to nowhere, and nothing is there"),
        ("*.jpg", "this pattern matches no picture"),
        ("empty", "there are no pictures in this folder"),
        ("archives", "to caption what its archives and lists hold, give 'archives/*.tar'"),
        ("a.tar.gz", "is compressed"),
        ("x" * 300, "cannot be read: File name too long"),
        ("text.zip", "is not a complete zip file"),
        ("empty.zip", "holds no pictures"),
        ("{a,b}.tar", "does not exist"),
        ("numbers.csv", "no column is named file_name, image, "),
        ("text.parquet", "cannot be read as parquet"),
        ("nothing://x", "nothing://x: Protocol not known"),
    ],
)
def test_what_means_no_picture_at_all_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("archives").mkdir()
    Path("archives/a.tar").write_bytes(b"")
    Path("link").symlink_to("nowhere")
    for name in ("a.tar.gz", "text.zip", "text.parquet"):
        Path(name).write_text("text")
    zipfile.ZipFile("empty.zip", "w").close()
    Path("numbers.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CaptaxError, match=r"\A[^\n]*\Z") as refused:
        find_items([source])
    assert message in str(refused.value)


UNSAFE = ["../../x.jpg", "/etc/y.png", "./a/z.gif", "deep/../w.bmp"]


def make_zip(path: Path, members: list[str]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in members:
            archive.writestr(name, PIXEL + name.encode())


def make_tar(path: Path, members: list[str]) -> None:
    with tarfile.open(path, "w") as archive:
        for name in members:
            member = tarfile.TarInfo(name)
            member.size = len(PIXEL + name.encode())
            archive.addfile(member, io.BytesIO(PIXEL + name.encode()))


@pytest.mark.parametrize(("suffix", "make"), [(".zip", make_zip), (".tar", make_tar)])
def test_archives_are_read_where_they_lie(
    tmp_path: Path, suffix: str, make: Callable[[Path, list[str]], None]
) -> None:
    """Whatever members are called, their places are within the archive's own."""
    path = tmp_path / f"a{suffix}"
    left_out = ["read me.txt", ".hidden/a.jpg", ".b.jpg", "c-masklabel.png", "__MACOSX/d.jpg"]
    make(path, [*UNSAFE, *left_out, "e e.jpg"])
    found = list(find_items([str(path)]))
    assert [item.name for item in found] == [f"{path}/{name}" for name in (*UNSAFE, "e e.jpg")]
    assert [content(item) for item in found] == [
        PIXEL + name.encode() for name in (*UNSAFE, "e e.jpg")
    ]
    inside = [str(item.place.relative_to(str(tmp_path / "a")[1:])) for item in found]
    assert inside == ["x.jpg", "etc/y.png", "a/z.gif", "deep/w.bmp", "e e.jpg"]
    assert names(f"file://{path}") == [f"file://{path}/{name}" for name in (*UNSAFE, "e e.jpg")]


@pytest.mark.parametrize(("suffix", "make"), [(".zip", make_zip), (".tar", make_tar)])
def test_what_an_archive_holds_beside_pictures_is_counted(
    tmp_path: Path, suffix: str, make: Callable[[Path, list[str]], None]
) -> None:
    """A picture without a picture's name is none of it."""
    path, bare = tmp_path / f"a{suffix}", b"GIF89a"
    make(path, ["a.jpg", "b.psd", "c.txt", "d.txt", "e", "f-masklabel.png", ".g.txt", "h.mp4"])
    if suffix == ".zip":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("bare", bare)
            archive.mkdir("dir.jpg")
    else:
        with tarfile.open(path, "a") as archive:
            member = tarfile.TarInfo("bare")
            member.size = len(bare)
            archive.addfile(member, io.BytesIO(bare))
            member = tarfile.TarInfo("dir.jpg")
            member.type = tarfile.DIRTYPE
            archive.addfile(member)
    archives._zip.cache_clear()
    left_out: Counter[str] = Counter()
    found = [Path(item.name).name for item in find_items([str(path)], left_out)]
    assert found == ["a.jpg", "b.psd", "bare"]
    assert left_out == {".txt": 2, "without suffix": 1, "masks": 1, ".mp4": 1}
    assert files_left_out(left_out) == "5 files skipped: 1 .mp4, 2 .txt, 1 masks, 1 without suffix"


def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(CollectionError, match=r"no pictures .*; 1 file skipped: 1 \.mp4$"):
        find_items([str(tmp_path)])


def make_links(path: Path, links: list[tuple[str, str, bytes]]) -> None:
    """A tar with two files, a link before them and `links` (name, target and type) after them."""
    first = ("p/early.jpg", "sub/b.jpg", tarfile.SYMTYPE)
    with tarfile.open(path, "w") as archive:
        for name, target, kind in [first, ("./p/a.jpg", "", b""), ("p/sub/b.jpg", "", b""), *links]:
            member = tarfile.TarInfo(name)
            member.size = 0 if target else len(name)
            member.type, member.linkname = kind or tarfile.REGTYPE, target
            archive.addfile(member, io.BytesIO(name.encode()))


def test_links_in_a_tar_are_the_files_that_they_lead_to(tmp_path: Path) -> None:
    hard, soft = tarfile.LNKTYPE, tarfile.SYMTYPE
    links = [
        ("p/hard.jpg", "p/a.jpg", hard),
        ("p/soft.jpg", "a.jpg", soft),
        ("p/sub/up.jpg", "../a.jpg", soft),
        ("p/chain.jpg", "sub/up.jpg", soft),
        ("p/harder.jpg", "p/hard.jpg", hard),
        ("p/.hidden.jpg", "a.jpg", soft),
        ("p/bare", "a.txt", soft),
        ("p/folder.jpg", "sub", soft),
    ]
    broken = [
        ("p/gone.jpg", "no.jpg", soft),
        ("p/self.jpg", "self.jpg", soft),
        ("p/out.jpg", "/etc/hostname", soft),
        ("p/away.jpg", "../../a.jpg", soft),
        ("p/later.jpg", "p/never.jpg", hard),
    ]
    path = tmp_path / "a.tar"
    make_links(path, [*links, *broken])
    left_out: Counter[str] = Counter()
    found = {item.name: content(item) for item in find_items([str(path)], left_out)}
    inside = {name.removeprefix(f"{path}/"): value for name, value in found.items()}
    a, b = b"./p/a.jpg", b"p/sub/b.jpg"
    of_a = ["hard.jpg", "soft.jpg", "sub/up.jpg", "chain.jpg", "harder.jpg"]
    errors = {name: inside.pop(name) for name, _, _ in broken}
    assert inside == {"./p/a.jpg": a, "p/sub/b.jpg": b, "p/early.jpg": b} | {
        f"p/{name}": a for name in [*of_a, "folder.jpg/up.jpg"]
    } | {"p/folder.jpg/b.jpg": b}
    for name, target, _ in broken:
        assert errors[name] == (
            f"error: is a link to what is no file of the archive ({target!r}); pack that file too"
        )
    assert left_out == {"without suffix": 1}
    assert contents(f"file://{path}")[f"file://{path}/p/hard.jpg"] == a


def test_links_to_folders_in_a_tar_are_the_files_in_them(tmp_path: Path) -> None:
    soft = tarfile.SYMTYPE
    links = [
        ("album", "p/sub", soft),
        ("again/", "album", soft),  # by way of another link
        ("one.jpg", "album/b.jpg", soft),
        ("p/sub/soft.jpg", "../../p/a.jpg", soft),
        ("p/up", "..", soft),  # its pictures would have no end of names
        ("p/self", ".", soft),
        ("loop", "pool", soft),
        ("pool", "loop", soft),
        (".hidden", "p", soft),
        ("none", "nowhere/at/all", soft),
    ]
    make_links(tmp_path / "a.tar", links)
    left_out: Counter[str] = Counter()
    found = {item.name: content(item) for item in find_items([str(tmp_path / "a.tar")], left_out)}
    inside = {name.removeprefix(f"{tmp_path}/a.tar/"): value for name, value in found.items()}
    a, b = b"./p/a.jpg", b"p/sub/b.jpg"
    assert inside == {
        "./p/a.jpg": a,
        "p/sub/b.jpg": b,
        "p/early.jpg": b,
        "one.jpg": b,
        "p/sub/soft.jpg": a,
        "album/b.jpg": b,
        "album/soft.jpg": a,
        "again/b.jpg": b,
        "again/soft.jpg": a,
    }
    assert left_out == {"without suffix": 5}


def test_folders_in_folders_of_a_tar_do_not_multiply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_MOST_LINKS", 30)
    files = [(f"p/{n}.jpg", "", b"") for n in range(8)]
    links = [(f"link{n}", "p", tarfile.SYMTYPE) for n in range(8)]
    make_links(tmp_path / "a.tar", [*files, *links])
    found = list(contents(tmp_path / "a.tar").values())
    assert found[-1] == "error: has more than 30 links; unpack it" and len(found) < 50


def test_a_hard_link_leads_to_the_file_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, text in (("a.jpg", b"old"), ("b.jpg", b""), ("a.jpg", b"new")):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            if not text:
                member.type, member.linkname = tarfile.LNKTYPE, "a.jpg"
            archive.addfile(member, io.BytesIO(text))
    assert contents(path)[f"{path}/b.jpg"] == b"old"


def test_links_without_end_are_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_MOST_LINKS", 3)
    make_links(tmp_path / "a.tar", [(f"{n}.jpg", "p/a.jpg", tarfile.SYMTYPE) for n in range(9)])
    assert list(contents(tmp_path / "a.tar").values())[-1] == (
        "error: has more than 3 links; unpack it"
    )


def test_folders_of_a_zip_from_windows_are_folders(tmp_path: Path) -> None:
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (
            "photos\\a.jpg",
            "photos\\sub\\b.jpg",
            "photos\\dir.jpg\\",
            "__MACOSX\\._a.jpg",
            "photos\\.thumbs\\t.jpg",
            "..\\..\\c.jpg",
            "C:\\d.jpg",
            "linux/one\\name.jpg",
        ):
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, name)
    found = list(find_items([str(path)]))
    inside = [str(item.place.relative_to(str(tmp_path / "z")[1:])) for item in found]
    assert inside == [
        "photos/a.jpg",
        "photos/sub/b.jpg",
        "c.jpg",
        "C:/d.jpg",
        "linux/one\\name.jpg",
    ]
    assert found[1].name == f"{path}/photos/sub/b.jpg"
    assert content(found[1]) == b"photos\\sub\\b.jpg"


def test_a_damaged_tar_gives_what_is_before_and_says_so(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", [f"{n}.jpg" for n in range(4)])
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "middle.tar").write_bytes(whole[:2048] + b"\1" * 512 + whole[2560:])
    (tmp_path / "short.tar").write_bytes(whole[: 3 * 1024 + 520])
    middle = list(contents(tmp_path / "middle.tar").values())
    assert middle[:2] == [PIXEL + b"0.jpg", PIXEL + b"1.jpg"]
    assert middle[2:] == ["error: damaged at byte 2048; fetch it again"]
    *good, cut, end = contents(tmp_path / "short.tar").values()
    assert good == [PIXEL + b"%d.jpg" % n for n in range(3)]
    assert "ends within a picture" in str(cut) and "not a complete tar file" in str(end)


def test_braces_name_shards(tmp_path: Path) -> None:
    for n in range(3):
        make_tar(tmp_path / f"{n:02}.tar", ["a.jpg"])
    assert names(tmp_path / "{00..02}.tar") == [
        str(tmp_path / f"{n:02}.tar/a.jpg") for n in (0, 1, 2)
    ]


def test_what_a_zip_cannot_give_is_an_error_of_that_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.zip"
    make_zip(path, ["good.jpg", "locked.jpg", "odd.jpg", "bomb.jpg", "shrunk.jpg", "torn.jpg"])
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in archive.infolist()}
    data = bytearray(path.read_bytes())

    def patch(name: str, local: int, central: int, value: bytes) -> None:
        """In a member's header before it and in that at the archive's end."""
        start = infos[name].header_offset
        listed = data.rindex(name.encode()) - 46
        for place in (start + local, listed + central):
            data[place : place + len(value)] = value

    patch("locked.jpg", 6, 8, b"\1\0")  # flags: encrypted
    patch("odd.jpg", 8, 10, b"\x62\0")  # method 98
    patch("bomb.jpg", 22, 24, (2**30 + 1).to_bytes(4, "little"))
    patch("shrunk.jpg", 22, 24, (2**26 + 1).to_bytes(4, "little"))  # more than 200 times as large
    place = data.index(b"torn.jpg") + len(b"torn.jpg")
    data[place : place + 4] = b"\xff" * 4
    path.write_bytes(data)
    archives._zip.cache_clear()
    good, locked, odd, bomb, shrunk, torn = contents(path).values()
    assert good == PIXEL + b"good.jpg"
    assert locked == "error: is locked by a password; unpack the archive first"
    assert odd == "error: is compressed in a way that captax cannot read; pack it again"
    assert bomb == (
        "error: unpacks to more bytes than a picture has (1,073,741,825); "
        "remove it from the archive"
    )
    assert shrunk == str(bomb).replace("1,073,741,825", "67,108,865")
    assert str(torn).startswith("error: is damaged within its zip file: ")
    assert str(torn).endswith("; pack the archive again")


def test_an_archive_within_an_archive_is_left_alone(tmp_path: Path) -> None:
    make_zip(tmp_path / "inner.zip", ["a.jpg"])
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as outer:
        outer.write(tmp_path / "inner.zip", "inner.zip")
        outer.writestr("b.jpg", PIXEL)
    assert names(tmp_path / "outer.zip") == [str(tmp_path / "outer.zip/b.jpg")]


def test_lists_name_pictures_by_path_and_url(
    tmp_path: Path, pictures: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures("a b.png", 'q".png')
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.png").write_bytes(PIXEL)
    values = ["a b.png", f"file://{folder}/a b.png", "here.png", "gone.png", "  ", 'q".png']
    values.append("A" * 400)  # a picture in base64, say
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file_name", "n"], *([value, "1"] for value in values)])
    (folder / "list.jsonl").write_text(
        "".join(json.dumps({"image": value}) + "\n" for value in [*values, None, 7])
    )
    table = pyarrow.table({"n": [0] * len(values), "url": values})
    pyarrow.parquet.write_table(table, folder / "LIST.PARQUET")
    whole = (folder / "a b.png").read_bytes()
    for name in ("list.csv", "list.jsonl", "LIST.PARQUET"):
        found = contents(folder / name)
        assert list(found)[:4] == [
            str(folder / "a b.png"),
            f"file://{folder}/a b.png",
            "here.png",
            str(folder / "gone.png"),
        ]
        got = list(found.values())
        assert got[:3] == [whole, whole, PIXEL] and "No such file" in str(got[3])
        assert "names no picture: " in str(got[4]) and got[5] == whole
        assert "File name too long" in str(got[6])
    assert "names no picture: None; " in str(
        contents(folder / "list.jsonl")[f"{folder}/list.jsonl, line 8"]
    )


def test_parquet_holds_pictures_themselves(tmp_path: Path) -> None:
    rows = [{"bytes": b"1", "path": "a.jpg"}, {"bytes": b"2", "path": None}]
    rows += [{"bytes": b"3", "path": "a.jpg"}, {"bytes": None, "path": "gone.jpg"}]
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}), path)
    found = contents(path)
    assert list(found.values())[:3] == [b"1", b"2", b"3"]  # of one name, and yet two pictures
    assert list(found)[:3] == [f"{path}/a.jpg", f"{path}/1", f"{path}/a.jpg#2"]
    pyarrow.parquet.write_table(pyarrow.table({"jpg": [b"1", b"2"]}), path)
    assert contents(path) == {f"{path}/0": b"1", f"{path}/1": b"2"}


def test_lists_in_several_folders_may_use_the_same_names(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        (folder / "x.png").write_bytes(folder.name.encode())
        (folder / "list.csv").write_text("image\nx.png\n")
    assert list(contents(tmp_path / "a/list.csv", tmp_path / "b/list.csv").values()) == [b"a", b"b"]


def test_rows_that_name_a_picture_again_are_counted_if_they_say_more(tmp_path: Path) -> None:
    """Their columns would be lost without a word."""
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "more.csv").write_text("image,n\na.png,1\n./a.png,2\na.png,3\n")
    (tmp_path / "bare.csv").write_text("image\na.png\na.png\n")
    left_out: Counter[str] = Counter()
    for name, rows in (("more.csv", 2), ("bare.csv", 0)):
        left_out.clear()
        [item] = find_items([str(tmp_path / name)], left_out)
        assert left_out[REPEATED] == rows
    assert item.image == tmp_path / "a.png"
    told = files_left_out(Counter({".mp4": 1, REPEATED: 2}))
    assert told == "1 file skipped: 1 .mp4; 2 rows skipped: an earlier row has the same picture"


def test_a_malformed_row_costs_one_picture_and_is_named_by_its_line(tmp_path: Path) -> None:
    for name in "abcde":
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    rows = ["image,n", "a.png,1", "b.png,2,3", "c.png", '"c.png","x', 'y"', '"a.png,5', "b.png,6"]
    rows += ['"c.png"?,7', '"d.png",8', '"a.png', "e.png,9"]
    (tmp_path / "l.csv").write_text("\n".join(rows))
    rows = ['{"image": "a.png"}', '{"image": "b.png"', "[1]", '{"picture": "x"}', '{"image": 7}']
    (tmp_path / "l.jsonl").write_text("\n".join([*rows, '{"path": "d.png"}']))
    (tmp_path / "l.tsv").write_text("image\tn\na.png\t1\t2\nb.png\nd.png\t1")
    faults = {
        "l.csv": {
            3: "this row has 3 fields and the header has 2; put fields that contain commas in "
            "double quotes",
            4: "this row has 1 fields and the header has 2; put a comma for each field that is "
            "empty",
            7: "',' expected after '\"'; check its quotes",
            9: "',' expected after '\"'; check its quotes",
            11: "a double quote begins a field and none ends it; check its quotes",
        },
        "l.jsonl": {
            2: "not JSON (Expecting ',' delimiter at column 18); write one object a line",
            3: "expected an object, got list; write one object a row",
            4: "no column is named",
            5: "names no picture: 7; fill in the path",
        },
        "l.tsv": {2: "replace tabs in fields by spaces", 3: "put a tab for each field"},
    }
    good = {"l.csv": b"acbde", "l.jsonl": b"ad", "l.tsv": b"d"}
    for name, told in faults.items():
        found = list(find_items([str(tmp_path / name)]))
        pictures = b"".join(item.path.read_bytes() for item in found if item.path is not None)
        assert pictures == good[name], name
        wrong = {item.name: str(item.image) for item in found if item.path is None}
        assert list(wrong) == [f"{tmp_path / name}, line {number}" for number in told]
        for where, what in zip(wrong.values(), told.values(), strict=True):
            assert what in where and " line" not in where.replace("a line", "")


def test_a_list_without_a_good_row_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("image\nb,c\n")
    with pytest.raises(DataError, match="line 2: this row has 2 fields"):
        find_items([str(tmp_path / "l.csv")])
    (tmp_path / "l.csv").write_text("pictures\na.png\nb.png\n")
    with pytest.raises(DataError, match="no column is named"):
        find_items([str(tmp_path / "l.csv")])


def test_a_list_of_open_quotes_does_not_take_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line takes in all lines after it, and these are read again as rows."""
    monkeypatch.setattr(tables, "_MOST_AGAIN", 100)
    listed = tmp_path / "l.csv"
    listed.write_text("image,n\na.png,1\n" + 'a","\n' * 50)
    _, *wrong = find_items([str(listed)])
    assert len(wrong) == 3 and "no row after it was read" in str(wrong[-1].image)


def test_any_file_system_of_fsspec_is_read() -> None:
    files = fsspec.filesystem("memory")
    for name in ("/p/b.jpg", "/p/a.jpg", "/p/sub/c-masklabel.png", "/p/sub/d.png", "/p/t.txt"):
        files.pipe_file(name, name.encode())
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("z.jpg", PIXEL)
    files.pipe_file("/p/z.zip", whole.getvalue())
    found = list(find_items(["memory://p"]))
    assert [item.name for item in found] == [
        f"memory:///p/{n}" for n in ("a.jpg", "b.jpg", "sub/d.png")
    ]
    assert [str(item.place) for item in found] == ["a.jpg", "b.jpg", "sub/d.png"]
    assert content(found[2]) == b"/p/sub/d.png"
    assert names("memory://p/*.jpg") == ["memory:///p/a.jpg", "memory:///p/b.jpg"]
    assert list(contents("memory://p/z.zip").values()) == [PIXEL]
    files.rm("/p/b.jpg")
    assert content(found[1]) == "error: no such file"
    with pytest.raises(CollectionError, match=r"no picture"):
        find_items(["memory://nowhere/*.jpg"])


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server's address, and its folder."""
    pytest.importorskip("aiohttp", reason="needs captax[remote]")
    handler = functools.partial(_Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", tmp_path
        server.shutdown()
        thread.join()


def test_pictures_come_from_the_web(site: tuple[str, Path]) -> None:
    address, folder = site
    (folder / "a b.jpg").write_bytes(PIXEL)
    urls = [f"{address}/a%20b.jpg?size=[1]", f"{address}/gone.jpg", "http://127.0.0.1:9/x.jpg"]
    found = contents(*urls)
    assert found[urls[0]] == PIXEL
    assert found[urls[1]] == "error: no such file"
    assert str(found[urls[2]]).startswith("error: cannot be fetched: ")


class _Endless(http.server.BaseHTTPRequestHandler):
    """Sends without end, or, for a name that begins with "silent", one byte and nothing more."""

    def do_GET(self) -> None:
        part = self.path.endswith(".tar") and "Range" in self.headers
        self.send_response(206 if part else 200)
        self.end_headers()
        with contextlib.suppress(OSError):
            if self.path.startswith("/silent"):
                self.wfile.write(b"x")
                self.wfile.flush()
                self.rfile.read()  # until the client hangs up
            while not self.path.startswith("/silent"):
                self.wfile.write(bytes(2**16))

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(2**40))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a host that sends without end, for a reader of little patience."""
    pytest.importorskip("aiohttp", reason="needs captax[remote]")
    monkeypatch.setattr(remote, "PICTURE_LIMIT", 10_000_000)
    monkeypatch.setattr(remote, "SILENCE", 0.5)
    fsspec.get_filesystem_class("http").clear_instance_cache()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Endless) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        fsspec.get_filesystem_class("http").clear_instance_cache()
        thread.join()


def test_an_answer_without_end_is_an_error_of_one_picture(endless: str) -> None:
    urls = [f"{endless}/a.jpg", f"{endless}/silent.jpg"]
    found = contents(*urls)
    assert str(found[urls[0]]).startswith("error: cannot be fetched: more than 10,000,000 bytes")
    assert "the host sent nothing for 0.5 seconds" in str(found[urls[1]])
    archive = f"{endless}/a.tar"
    assert "more than 10,000,000 bytes" in str(contents(archive)[archive])


def test_a_remote_file_that_is_too_large_is_an_error_of_one_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "PICTURE_LIMIT", 10)
    files = fsspec.filesystem("memory")
    files.pipe("/large/a.jpg", bytes(10))
    files.pipe("/large/b.jpg", bytes(11))
    found = contents("memory://large")
    assert found["memory:///large/a.jpg"] == bytes(10)
    assert "more than 10 bytes" in str(found["memory:///large/b.jpg"])
    files.rm("/large", recursive=True)


def test_what_is_no_picture_but_bears_its_name_is_an_error(pictures: Callable[..., Path]) -> None:
    folder = pictures("a.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "x.jpg").mkdir()
    (folder / "x.jpg" / "up").symlink_to("..")
    (folder / "gone.jpg").symlink_to("nowhere")
    found = contents(folder)
    assert [Path(name).name for name in found] == ["a.jpg", "gone.jpg", "loop.jpg", "pipe.jpg"]
    assert (
        found[str(folder / "pipe.jpg")] == "error: is not a regular file, so it cannot be a picture"
    )


def test_data_urls_are_pictures_and_no_name_repeats_them(tmp_path: Path) -> None:
    code = base64.b64encode(PIXEL).decode()
    url = f"data:image/png;base64,{code}"
    rows = [url, url.rstrip("="), "data:image/png;base64,?", "x" * 40_000]
    listed = tmp_path / "l.txt"
    listed.write_text("\n".join(rows))
    whole, unpadded, damaged, long = find_items([str(listed)])
    assert whole.source() == unpadded.source() == PIXEL
    assert [whole.name, damaged.name] == [f"{listed}/0", f"{listed}, line 3"]
    with pytest.raises(ImageError, match="is a data: URL that cannot be read"):
        damaged.source()
    with pytest.raises(ImageError, match="names no picture") as refused:
        long.source()
    assert len(str(refused.value)) < 300 and len(long.name) < 300
    [alone] = find_items([url])
    assert alone.source() == PIXEL and len(alone.name) < 50
