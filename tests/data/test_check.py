import dataclasses
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from captax.data import DataError
from captax.data.check import Spread, Vocabulary, check
from captax.images import write_sheet

Picture = Callable[..., bytes]


@pytest.fixture
def dataset(tmp_path: Path, picture: Picture) -> Path:
    """Two splits in folders, with one fault of every kind."""
    root = tmp_path / "walls"
    pictures = {
        "train/red.png": picture("red", "PNG", (6, 4)),
        "train/same.png": picture("blue", "PNG"),
        "train/again.bmp": picture("lime", "BMP"),
        "train/lime.png": picture("lime", "PNG"),
        "train/cut.png": picture("pink", "PNG", (90, 90))[:-30],
        "val/blue.bmp": picture("blue", "BMP"),  # other bytes, same pixels
        "val/wide.png": picture("blue", "PNG", (3, 4)),  # same values in another shape
    }
    for name, content in pictures.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    captions = {
        "train/red.png": ["A red wall, it\u2019s red", "a  RED wall, it's red"],
        "train/same.png": ["A wall"],
        "train/again.bmp": [""],
        "train/lime.png": ["Green"],
        "train/cut.png": ["Pink"],
        "train/gone.png": ["Nothing"],
        "val/blue.bmp": ["A wall"],
        "val/wide.png": ["The blue one"],
    }
    rows = [{"file_name": name, "text": texts} for name, texts in captions.items()]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def test_finds_every_fault(dataset: Path) -> None:
    report = check(dataset).report
    assert report.layout == "folder with metadata.jsonl"
    assert report.pictures == {"train": 6, "dev": 2}
    assert report.captions == {"train": 7, "dev": 2}
    assert report.leaks == [["train/same.png", "val/blue.bmp"]]
    assert report.repeated == [["train/again.bmp", "train/lime.png"]]
    assert list(report.unreadable) == ["train/cut.png", "train/gone.png"]
    assert "damaged or truncated PNG" in report.unreadable["train/cut.png"]
    assert "no such file" in report.unreadable["train/gone.png"]
    assert report.empty == ["train/again.bmp"]
    assert report.repeated_captions == ["train/red.png"]
    assert report.shared_captions == 1
    assert not report.sound


def test_figures(dataset: Path) -> None:
    report = check(dataset).report
    # Words a caption: 5 5 2 1 1 1 2 3.
    assert report.words == Spread(1, 2, 5, 5)
    # a 4, red 4, wall 4, it's 2; green, pink, nothing, the, blue, one once each.
    assert report.vocabulary == Vocabulary(10, 0, 6)
    assert report.sizes == [(4, 3, 4), (6, 4, 1), (3, 4, 1)]
    assert report.widths == Spread(3, 4, 6, 6)
    assert report.heights == Spread(3, 3, 4, 4)


def test_a_sound_dataset(dataset: Path) -> None:
    report = check(dataset, split="dev").report
    assert report.sound
    assert report.pictures == {"dev": 2}
    assert report.leaks == report.faults == [] and report.unreadable == {}
    assert check(dataset, split="val").report == report


@pytest.mark.parametrize(
    "fault", ["faults", "unreadable", "leaks", "uncaptioned", "empty", "unpictured"]
)
def test_what_makes_a_dataset_unsound(dataset: Path, fault: str) -> None:
    sound = check(dataset, split="dev").report
    wrong = {"a": "b"} if fault == "unreadable" else [["a", "b"]] if fault == "leaks" else ["a"]
    assert not dataclasses.replace(sound, **{fault: wrong}).sound  # type: ignore[arg-type]


def test_what_readers_refuse_is_listed(tmp_path: Path, picture: Picture) -> None:
    """COCO: an image without captions, captions without an image, an id twice."""
    (tmp_path / "images").mkdir()
    for name in "ab":
        (tmp_path / f"images/{name}.png").write_bytes(picture("red" if name == "a" else "blue"))
    images = [{"id": i, "file_name": f"{n}.png"} for i, n in ((1, "a"), (2, "b"), (2, "b"))]
    notes = [{"image_id": 1, "caption": "A wall"}, {"image_id": 3, "caption": "A dog"}]
    (tmp_path / "captions_train.json").write_text(
        json.dumps({"images": images, "annotations": notes})
    )
    report = check(tmp_path).report
    assert report.uncaptioned == ["2"]
    assert [fault.partition(": ")[2] for fault in report.faults] == [
        "image 2 comes twice; remove one",
        "image 3 has captions but is not in 'images'; add it or remove them",
    ]
    assert report.pictures == {"train": 2} and report.unreadable == {}


def test_a_text_that_is_not_utf8_is_a_fault_of_its_picture(
    tmp_path: Path, picture: Picture
) -> None:
    for name, text in (("a", b"A wall"), ("b", b"Caf\xe9")):
        (tmp_path / f"{name}.png").write_bytes(picture("red" if name == "a" else "blue"))
        (tmp_path / f"{name}.txt").write_bytes(text)
    report = check(tmp_path).report
    assert sum(report.pictures.values()) == 2 and report.uncaptioned == ["train/b.png"]
    [fault] = report.faults
    assert fault.endswith("b.txt: byte 3 is not UTF-8 text; save the file as UTF-8")


def test_an_empty_text_is_told_apart_from_none(tmp_path: Path, picture: Picture) -> None:
    for name, text in (("a", "A wall"), ("b", " \n"), ("c", None)):
        (tmp_path / f"{name}.png").write_bytes(picture("red"))
        if text is not None:
            (tmp_path / f"{name}.txt").write_text(text)
    report = check(tmp_path).report
    assert [Path(each).name for each in report.empty] == ["b.png"]
    assert [Path(each).name for each in report.uncaptioned] == ["c.png"]


def test_a_bad_line_hides_no_other_fault(tmp_path: Path, picture: Picture) -> None:
    (tmp_path / "a.png").write_bytes(picture("red"))
    (tmp_path / "a.txt").write_text("not read")
    rows = ['{"file_name": "a.png"', '{"file_name": "a.png", "text": "A wall"}', "[]"]
    rows.append('{"file_name": "gone.png", "text": "A dog"}')
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    report = check(tmp_path).report
    assert ["line 1: not JSON" in told or "line 3: expected" in told for told in report.faults] == [
        True,
        True,
    ]
    [reason] = report.unreadable.values()
    assert reason == "no such file"
    assert "text files beside its pictures are not read" in report.layout


def test_pictures_without_a_text_beside_them(tmp_path: Path, picture: Picture) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(picture("red"))
    (tmp_path / "a.txt").write_text("A wall")
    report = check(tmp_path).report
    assert [name.rpartition("/")[2] for name in report.uncaptioned] == ["b.png"]


def test_shards_are_looked_at_in_place(tmp_path: Path, picture: Picture) -> None:
    files = {"a.png": picture("red"), "a.txt": b"A wall", "b.jpg": b"no picture", "b.txt": b"B"}
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    report = check(tmp_path).report
    assert report.layout == "WebDataset shards"
    assert list(report.unreadable) == ["train-0/b"]


def test_labelled_pictures(tmp_path: Path, picture: Picture) -> None:
    for i, name in enumerate(["train/soup/1", "train/soup/2", "train/bread/1", "val/soup/1"]):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture("red", "PNG", (4 + i, 4)))
    report = check(tmp_path).report
    assert report.layout == "a folder for each class, in folders of splits"
    assert report.classes == {"train": {"bread": 1, "soup": 2}, "dev": {"soup": 1}}
    assert report.pictures == {"train": 3, "dev": 1}
    assert report.captions == {} and report.words is None and report.vocabulary is None
    assert report.sound


def test_pictures_beside_the_folders_of_classes_are_faults(
    tmp_path: Path, picture: Picture
) -> None:
    """They may have been meant to have captions; that the others have classes says nothing."""
    names = ["soup/1", "bread/1", "top", "cut"]
    for i, name in enumerate(names):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture("red", "PNG", (4 + i, 4))[: -30 if name == "cut" else None])
    report = check(tmp_path).report
    assert report.layout == "a folder for each class" and not report.sound
    [fault] = report.faults
    assert fault == (
        f"{tmp_path}: cut.png (and 1 other) is in no folder of a class; move it into one, or write "
        "its caption"
    )
    assert list(report.unreadable) == ["cut.png"] and "damaged" in report.unreadable["cut.png"]
    for name in ("top", "cut"):
        (tmp_path / f"{name}.png").unlink()
    assert check(tmp_path).report.sound


def test_a_caption_without_a_picture_is_told(tmp_path: Path, picture: Picture) -> None:
    for name in ("a.b", "sub/c"):
        (tmp_path / f"{name}.png").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.png").write_bytes(picture("red" if name == "a.b" else "blue"))
        (tmp_path / f"{name}.txt").write_text("A wall")
    (tmp_path / "README.txt").write_text("About these pictures")
    assert check(tmp_path).report.sound
    (tmp_path / "sub" / "gone.txt").write_text("A wall that was here")
    report = check(tmp_path).report
    assert report.unpictured == ["sub/gone.txt"] and not report.sound


def test_the_sheet_shows_what_is_wrong_first(dataset: Path, tmp_path: Path) -> None:
    found = check(dataset)
    rows = list(found.sheet_rows(100))
    assert len(rows) == 8
    wrong = {row.title: row.error for row in rows[:5]}
    assert wrong["train/same.png"] == wrong["val/blue.bmp"] == "is in another split too"
    assert wrong["train/again.bmp"] == "has an empty caption"
    assert "damaged" in str(wrong["train/cut.png"]) and "no such" in str(wrong["train/gone.png"])
    assert [row.error for row in rows[5:]] == [None] * 3
    assert len(list(found.sheet_rows(6))) == 6
    assert [r.title for r in found.sheet_rows(7, seed=1)] == [
        r.title for r in found.sheet_rows(7, seed=1)
    ]
    write_sheet(tmp_path / "sheet.html", rows, title="Walls")
    page = (tmp_path / "sheet.html").read_text()
    assert "A red wall, it\u2019s red · a  RED wall" in page
    assert page.count("data:image/jpeg") == 6 and "8 pictures, 5 with an error" in page


def test_a_picture_is_compared_upright(tmp_path: Path) -> None:
    """What a model sees is compared, so a turned copy that says so is the same picture."""
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture = Image.new("L", (2, 1))
    picture.putpixel((1, 0), 255)
    for split, image, tag in (("train", picture, None), ("val", picture.rotate(180), exif)):
        folder = tmp_path / split
        folder.mkdir()
        image.save(folder / "a.png", exif=tag)
        (folder / "a.txt").write_text("Half white")
    assert check(tmp_path).report.leaks == [["train/a.png", "val/a.png"]]


def test_refuses_what_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a dataset that captax knows"):
        check(tmp_path)
    with pytest.raises(DataError, match="nowhere: no such directory"):
        check("nowhere")
    (tmp_path / "captions.csv").write_text("image,caption\n")
    with pytest.raises(DataError, match="no pictures"):
        check(tmp_path)
    (tmp_path / "captions.csv").write_text("image,caption\na\n")
    with pytest.raises(DataError, match="line 2: this row has 1 fields"):
        check(tmp_path)
