"""Fetching public datasets from a server on the loopback, with tiny archives of their layouts."""

import contextlib
import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import captax.data
from captax.data import DataError, get, open_labelled
from captax.data.check import check
from captax.data.get import DATASETS, Archive, Public

Picture = Callable[..., bytes]


class Server:
    """Files by name; a connection ends after `breaks` bytes, if there are so many to send."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges: list[str | None] = []
        self.breaks: int | None = None
        self.knows_ranges = True
        self.status = 200
        self.url = ""


class Handler(BaseHTTPRequestHandler):
    server_state: Server

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        state = self.server_state
        asked = self.headers.get("Range")
        state.ranges.append(asked)
        content = state.files.get(self.path[1:])
        if content is None or state.status != 200:
            return self.send_error(404 if content is None else state.status)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if not state.knows_ranges:
            start = 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            return self.end_headers()
        rest = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: state.breaks])
        self.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()
    handler = type("Bound", (Handler,), {"server_state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        state.url = f"http://127.0.0.1:{listening.server_port}/"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        listening.shutdown()
        thread.join()


def zipped(files: dict[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    with zipfile.ZipFile(packed := io.BytesIO(), "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if name in links else 0o100644) << 16
            archive.writestr(info, content)
    return packed.getvalue()


def tarred(files: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    with tarfile.open(fileobj=(packed := io.BytesIO()), mode="w:gz") as archive:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def small(dataset: Public, server: Server, *contents: bytes) -> Public:
    """The dataset with these archives, on this server."""
    archives = []
    for archive, content in zip(dataset.archives, contents, strict=True):
        server.files[archive.name] = content
        digest = hashlib.sha256(content).hexdigest()
        archives.append(
            Archive(server.url + archive.name, f"sha256:{digest}", None, archive.into, archive.top)
        )
    return Public(dataset.folder, dataset.about, dataset.terms, tuple(archives), dataset.recipe)


@pytest.fixture
def flickr8k(server: Server, picture: Picture) -> Public:
    names = [f"{color}_1.jpg" for color in ("red", "lime", "blue")]
    text = {
        "Flickr8k.token.txt": "".join(f"{n}#{i}\tA wall .\n" for n in names for i in range(2)),
        "Flickr_8k.trainImages.txt": "\n".join(names[:2]),
        "Flickr_8k.devImages.txt": names[2],
        "__MACOSX/._readme.txt": "x",
    }
    pictures = {f"Flicker8k_Dataset/{n}": picture(n.partition("_")[0], "JPEG") for n in names}
    pictures |= {"Flicker8k_Dataset/": b"", "__MACOSX/Flicker8k_Dataset/._red_1.jpg": b"x"}
    packed = zipped({name: content.encode() for name, content in text.items()})
    return small(DATASETS["flickr8k"], server, packed, zipped(pictures))


@pytest.fixture
def food101(server: Server, picture: Picture) -> Public:
    files: dict[str, Any] = {"food-101/README.txt": b"x"}
    for split, color in (("train", "red"), ("test", "blue")):
        ids = [f"{dish}/{split}" for dish in ("soup", "bread")]
        files[f"food-101/meta/{split}.txt"] = "\n".join(ids).encode()
        for number, id in enumerate(ids, 4):
            files[f"food-101/images/{id}.jpg"] = picture(color, "JPEG", (number, 3))
    return small(DATASETS["food101"], server, tarred(files))


def test_flickr8k_is_what_the_recipes_read(flickr8k: Public, tmp_path: Path) -> None:
    assert get.get(flickr8k, tmp_path) == tmp_path / "flickr8k"
    train = captax.data.open(tmp_path / "flickr8k", split="train")
    assert [(e.id, e.captions) for e in train] == [
        ("red_1", ("A wall .", "A wall .")),
        ("lime_1", ("A wall .", "A wall .")),
    ]
    assert check(tmp_path / "flickr8k").report.sound
    # Nothing is left of the download, nor of what macOS adds.
    assert [path.name for path in tmp_path.iterdir()] == ["flickr8k"]
    names = {path.name for path in (tmp_path / "flickr8k").rglob("*")}
    assert not {"__MACOSX", "._readme.txt", "Flicker8k_Dataset"} & names


def test_food101_is_what_the_recipes_read(food101: Public, server: Server, tmp_path: Path) -> None:
    folder = get.get(food101, tmp_path)
    assert [e.label for e in open_labelled(folder, split="train")] == ["soup", "bread"]
    assert check(folder).report.sound
    # It is there, and nothing is downloaded again.
    server.ranges.clear()
    assert get.get(food101, tmp_path) == folder and not server.ranges


def test_a_broken_connection_goes_on_where_it_was(
    food101: Public, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get, "_PAUSE", 0)
    size = len(server.files["food-101.tar.gz"])
    server.breaks = size // 3 + 1
    assert check(get.get(food101, tmp_path)).report.sound
    assert server.ranges == [None, f"bytes={server.breaks}-", f"bytes={2 * server.breaks}-"]


def test_a_download_that_was_stopped_is_continued(
    food101: Public, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get, "_PAUSE", 0)
    server.breaks = 0
    with pytest.raises(DataError, match=r"download failed \(the connection ended after 0 of"):
        get.get(food101, tmp_path)
    assert len(server.ranges) == 5
    partial = tmp_path / ".food-101.captax-download" / "food-101.tar.gz.partial"
    content = server.files["food-101.tar.gz"]
    for have in (content[:40], content):  # a killed process may have had all of it
        partial.write_bytes(have)
        server.ranges.clear()
        server.breaks = None
        folder = get.get(food101, tmp_path)
        assert server.ranges == [f"bytes={len(have)}-"] and check(folder).report.sound
        folder.rename(tmp_path / f"done-{len(have)}")
        partial.parent.mkdir(exist_ok=True)


def test_a_server_without_ranges_begins_again(
    food101: Public, server: Server, tmp_path: Path
) -> None:
    server.knows_ranges = False
    partial = tmp_path / ".food-101.captax-download" / "food-101.tar.gz.partial"
    partial.parent.mkdir()
    partial.write_bytes(b"something else")
    assert check(get.get(food101, tmp_path)).report.sound


def test_another_file_is_not_unpacked(food101: Public, server: Server, tmp_path: Path) -> None:
    server.files["food-101.tar.gz"] = tarred({"food-101/x.txt": b"x"})
    with pytest.raises(
        DataError, match=r"another file than the dataset's .*, and was removed; run"
    ):
        get.get(food101, tmp_path)
    assert not list(tmp_path.rglob("*.txt")) and not list(tmp_path.rglob("*.partial"))
    [archive] = DATASETS["food101"].archives
    real = Public("food-101", "", "", (archive,), "")
    with pytest.raises(DataError, match=r"has \d+ bytes and should have 4,996,278,331; give anot"):
        get.get(real, tmp_path, mirror=server.url)


@pytest.mark.parametrize(
    ("status", "told"),
    [(404, "the server answered 404; give --mirror the URL"), (503, "failed .the server answered")],
)
def test_what_a_server_refuses_is_told(
    food101: Public,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    told: str,
) -> None:
    monkeypatch.setattr(get, "_PAUSE", 0)
    server.status = status
    with pytest.raises(DataError, match=told):
        get.get(food101, tmp_path)


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    "content",
    [
        tarred({"food-101/../../x": b"x"}),
        tarred({"/x": b"x"}),
        tarred({"food-101/a": link("food-101/a", tarfile.SYMTYPE)}),
        tarred({"food-101/a": link("food-101/a", tarfile.LNKTYPE)}),
        tarred({"food-101/a": link("food-101/a", tarfile.FIFOTYPE)}),
        tarred({"food-101/a": b"x", "a": b"x"}),
        zipped({"food-101/../x": b"x"}),
        zipped({"C:\\x": b"x"}),
        zipped({"food-101/a": b"/etc/passwd"}, links=("food-101/a",)),
        tarred({"food-101/a": b"x"})[:-30],
        b"neither",
    ],
    ids=["up", "absolute", "link", "hard link", "pipe", "twice", "zip up", "drive", "zip link",
         "cut off", "no archive"],
)  # fmt: skip
def test_hostile_archives_are_refused(server: Server, tmp_path: Path, content: bytes) -> None:
    hostile = small(DATASETS["food101"], server, content)
    with pytest.raises(DataError, match=r"remove it$") as raised:
        get.get(hostile, tmp_path / "data")
    assert "\n" not in str(raised.value)
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".food-101.captax-download"]


def test_what_unpacks_to_too_much_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get, "_MOST_BYTES", 5000)
    bomb = small(DATASETS["food101"], server, tarred({"food-101/a": bytes(6000)}))
    with pytest.raises(DataError, match="unpacks to more than any dataset"):
        get.get(bomb, tmp_path)


def test_nothing_is_replaced(food101: Public, tmp_path: Path) -> None:
    (tmp_path / "food-101").mkdir()
    with pytest.raises(DataError, match="is there already, and captax did not fetch it; give anot"):
        get.get(food101, tmp_path)


def test_two_processes_do_not_fetch_at_once(
    food101: Public, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = DataError("none")

    def unpack(*_: Any) -> None:
        nonlocal other
        with pytest.raises(DataError) as raised:
            get.get(food101, tmp_path)
        other = raised.value
        raise other

    monkeypatch.setattr(get, "_unpack", unpack)
    with contextlib.suppress(DataError):
        get.get(food101, tmp_path)
    assert str(other).endswith("food-101: another process fetches it; wait for it")


def test_what_another_process_made_meanwhile_is_left_as_it_is(
    food101: Public, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended between a look at the folder and the lock."""
    hold = get.hold

    def late(*given: Any, **more: Any) -> Any:
        monkeypatch.setattr(get, "hold", hold)
        get.get(food101, tmp_path)
        given[0].parent.mkdir()
        return hold(*given, **more)

    monkeypatch.setattr(get, "hold", late)
    place = get.get(food101, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


def test_a_mirror_is_a_web_address(food101: Public, server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no mirror; give a URL that begins with http"):
        get.get(food101, tmp_path, mirror=tmp_path.as_uri())
    assert get.get(food101, tmp_path, mirror=f"{server.url}").is_dir()
