import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import captax.data
from captax.data import DataError, load_images
from captax.data.shards import TarPicture, expand_braces
from captax.images import ImageError, ImageProcessor

Picture = Callable[..., bytes]
Write = Callable[[str, Mapping[str, bytes | str]], Path]


@pytest.fixture
def shard(tmp_path: Path) -> Write:
    """Write a tar file of this name in a folder `shards`, and give its path."""

    def write(name: str, files: Mapping[str, bytes | str]) -> Path:
        path = tmp_path / "shards" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for member, content in files.items():
                content = content.encode() if isinstance(content, str) else content
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return path

    return write


def test_samples_of_a_shard(shard: Write, picture: Picture) -> None:
    red, blue = picture("red"), picture("blue", "JPEG")
    path = shard(
        "000.tar",
        {
            "./a.json": json.dumps({"width": 4}),
            "./a.png": red,
            "./a.txt": " A red wall\n\nAll red \n",
            "./._a.png": "what macOS adds",
            "sub/b.JPG": blue,
            "sub/b.json": json.dumps({"captions": ["A blue wall", " All blue"], "url": None}),
            "sub/b.cls": "3",
        },
    )
    first, second = captax.data.open(path)
    assert (first.id, first.captions, first.image) == ("000/a", ("A red wall", "All red"), red)
    assert (second.id, second.captions) == ("000/sub/b", ("A blue wall", "All blue"))
    assert second.image == blue
    assert first.source == "shards"
    assert [first, second] == captax.data.open(path.parent)


def test_links_in_a_shard_are_the_files_that_they_lead_to(shard: Write, picture: Picture) -> None:
    red = picture("red")
    path = shard("000.tar", {"a.png": red, "a.txt": "A wall"})
    with tarfile.open(path, "a") as archive:
        for name, target in (("b.png", "a.png"), ("b.txt", "a.txt")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, target
            archive.addfile(info)
    assert [(e.id, e.image, e.captions) for e in captax.data.open(path)] == [
        (f"000/{key}", red, ("A wall",)) for key in "ab"
    ]
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("c.png")
        info.type, info.linkname = tarfile.SYMTYPE, "gone.png"
        archive.addfile(info)
    with pytest.raises(DataError, match=r"c\.png: is a link to what is no file of the archive"):
        captax.data.open(path)


def test_pictures_are_read_when_asked_for(shard: Write, picture: Picture) -> None:
    path = shard("000.tar", {"a.png": picture("red"), "a.txt": "A wall"})
    [mixed] = captax.data.mix(captax.data.open(path))
    assert mixed.id == "shards/000/a"
    assert b"PNG" in mixed.image[:8]
    path.write_bytes(path.read_bytes()[:520])
    with pytest.raises(ImageError, match=r"000\.tar: ends within a picture"):
        _ = mixed.image
    path.unlink()
    with pytest.raises(ImageError, match=r"000\.tar: cannot be read: No such file"):
        _ = mixed.image
    # As a data loader meets it: an error in the place of the picture, and no end of the epoch.
    processor = ImageProcessor(size=(4, 4))
    loaded = load_images([mixed], lambda found: processor([found[0].image]), threads=1, ahead=1)
    assert isinstance(next(loaded), ImageError)


def test_splits_by_the_names_of_shards(shard: Write, picture: Picture) -> None:
    for name in ("train-000", "train-001", "val-000"):
        path = shard(f"{name}.tar", {"a.png": picture("red"), "a.txt": name})
    root = path.parent
    assert [e.captions for e in captax.data.open(root, split="dev")] == [("val-000",)]
    train = captax.data.open(f"{root}/train-{{000..001}}.tar")
    assert [e.id for e in train] == ["train-000/a", "train-001/a"]
    assert train == captax.data.open(root, split="train")
    assert len(captax.data.open(root)) == 3
    with pytest.raises(DataError, match="no test split; choose dev or train"):
        captax.data.open(root, split="test")


def test_splits_by_the_folders_of_shards(shard: Write, picture: Picture) -> None:
    for name in ("train/0.tar", "valid/0.tar"):
        root = shard(name, {"a.png": picture("red"), "a.txt": name}).parents[1]
    assert [e.id for e in captax.data.open(root, split="dev")] == ["valid/0/a"]
    assert [e.id for e in captax.data.open(root, split="train")] == ["train/0/a"]


def test_shards_that_name_no_split_are_split_by_hashing(shard: Write, picture: Picture) -> None:
    files = {f"{i}.{end}": picture("red") if end == "png" else "A wall"
             for i in range(60) for end in ("png", "txt")}  # fmt: skip
    root = shard("0.tar", files).parent
    train, dev = (captax.data.open(root, split=split) for split in ("train", "dev"))
    assert train and dev
    assert {e.id for e in train} | {e.id for e in dev} == {f"0/{i}" for i in range(60)}
    assert len(train) + len(dev) == 60


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"a.txt": "A wall"}, r"000\.tar: a has a caption and no picture"),
        ({"a.png": "p"}, r"000\.tar: a has no caption"),
        ({"a.png": "p", "a.txt": " \n"}, r"000\.tar: a has no caption"),
        ({"a.png": "p", "a.json": '{"url": "x"}'}, "a has no caption"),
        ({"a.png": "p", "a.json": '{"caption": null}'}, "a has no caption"),
        ({"a.png": "p", "a.jpg": "p", "a.txt": "A"}, r"000\.tar, a\.jpg: a has two pictures"),
        ({"a.png": "p", "a.json": "{"}, r"000\.tar, a\.json: not JSON"),
        ({"a.png": "p", "a.txt": b"caf\xe9"}, r"000\.tar, a\.txt: byte 3 is not UTF-8"),
        (
            {"a.png": "p", "a.json": '{"caption": 3}'},
            r"a\.json: it needs one or more captions, as strings",
        ),
    ],
)
def test_refuses_malformed_samples(shard: Write, files: dict[str, str | bytes], fault: str) -> None:
    with pytest.raises(DataError, match=fault) as raised:
        captax.data.open(shard("000.tar", files))
    assert "\n" not in str(raised.value)


def test_refuses_damaged_shards(shard: Write, picture: Picture) -> None:
    files: dict[str, bytes | str] = {"a.png": picture("red"), "a.txt": "A", "b.png": "p" * 2000}
    path = shard("000.tar", files)
    whole = path.read_bytes()
    path.write_bytes(whole[: 6 * 512])  # in the middle of b.png
    with pytest.raises(
        DataError, match=r"000\.tar: not a complete tar file \(unexpected end of data"
    ):
        captax.data.open(path)
    header = whole.index(b"b.png")
    path.write_bytes(whole[:header] + b"\xff" * 512 + whole[header + 512 :])
    with pytest.raises(DataError, match=rf"000\.tar: damaged at byte {header}"):
        captax.data.open(path)
    path.write_bytes(b"\x1f\x8b" + whole)
    with pytest.raises(DataError, match=r"000\.tar: not a complete tar file"):
        captax.data.open(path)


def test_refuses_shards_that_cannot_be_read_at_random(tmp_path: Path) -> None:
    (tmp_path / "000.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match=r"000\.tar\.gz: is compressed"):
        captax.data.open(tmp_path / "000.tar.gz")


def test_refuses_shards_that_are_not_there(shard: Write) -> None:
    path = shard("000.tar", {})
    with pytest.raises(DataError, match=r"001\.tar \(and 1 other\) does not exist"):
        captax.data.open(path.parent / "{000..002}.tar")
    with pytest.raises(DataError, match=r"7\.tar: no such directory or file"):
        captax.data.open(path.parent / "7.tar")
    with pytest.raises(DataError, match="no pictures"):
        captax.data.open(path)


def test_braces() -> None:
    assert expand_braces("a/{08..11}-{x,y}.tar") == [
        f"a/{n}-{c}.tar" for n in ("08", "09", "10", "11") for c in "xy"
    ]
    assert expand_braces("{only}.tar") == ["{only}.tar"]


def test_a_picture_in_a_shard_is_small(tmp_path: Path) -> None:
    """A million of them are to fit beside a model: no dictionary of attributes each."""
    assert not hasattr(TarPicture(tmp_path, 0, 0), "__dict__")


@pytest.mark.parametrize(
    ("size", "why"),
    [
        (2**20, r"a\.txt is to have 1,048,576 bytes, more than the shard"),
        (2**40, r"a\.txt: has more bytes than such a file has \(1,099,511,627,776\)"),
    ],
)
def test_refuses_a_caption_of_more_bytes_than_the_shard(
    tmp_path: Path, size: int, why: str
) -> None:
    header = tarfile.TarInfo("a.txt")
    header.size = size
    (tmp_path / "0.tar").write_bytes(header.tobuf(format=tarfile.GNU_FORMAT) + b"x" * 2000)
    with pytest.raises(DataError, match=why):
        captax.data.open(tmp_path)
