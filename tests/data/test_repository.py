"""Datasets of a hub that lives on the loopback, with the layouts that the real one has."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import captax.data
from captax.data import DataError, open_labelled, open_pairs, repository
from captax.data.check import check
from captax.data.repository import HubName, find, hub_name
from captax.images import decode
from fake_hub import FakeHub, Repository

Picture = Callable[..., bytes]
Parquet = Callable[..., bytes]
CONVERTED = "refs/convert/parquet"


@pytest.fixture
def hub(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The hub, with caches of its own."""
    datasets = pytest.importorskip("datasets", reason="needs the extra hub-data")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("CAPTAX_CACHE", str(tmp_path / "captax"))
    datasets.disable_progress_bars()
    return hub


@pytest.fixture
def parquet(picture: Picture) -> Parquet:
    """`parquet({"red": "A red wall"})`: a file with a column `image`, as the library writes it."""

    def make(captions: dict[str, object], column: str = "text", names: Any = None) -> bytes:
        import datasets

        images = [{"bytes": picture(color), "path": None} for color in captions]
        features = {
            "image": datasets.Image(),
            column: datasets.ClassLabel(names=names) if names else datasets.Value("string"),
        }
        values = {"image": images, column: list(captions.values())}
        made = datasets.Dataset.from_dict(values, features=datasets.Features(features))
        made.to_parquet(file := io.BytesIO())
        return file.getvalue()

    return make


def texts(examples: list[captax.data.Example]) -> list[tuple[str, tuple[str, ...]]]:
    return [(example.id, example.captions) for example in examples]


def test_the_splits_of_a_cards_configuration(hub: FakeHub, parquet: Parquet) -> None:
    files = {
        ".gitattributes": b"",
        "README.md": b"# Walls",
        "walls.py": b"raise SystemExit",
        "data/train-00000-of-00002.parquet": parquet({"red": "Red"}),
        "data/train-00001-of-00002.parquet": parquet({"lime": "Green"}),
        "data/validation-00000-of-00001.parquet": parquet({"blue": "Blue"}),
    }
    patterns = [
        {"split": "train", "path": "data/train-*"},
        {"split": "validation", "path": "data/validation-*"},
    ]
    card = {"configs": [{"config_name": "default", "data_files": patterns}]}
    hub.repositories["datasets/me/walls"] = Repository({"main": files}, card)
    [dev] = captax.data.open("hf://me/walls", split="validation")
    assert (dev.id, dev.captions, dev.source) == ("validation/0", ("Blue",), "walls")
    assert decode(dev.image).getpixel((0, 0)) == (0, 0, 255)
    # Only what is asked for is downloaded, and no script.
    assert hub.downloaded() == {"validation-00000-of-00001.parquet"}
    # As a path of the command line.
    train = captax.data.open(Path("hf://datasets/me/walls"), split="train")
    assert texts(train) == [("train/0", ("Red",)), ("train/1", ("Green",))]
    with pytest.raises(DataError, match="hf://me/walls: no test split; choose dev or train"):
        captax.data.open("hf://me/walls", split="test")
    hub.requests.clear()
    captax.data.open("hf://me/walls", split="train")
    assert not hub.downloaded()
    assert check("hf://me/walls").report.pictures == {"train": 2, "dev": 1}


def test_what_the_hub_converted(hub: FakeHub, parquet: Parquet) -> None:
    """A dataset with a script has its rows in another branch."""
    labels = {"red": 1, "blue": 0}
    converted = {
        "plain/train/0000.parquet": parquet(labels, "label", ["sky", "wall"]),
        "plain/validation/0000.parquet": parquet(labels, "label", ["sky", "wall"]),
        "few/train/0000.parquet": parquet({"red": 1}, "label", ["sky", "wall"]),
    }
    main = {"README.md": b"", "walls.py": b"raise SystemExit", "walls.zip": b"PK"}
    hub.repositories["datasets/me/walls"] = Repository({"main": main, CONVERTED: converted})
    with pytest.raises(
        DataError, match=r"several configurations \(plain, few\); name one, as hf://me/walls/plain"
    ):
        open_labelled("hf://me/walls")
    found = open_labelled("hf://me/walls/plain", split="validation")
    assert [(e.id, e.label) for e in found] == [("validation/0", "wall"), ("validation/1", "sky")]
    assert check("hf://me/walls/plain", split="dev").report.classes == {
        "dev": {"sky": 1, "wall": 1}
    }
    assert len(open_labelled("hf://me/walls@~parquet/plain", split="train")) == 2
    with pytest.raises(DataError, match="neither a configuration nor a folder 'plane'; give one"):
        open_labelled("hf://me/walls/plane")
    # A conversion is that of the newest revision.
    with pytest.raises(DataError, match=r"hf://me/walls@main: has no Parquet.*runs no script"):
        open_labelled("hf://me/walls@main")
    assert not {name for name in hub.downloaded() if not name.endswith(".parquet")}


def test_half_a_conversion_is_not_taken_for_all(hub: FakeHub, parquet: Parquet) -> None:
    half = {"default/partial-train/0000.parquet": parquet({"red": "Red"})}
    made = Repository({"main": {"walls.zip": b"PK"}, CONVERTED: half})
    hub.repositories["datasets/me/walls"] = made
    with pytest.raises(DataError, match=r"only the beginning .* as hf://me/walls@~parquet"):
        captax.data.open("hf://me/walls")
    assert texts(captax.data.open("hf://me/walls@~parquet")) == [("0", ("Red",))]


@pytest.mark.parametrize("most", [1000, 2])
def test_files_of_other_forms_are_read_as_they_are(
    hub: FakeHub, picture: Picture, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(repository, "_MOST_MASKS", most)
    files = {
        "README.md": b"",
        "small/train/metadata.jsonl": b'{"file_name": "a.png", "text": "Red"}\n',
        "small/train/a.png": picture("red"),
        "small/val/metadata.jsonl": b'{"file_name": "b.png", "text": "Blue"}\n',
        "small/val/b.png": picture("blue"),
        "other/c.png": picture("lime"),
    }
    hub.repositories["datasets/me/walls"] = Repository({"main": files})
    found = captax.data.open("hf://me/walls/small", split="dev")
    assert texts(found) == [("val/b.png", ("Blue",))]
    assert decode(found[0].image).getpixel((0, 0)) == (0, 0, 255)
    assert "c.png" not in hub.downloaded()


def test_pairs_of_texts_by_configuration_and_revision(hub: FakeHub) -> None:
    import datasets

    def news(text: str) -> bytes:
        made = datasets.Dataset.from_dict({"article": [text], "highlights": ["H"], "id": ["x"]})
        made.to_parquet(file := io.BytesIO())
        return file.getvalue()

    def files_of(text: str) -> dict[str, bytes]:
        return {f"3.0.0/{s}-00000-of-00001.parquet": news(f"{text} {s}") for s in ("train", "test")}

    files = [{"split": s, "path": f"3.0.0/{s}-*"} for s in ("train", "test")]
    card = {"configs": [{"config_name": n, "data_files": files} for n in ("1.0.0", "3.0.0")]}
    old, new = files_of("Old"), files_of("New")
    hub.repositories["datasets/me/news"] = Repository({"main": new, "v1": old}, card)
    [pair] = open_pairs("hf://me/news/3.0.0", split="test")
    assert (pair.id, pair.source, pair.target) == ("test/x", "New test", "H")
    for revision in ("v1", Repository.commit(old)):
        [pair] = open_pairs(f"hf://me/news@{revision}/3.0.0", split="test")
        assert pair.source == "Old test"
    with pytest.raises(DataError, match="hf://me/news: has no revision 'v2'; give a branch"):
        open_pairs("hf://me/news@v2/3.0.0")


def test_without_a_network_what_was_read_is_read_again(
    hub: FakeHub, parquet: Parquet, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "train.parquet": parquet({"red": "Red"}),
        "test-1.parquet": parquet({"lime": "Green"}),
        "test-2.parquet": parquet({"blue": "Blue"}),
    }
    hub.repositories["datasets/me/walls"] = Repository({"main": files})
    before = texts(captax.data.open("hf://me/walls", split="train"))
    hub.down = True
    assert texts(captax.data.open("hf://me/walls", split="train")) == before
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    assert texts(captax.data.open("hf://me/walls", split="train")) == before
    with pytest.raises(DataError, match=r"switched off, and test-1\.parquet is not cached \(nor"):
        captax.data.open("hf://me/walls", split="test")
    for name in ("me/other", "me/walls@main"):
        with pytest.raises(DataError, match="is switched off, and no copy of it is cached"):
            captax.data.open(f"hf://{name}")
    assert not hub.requests


def test_what_arrives_wrong_is_not_kept(hub: FakeHub, parquet: Parquet) -> None:
    hub.repositories["datasets/me/walls"] = Repository(
        {"main": {"a.parquet": parquet({"red": "R"})}}
    )
    hub.garbled = b"PAR0"
    with pytest.raises(
        DataError, match=r"a\.parquet did not arrive as the hub lists it, and was re"
    ):
        captax.data.open("hf://me/walls")
    hub.garbled = b""
    assert texts(captax.data.open("hf://me/walls")) == [("0", ("R",))]


def test_of_several_that_arrive_wrong_none_is_kept(hub: FakeHub, parquet: Parquet) -> None:
    files = {f"{name}.parquet": parquet({name: name}) for name in ("red", "blue")}
    hub.repositories["datasets/me/walls"] = Repository({"main": files})
    hub.garbled = b"PAR0"
    with pytest.raises(DataError, match=r"red\.parquet did not arrive .*\(nor did 1 other\), and"):
        captax.data.open("hf://me/walls")
    hub.garbled = b""
    assert texts(captax.data.open("hf://me/walls")) == [("0", ("red",)), ("1", ("blue",))]


@pytest.mark.parametrize("named", ["{}", "../../../../../../../../../../../..{}"])
def test_a_dataset_names_no_file_of_this_machine(
    hub: FakeHub, picture: Picture, tmp_path: Path, named: str
) -> None:
    mine = tmp_path / "mine.jpg"
    mine.write_bytes(picture("red"))
    path = named.format(mine)
    rows = f'{{"file_name": "{path}", "text": "Red"}}\n{{"file_name": "a.png", "text": "Blue"}}'
    table = {"metadata.jsonl": rows.encode(), "a.png": picture("blue")}
    meta = {f"meta/{name}.txt": b"sky/a\nwall/../../" for name in ("train", "test")}
    meta = {name: text + path.removesuffix(".jpg").encode() for name, text in meta.items()}
    food = {**meta, "images/sky/a.jpg": picture("blue")}
    hub.repositories["datasets/me/walls"] = Repository({"main": table})
    hub.repositories["datasets/me/food"] = Repository({"main": food})
    with pytest.raises(DataError, match=r"^hf://me/walls: names /.*mine\.jpg, which is no file"):
        captax.data.open("hf://me/walls")
    with pytest.raises(DataError, match=r"hf://me/walls: names"):
        check("hf://me/walls")
    with pytest.raises(DataError):
        open_labelled("hf://me/food")


def test_a_commit_is_no_path(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["datasets/me/walls"] = Repository({"main": {"a.parquet": b""}})
    monkeypatch.setattr(Repository, "commit", staticmethod(lambda files: "../../../elsewhere"))
    with pytest.raises(DataError, match=r"hf://me/walls: .* names no commit of it"):
        captax.data.open("hf://me/walls")


def test_folders_of_pictures_are_checked(hub: FakeHub, picture: Picture) -> None:
    classes = {f"{color}/{i}.png": picture(color) for color in ("red", "blue") for i in range(9)}
    beside = {"a.png": picture("red"), "a.txt": b"Red", "b.txt": b"Blue"}
    hub.repositories["datasets/me/walls"] = Repository({"main": classes})
    hub.repositories["datasets/me/beside"] = Repository({"main": beside})
    report = check("hf://me/walls").report
    assert sum(report.pictures.values()) == 18
    assert {name for counts in report.classes.values() for name in counts} == {"red", "blue"}
    assert check("hf://me/beside").report.unpictured == ["b.txt"]
    assert [each.source for each in captax.data.open("hf://me/beside")] == ["beside"]


def test_what_may_not_be_read_is_told_in_one_line(
    hub: FakeHub, parquet: Parquet, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"a.parquet": parquet({"red": "Red"})}
    hub.repositories["datasets/me/secret"] = Repository({"main": files}, token="hf_mine")
    hub.repositories["datasets/me/gated"] = Repository({"main": files}, gated=True, token="hf_mine")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    for name, reason in (
        ("secret", f"there is no such dataset at {hub.url}/datasets/me/secret; if it is private,"),
        ("gated", f"is gated; accept its terms at {hub.url}/datasets/me/gated and give a token"),
        ("a--b", "not a name for a repository; give org/name"),
    ):
        with pytest.raises(DataError) as raised:
            captax.data.open(f"hf://me/{name}")
        assert str(raised.value).startswith(f"hf://me/{name}: {reason}")
        assert "hf_other" not in str(raised.value) and "\n" not in str(raised.value)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    for name in ("secret", "gated"):
        assert texts(captax.data.open(f"hf://me/{name}")) == [("0", ("Red",))]


@pytest.mark.parametrize(
    ("files", "configs", "splits"),
    [
        (
            ["data/train-00000-of-00001-a1b2.parquet", "data/dev-00000-of-00001.parquet"],
            [],
            {"train": 1, "dev": 1},
        ),
        (["train/0.parquet", "train/1.parquet", "test/0.parquet"], [], {"train": 2, "test": 1}),
        (["some.parquet", "more.parquet"], [], {"": 2}),
        (
            ["a/x.parquet", "a/deep/y.parquet", "b/z.parquet"],
            [{"config_name": "x", "data_files": "a/*.parquet"}],
            {"train": 1},
        ),
        (
            ["a/x.parquet", "a/deep/y.parquet", "b/z.parquet"],
            [{"config_name": "x", "data_files": [{"split": "test", "path": ["a/**", "b/[xyz]*"]}]}],
            {"test": 3},
        ),
        (
            ["a/x.parquet", "a/deep/y.parquet", "b/z.parquet"],
            [
                {"config_name": "x", "data_files": "b/z.parquet"},
                {"config_name": "y", "data_dir": "a", "default": True},
            ],
            {"": 2},
        ),
    ],
)
def test_which_files_are_which_splits(
    hub: FakeHub, files: list[str], configs: list[Any], splits: dict[str, int]
) -> None:
    card = {"configs": configs} if configs else {}
    hub.repositories["datasets/me/x"] = Repository({"main": dict.fromkeys(files, b"")}, card)
    found = find(HubName("me/x"))
    assert {split: len(paths) for split, paths in found.splits.items()} == splits


def test_which_paths_mean_the_hub() -> None:
    assert hub_name("hf://me/walls") == hub_name(Path("hf://me/walls")) == HubName("me/walls")
    assert hub_name("hf://datasets/me/walls@v1/a/b") == HubName("me/walls", "v1", "a/b")
    assert hub_name("hf://squad@main/plain") == HubName("squad", "main", "plain")
    for revision in ("refs/convert/parquet", "refs%2Fconvert%2Fparquet", "~parquet"):
        assert hub_name(f"hf://me/walls@{revision}/a") == HubName("me/walls", CONVERTED, "a")
    assert hub_name("hf://me/walls@refs/pr/3") == HubName("me/walls", "refs/pr/3")
    assert hub_name("/data/hf") is hub_name("data/hf:/x") is None
    assert str(hub_name("hf:/me/walls@v1/a")) == "hf://me/walls@v1/a"
    for wrong in ("hf://", "hf://@v1", "hf://me/@x"):
        with pytest.raises(DataError, match="names no dataset; give hf://owner/name, with"):
            hub_name(wrong)
