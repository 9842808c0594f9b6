"""Datasets of captioned pictures, labels and pairs of texts, in each of the known layouts."""

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import judge
from PIL import Image

from captax.data import class_names, open_labelled, open_pairs
from captax.data import open as open_dataset
from captax.data.check import check

KINDS = (
    *("coco/annotations/captions.json", "karpathy/dataset_coco.json", "jsonl/metadata.jsonl"),
    *("csv/captions.csv", "tsv/captions.tsv", "flickr8k/Flickr8k.token.txt", "kaggle/captions.txt"),
    *("flickr8k/Flickr_8k.trainImages.txt", "sidecars/a.txt", "shards/train.tar"),
    *("mended-shards/a.tar", "pairs/train.jsonl", "pairs/train.csv", "lines/train.source"),
    *("food101/meta/train.json", "food101/meta/test.txt", "food101/meta/classes.txt"),
)
READS_ANYWHERE = True  # a list may name pictures by whole paths
WORDS = (
    *(b"images", b"annotations", b"image_id", b"id", b"file_name", b"caption", b"sentences"),
    *(b"raw", b"split", b"train", b"val", b"dev", b"test", b"restval", b"cocoid", b"filename"),
    *(b"filepath", b"text", b"captions", b"image", b"caption_0", b"caption_1", b"sentence"),
    *(b"a.jpg#0\t", b"a.jpg", b"b.jpg", b"#", b"\t", b'"', b",", b"\r\n", b"\0", b"\xff", b"\n"),
    *(b"ustar\x0000", b"ustar  \0", b"././@LongLink", b"path=", b"size=", b"GNU.sparse.major=1\n"),
    *(b"GNU.sparse.map=", b"GNU.sparse.size=", b"hdrcharset=BINARY\n", b"linkpath=", b"K", b"L"),
    *(b"S", b"x", b"g", b"\x80", b"77777777777\0", b".jpg", b".txt", b".json", b'["a', b"../a.jpg"),
    *(b"source", b"target", b"translation", b"en", b"de", b"article", b"summary", b"cats/a"),
)
ALONE = ("pairs", "shards", "mended-shards")  # each of their files is a dataset


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in (
            *(("a.jpg", _picture()), ("a.txt", b"a dog\n"), ("b.png", _picture())),
            *(("b.json", b'{"caption": ["a cat", "two"]}'), ("x" * 120 + ".cls", b"3")),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "JPEG")
    return file.getvalue()


def _files() -> dict[str, object]:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    notes = [{"image_id": n, "id": n, "caption": "a dog"} for n in (1, 2, 2)]
    listed = [
        {"filename": f"{name}.jpg", "split": split, "cocoid": 3, "sentences": [{"raw": "a dog"}]}
        for name, split in (("a", "train"), ("b", "val"))
    ]
    listed[1].pop("cocoid")
    tokens = "".join(f"{name}.jpg#{n}\ta dog\n" for name in "ab" for n in range(2))
    pairs = '{"source": "a", "target": "b"}\n{"source": "c", "target": "d", "id": 4}'
    rows = '{"file_name": "a.jpg", "text": "a dog"}\n{"file_name": "b.jpg", "text": ["a", "b"]}'
    return {
        "coco/annotations/captions.json": {"images": images, "annotations": notes},
        "karpathy/dataset_coco.json": {"images": listed},
        "jsonl/metadata.jsonl": rows,
        "csv/captions.csv": 'image,caption\na.jpg,"a ""dog"", a\ncat"\nb.jpg,two\n',
        "tsv/captions.tsv": "file_name\tcaption_0\tcaption_1\na.jpg\ta\tb\nb.jpg\tc\td\n",
        "flickr8k/Flickr8k.token.txt": tokens,
        "flickr8k/Flickr_8k.trainImages.txt": "a.jpg\n",
        "flickr8k/Flickr_8k.devImages.txt": "b.jpg\n",
        "kaggle/captions.txt": "image,caption\na.jpg,a dog\nb.jpg,two\n",
        "sidecars/a.txt": "a dog\ntwo\n",
        "sidecars/b.txt": "a dog\n",
        "shards/train.tar": _tar(),
        "mended-shards/a.tar": _tar(),
        "pairs/train.jsonl": pairs,
        "pairs/train.csv": 'id,article,highlights\n1,a,b\n2,"c, d",e\n',
        "lines/train.source": "a\nb\n",
        "lines/train.target": "c\nd\n",
        "food101/meta/train.json": {"cats": ["cats/a"], "dogs": ["dogs/a"]},
        "food101/meta/test.txt": "cats/b\ndogs/b\n",
        "food101/meta/classes.txt": "cats\ndogs\n",
    }


FILES = {
    name: value if isinstance(value, bytes) else
    (value if isinstance(value, str) else json.dumps(value)).encode()
    for name, value in _files().items()
}  # fmt: skip


def prepare(inputs: Path) -> None:
    """Whole datasets with two small pictures; `read` has one file in the place of its own."""
    for name, content in FILES.items():
        path = inputs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent.name not in ALONE:
            path.write_bytes(content)
        root = inputs / name.partition("/")[0]
        folders = [root, root / "images"]
        if root.name == "food101":
            folders = [root / "images" / label for label in ("cats", "dogs")]
        for folder in folders if "shards" not in root.name else ():
            folder.mkdir(exist_ok=True, parents=True)
            for picture in "ab":
                (folder / f"{picture}.jpg").write_bytes(_picture())
    shutil.rmtree(inputs / "sidecars" / "images")


def seeds() -> Iterator[tuple[str, bytes]]:
    """One of each layout."""
    for name in KINDS:
        yield name, FILES[name]
    for name in KINDS[:3]:
        yield name, b'{"a": ' * 20_000


def finish(kind: str, content: bytes) -> bytes:
    """A mended shard has the checksums that its headers should have."""
    if not kind.startswith("mended"):
        return content
    blocks = bytearray(content)
    at = 0
    while at + 512 <= len(blocks):
        block = blocks[at : at + 512]
        if any(block):
            block[148:156] = b" " * 8
            blocks[at + 148 : at + 156] = b"%06o\0 " % sum(block)
        digits = bytes(block[124:136]).strip(b"\0 ")
        size = int(digits, 8) if digits and all(c in b"01234567" for c in digits) else 0
        at += 512 + -(-size // 512) * 512
    return bytes(blocks)


def read(path: Path) -> None:
    """Open the dataset, its pictures too; check it if it is one of captions."""
    root = judge.folder(path)
    if root.name in ("pairs", "lines"):
        open_pairs(root)
    elif root.name == "food101":
        class_names(root)
        open_labelled(root)
    else:
        check(root)
        for example in open_dataset(root):
            assert example.image


def restore(path: Path) -> None:
    """Put back what the input was in the place of."""
    root = judge.folder(path)
    if root.name in ALONE:
        path.unlink()
    else:
        path.write_bytes(FILES[str(path.relative_to(root.parent))])
