"""Needs the `datasets` library (the extra `hub-data`), which made all that is read here."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import captax.data
from captax.data import DataError, Pair, class_names, open_labelled, open_pairs
from captax.data.check import check
from captax.data.huggingface import Rows, read_captions
from captax.images import ImageError, decode

Picture = Callable[..., bytes]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, offline and with a cache of its own."""
    datasets = pytest.importorskip("datasets", reason="needs the extra hub-data")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return datasets


@pytest.fixture
def rows(library: Any, picture: Picture) -> Callable[..., Any]:
    """`rows(red=["A red wall"], ...)`: a dataset of plain pictures with a column `image`."""

    def make(column: str = "text", **captions: object) -> Any:
        images = [{"bytes": picture(color), "path": None} for color in captions]
        values = {"image": images, column: list(captions.values())}
        made = library.Dataset.from_dict(values)
        return made.cast_column("image", library.Image())

    return make


def colors(examples: list[captax.data.Example]) -> list[tuple[int, ...]]:
    return [decode(example.image).getpixel((0, 0)) for example in examples]  # type: ignore[misc]


def test_what_save_to_disk_wrote(rows: Callable[..., Any], library: Any, tmp_path: Path) -> None:
    splits = {
        "train": rows("captions", red=["Red", "All red"], lime=["Green"]),
        "validation": rows("captions", blue=["Blue"]),
    }
    library.DatasetDict(splits).save_to_disk(tmp_path / "walls")
    train = captax.data.open(tmp_path / "walls", split="train")
    assert [(e.id, e.captions) for e in train] == [
        ("train/0", ("Red", "All red")),
        ("train/1", ("Green",)),
    ]
    assert colors(train) == [(255, 0, 0), (0, 255, 0)]
    [dev] = captax.data.open(tmp_path / "walls", split="val")
    assert (dev.id, dev.source, colors([dev])) == ("validation/0", "walls", [(0, 0, 255)])
    assert len(captax.data.open(tmp_path / "walls")) == 3
    with pytest.raises(DataError, match="no test split; choose dev or train"):
        captax.data.open(tmp_path / "walls", split="test")


def test_one_split_alone_is_split_by_hashing(rows: Callable[..., Any], tmp_path: Path) -> None:
    rows(red="Red", blue="Blue").save_to_disk(tmp_path / "walls")
    found = captax.data.open(tmp_path / "walls")
    assert [(e.id, e.captions) for e in found] == [("0", ("Red",)), ("1", ("Blue",))]
    with pytest.raises(DataError, match="lists no splits, so it has no test part"):
        captax.data.open(tmp_path / "walls", split="test")


def test_parquet_with_a_row_for_each_caption(
    library: Any, picture: Picture, tmp_path: Path
) -> None:
    """Plain Parquet, without what `datasets` notes of its columns, as other programs write it."""
    import pyarrow
    from pyarrow import parquet

    folder = tmp_path / "walls" / "data"
    folder.mkdir(parents=True)
    table = {
        "image_id": [7, 8, 7],
        "image": [{"bytes": picture(c), "path": "x.png"} for c in ("red", "blue", "red")],
        "caption": ["Red", "Blue", " All red "],
    }
    parquet.write_table(pyarrow.table(table), folder / "train-00000-of-00001.parquet")
    found = captax.data.open(tmp_path / "walls")
    assert [(e.id, e.captions) for e in found] == [("7", ("Red", "All red")), ("8", ("Blue",))]
    assert colors(found) == [(255, 0, 0), (0, 0, 255)]


def test_pictures_are_read_when_asked_for(library: Any, picture: Picture, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(picture("red"))
    images = [str(tmp_path / "a.png"), str(tmp_path / "b.png"), None]
    made = library.Dataset.from_dict({"image": images, "text": ["a", "b", "c"]})
    made = made.cast_column("image", library.Image())
    (tmp_path / "b.png").unlink()
    first, second, third = read_captions(Rows("walls", "walls", "", [""], lambda *_: made))
    assert first.image == picture("red")
    with pytest.raises(ImageError, match=r"walls, 1: .*b\.png: No such file"):
        _ = second.image
    with pytest.raises(ImageError, match="walls, 2: no picture in its column image"):
        _ = third.image
    # A dataset of the hub does not name files of this machine.
    rows = Rows("hf://me/walls", "walls", "", [""], lambda *_: made, remote=True)
    with pytest.raises(ImageError, match="hf://me/walls, 0: no picture in its column image"):
        _ = read_captions(rows)[0].image


def test_labels_by_the_names_of_their_classes(
    library: Any, picture: Picture, tmp_path: Path
) -> None:
    """As torchvision's and the hub's classification sets are: numbers, with names beside."""
    features = library.Features(
        {"image": library.Image(), "label": library.ClassLabel(names=["wall", "door"])}
    )

    def part(*labels: int) -> Any:
        images = [{"bytes": picture(c), "path": None} for c in ("red", "lime", "blue")]
        values = {"image": images[: len(labels)], "label": list(labels)}
        return library.Dataset.from_dict(values, features=features)

    splits = library.DatasetDict(train=part(0, 1, 1), validation=part(1, 0), test=part(-1))
    splits.save_to_disk(tmp_path / "walls")
    train = open_labelled(tmp_path / "walls", split="train")
    assert [(e.id, e.label) for e in train] == [
        ("train/0", "wall"),
        ("train/1", "door"),
        ("train/2", "door"),
    ]
    assert [decode(e.image).getpixel((0, 0)) for e in train[:2]] == [(255, 0, 0), (0, 255, 0)]
    assert [e.label for e in open_labelled(tmp_path / "walls", split="val")] == ["door", "wall"]
    assert class_names(tmp_path / "walls") == ("wall", "door")
    with pytest.raises(DataError, match="test/ row 0: its label names no class; got -1"):
        open_labelled(tmp_path / "walls", split="test")
    with pytest.raises(DataError, match="no column is named text"):
        captax.data.open(tmp_path / "walls")
    report = check(tmp_path / "walls", split="train").report
    assert (report.classes, report.sound) == ({"train": {"door": 2, "wall": 1}}, True)
    [fault] = check(tmp_path / "walls").report.faults
    assert "its label names no class" in fault


@pytest.mark.parametrize(
    ("labels", "names"),
    [(["wall", "door", "wall"], ("door", "wall")), ([10, 9, 10], ("9", "10"))],
    ids=["texts", "numbers"],
)
def test_labels_without_a_list_of_classes(
    rows: Callable[..., Any], tmp_path: Path, labels: list[object], names: tuple[str, ...]
) -> None:
    made = rows(red="", blue="", lime="").remove_columns("text").add_column("label", labels)
    made.save_to_disk(tmp_path / "walls")
    assert class_names(tmp_path / "walls") == names
    found = open_labelled(tmp_path / "walls")
    assert [(e.id, e.label) for e in found] == [(str(i), str(x)) for i, x in enumerate(labels)]
    assert [e.label for e in open_labelled(tmp_path / "walls", classes=[names[1], names[0]])] == [
        str(label) for label in labels
    ]


def test_pairs_of_texts(library: Any, tmp_path: Path) -> None:
    news = {"article": ["Long.", "Longer."], "highlights": ["L", "M"], "id": ["a", "b"]}
    library.DatasetDict(
        train=library.Dataset.from_dict(news), validation=library.Dataset.from_dict(news)
    ).save_to_disk(tmp_path / "news")
    dev = open_pairs(tmp_path / "news", split="validation")
    assert dev == [
        Pair("validation/a", "Long.", "L"),
        Pair("validation/b", "Longer.", "M"),
    ]
    assert len(open_pairs(tmp_path / "news")) == 4
    with pytest.raises(DataError, match="no test split"):
        open_pairs(tmp_path / "news", split="test")
    spoken = {"translation": [{"de": "Hund", "en": "dog"}, {"de": "Katze", "en": "cat"}]}
    (tmp_path / "words").mkdir()
    library.Dataset.from_dict(spoken).to_parquet(tmp_path / "words" / "a.parquet")
    assert open_pairs(tmp_path / "words") == [Pair("1", "Hund", "dog"), Pair("2", "Katze", "cat")]
    with pytest.raises(DataError, match="words,  row 0: its target is empty"):
        library.Dataset.from_dict({"source": ["a"], "target": [""]}).to_parquet(
            tmp_path / "words" / "a.parquet"
        )
        open_pairs(tmp_path / "words")


@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [
        ("label", "Red", r"no column is named text, caption, .*; rename one .* \(image, label\)"),
        ("text", "", "row 0: 0 has an empty caption"),
        ("text", None, "row 0: it needs one or more captions, as strings"),
        ("captions", [], "row 0: it needs one or more captions, as strings"),
    ],
)
def test_refuses_rows_without_captions(
    rows: Callable[..., Any], tmp_path: Path, column: str, value: object, fault: str
) -> None:
    rows(column, red=value).save_to_disk(tmp_path / "walls")
    with pytest.raises(DataError, match=fault):
        captax.data.open(tmp_path / "walls")


def test_refuses_a_picture_in_two_splits(
    rows: Callable[..., Any], library: Any, tmp_path: Path
) -> None:
    part = rows(red="Red").add_column("image_id", [7])
    library.DatasetDict(train=part, test=part).save_to_disk(tmp_path / "walls")
    with pytest.raises(DataError, match="walls: 7 is the id of pictures in two splits"):
        captax.data.open(tmp_path / "walls")


def test_what_the_library_cannot_read_is_one_line(library: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="the datasets library cannot read it: ") as raised:
        captax.data.open(tmp_path)
    assert "\n" not in str(raised.value)


def test_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"pip install 'captax\[hub-data\]'"):
        captax.data.open(tmp_path)
