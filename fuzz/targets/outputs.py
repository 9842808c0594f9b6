"""Collections: where captions go and what is there, any name and caption; archives, lists."""

import contextlib
import csv
import io
import json
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from PIL import Image

from captax.collection.archives import _zip, archive_items
from captax.collection.beside import Beside, TextSidecars, XmpSidecars
from captax.collection.choices import OnExists, Resume
from captax.collection.description import xmp_sidecar
from captax.collection.item import Item
from captax.collection.journal import JOURNAL, Journal
from captax.collection.lists import list_items
from captax.collection.outputs import WRITERS, OneFile
from captax.collection.record import Record
from captax.images import ImageError

KINDS = (
    *("text/a.txt", "xmp/a.jpg.xmp", f"job/{JOURNAL}", "lists/a.jsonl", "lists/a.csv"),
    *("zip/a.zip", "tar/a.tar", "written/names-and-captions"),
)
WRITES = True
READS_ANYWHERE = True  # a list may name pictures by whole paths
WORDS = (
    *(b"path", b"file_name", b"url", b"captions", b"batch", b"captax", b"settings", b"name"),
    *(b"error", b"copy_of", b"fingerprint", b"target", b"before", b"PK\x03\x04", b"PK\x01\x02"),
    *(b"PK\x05\x06", b"ustar\x0000", b"<x:xmpmeta", b"<rdf:RDF", b"<rdf:Description", b"rdf:about"),
    *(b"<dc:description>", b"<rdf:Alt>", b"<rdf:li xml:lang='x-default'>", b"<!DOCTYPE", b"&amp;"),
    *(b"<?xpacket", b"xmlns:dc=", b"\0", b"\n", b"\r", b'"', b",", b"\xff", b"\xed\xa0\x80", b"/"),
)
SAID = Record("a.jpg", (('a "dog", running & <barking>', -0.5), ("two dogs", -1.0)))


def _archives() -> tuple[bytes, bytes]:
    picture, zipped, tarred = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.new("RGB", (2, 2)).save(picture, "PNG")
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.png", "b/c.png", "../d.png"):
            archive.writestr(name, picture.getvalue())
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = len(picture.getvalue())
        archive.addfile(member, io.BytesIO(picture.getvalue()))
    return zipped.getvalue(), tarred.getvalue()


def seeds() -> Iterator[tuple[str, bytes]]:
    """One of each kind."""
    zipped, tarred = _archives()
    header = {"captax": 1, "settings": {"seed": 0}}
    batch = {"batch": [SAID.write(), Record("b.jpg", error="is empty").write()]}
    journal = "".join(json.dumps(each) + "\n" for each in (header, batch, batch))
    yield "text/a.txt", "a cat\nzwei Hunde \u00e9\n".encode()
    yield "xmp/a.jpg.xmp", xmp_sidecar(None, "a cat")
    yield f"job/{JOURNAL}", journal.encode()
    yield "lists/a.jsonl", b'{"path": "a.jpg"}\n{"url": "https://example.org/b.jpg"}\n'
    yield "lists/a.csv", b'file_name,text\na.jpg,"a ""dog"""\nb.jpg,\n'
    yield "zip/a.zip", zipped
    yield "tar/a.tar", tarred
    yield "written/names-and-captions", "a b.jpg\0a dog\0\u00e9.png\0\0x\0two\ndogs\0".encode()


def read(path: Path) -> None:
    """Do with the file what a job does; what is written must be what is read back."""
    kind = path.parent.name
    if kind in ("text", "xmp"):
        _beside(path)
    elif kind == "job":
        _resume(path.parent)
    elif kind == "written":
        _write(path)
    else:
        for item in list_items(path) if kind == "lists" else archive_items(str(path), Counter()):
            assert not item.place.is_absolute() and ".." not in item.place.parts
            if kind != "lists" and not isinstance(item.image, Path | ImageError):
                with contextlib.suppress(ImageError):
                    item.source()


def restore(path: Path) -> None:
    """Forget the archive, and what was written beside."""
    _zip.cache_clear()
    for other in path.parent.glob("*"):
        if other != path:
            other.unlink()


def _beside(path: Path) -> None:
    item = Item("a.jpg", path.parent / "a.jpg", PurePosixPath("a.jpg"))
    content = path.read_bytes()
    for policy in OnExists:
        kind = TextSidecars() if path.suffix == ".txt" else XmpSidecars()
        path.write_bytes(content)
        output = Beside(kind, policy=policy)
        plan = output.plan(item)
        if plan is None:
            assert policy is OnExists.skip
            continue
        record = Record(SAID.name, SAID.captions, target=plan[0], before=plan[1])
        if not output.write(record):
            assert SAID.text in kind.read(item.path or path), policy


def _resume(folder: Path) -> None:
    content = (folder / JOURNAL).read_bytes()
    for resume in (Resume.if_possible, Resume.always, Resume.never):
        (folder / JOURNAL).write_bytes(content)
        with Journal(folder, {"seed": 0}, resume=resume, retry_errors=True) as journal:
            before = list(journal.batches())
            journal.append([SAID])
            assert list(journal.batches()) == [*before, [SAID]]


def _write(path: Path) -> None:
    parts = path.read_bytes().decode(errors="surrogateescape").split("\0")
    names = [name for name in dict.fromkeys(parts[::2]) if name.strip("/.")]
    captions = dict(zip(parts[::2], parts[1::2], strict=False))
    records = [Record(name, ((captions.get(name, ""), -1.5),)) for name in names]
    for format in WRITERS:
        out = path.parent / f"out.{format}"
        if format == "metadata" and any(".." in PurePosixPath(r.name).parts for r in records):
            continue  # refused when planned
        OneFile(out, format).finish(lambda: iter(records))
        if format == "jsonl":
            read = [json.loads(line) for line in out.read_text().split("\n") if line]
            assert [(r["path"], r["caption"]) for r in read] == [(r.name, r.text) for r in records]
        elif format == "csv":
            with out.open(newline="") as file:
                rows = list(csv.DictReader(file))
            assert len(rows) == len(records)
        elif format == "coco":
            assert len(json.loads(out.read_text())) == len(records)
