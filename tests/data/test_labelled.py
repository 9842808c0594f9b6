import json
from collections.abc import Callable
from pathlib import Path

import pytest

import captax.data
from captax.data import DataError, LabelledExample

Layout = Callable[[dict[str, str]], Path]

FOLDERS = {f"{split}/{name}/{i}.jpg": ""
           for split in ("train", "val") for name in ("soup", "bread") for i in (1, 2)}  # fmt: skip
FOOD101 = {
    **{f"images/{id}.jpg": "" for id in ("soup/1", "soup/2", "bread/3", "bread/4")},
    "meta/classes.txt": "soup\nbread\n",
    "meta/train.txt": "soup/1\nbread/3\n",
    "meta/test.txt": "bread/4\nsoup/2\n",
}


def test_a_folder_for_each_class_in_folders_of_splits(layout: Layout) -> None:
    root = layout({**FOLDERS, "README.txt": "-", "val/soup/.hidden.jpg": ""})
    train = captax.data.open_labelled(root, split="train")
    assert train[0] == LabelledExample("train/bread/1.jpg", root / "train/bread/1.jpg", "bread")
    assert [e.id for e in train] == [
        f"train/{c}/{i}.jpg" for c in ("bread", "soup") for i in (1, 2)
    ]
    dev = captax.data.open_labelled(root, split="val")
    assert [(e.id, e.label) for e in dev] == [
        (f"val/{c}/{i}.jpg", c) for c in ("bread", "soup") for i in (1, 2)
    ]
    assert captax.data.open_labelled(root) == train + dev
    assert captax.data.class_names(root) == ("bread", "soup")
    with pytest.raises(DataError, match="no test split; choose dev or train"):
        captax.data.open_labelled(root, split="test")


def test_folders_without_splits_are_split_by_hashing(layout: Layout) -> None:
    root = layout({f"{name}/{i}.png": "" for name in ("soup", "bread") for i in range(40)})
    train = captax.data.open_labelled(root, split="train")
    dev = captax.data.open_labelled(root, split="dev")
    assert {e.label for e in train} == {e.label for e in dev} == {"soup", "bread"}
    assert len(train) > len(dev)
    assert {e.id for e in train} | {e.id for e in dev} == {
        e.id for e in captax.data.open_labelled(root)
    }
    assert not {e.id for e in train} & {e.id for e in dev}
    with pytest.raises(DataError, match="lists no splits, so it has no test part"):
        captax.data.open_labelled(root, split="test")


def test_a_train_folder_alone_gives_dev_by_hashing(layout: Layout) -> None:
    root = layout({f"train/{name}/{i}.png": "" for name in ("soup", "bread") for i in range(40)})
    train, dev = (captax.data.open_labelled(root, split=split) for split in ("train", "dev"))
    assert len(train) + len(dev) == 80 and not {e.id for e in train} & {e.id for e in dev}


@pytest.mark.parametrize("lists", ["txt", "json"])
def test_food101(layout: Layout, lists: str) -> None:
    files = dict(FOOD101)
    if lists == "json":
        for split in ("train", "test"):
            ids = files.pop(f"meta/{split}.txt").split()
            content = {
                name: [id for id in ids if id.startswith(name)] for name in ("soup", "bread")
            }
            files[f"meta/{split}.json"] = json.dumps(content)
    root = layout(files)
    assert captax.data.open_labelled(root, split="train") == [
        LabelledExample("soup/1", root / "images/soup/1.jpg", "soup"),
        LabelledExample("bread/3", root / "images/bread/3.jpg", "bread"),
    ]
    test = captax.data.open_labelled(root, split="test")
    assert {e.id for e in test} == {"bread/4", "soup/2"}
    assert captax.data.open_labelled(root, split="dev") == test
    assert len(captax.data.open_labelled(root)) == 4
    assert captax.data.class_names(root) == ("soup", "bread")


def test_a_subset_of_the_classes(layout: Layout) -> None:
    names = ("apple", "bread", "soup")
    root = layout({f"{split}/{n}/1.jpg": "" for split in ("train", "test") for n in names})
    for classes in (2, ["bread", "apple"]):
        kept = captax.data.open_labelled(root, split="train", classes=classes)
        assert [e.label for e in kept] == ["apple", "bread"]
        assert captax.data.class_names(root, classes=classes) == ("apple", "bread")
    with pytest.raises(DataError, match="no class 'soop'; did you mean soup"):
        captax.data.open_labelled(root, classes=["soop", "bread"])
    with pytest.raises(DataError, match="classes is 4 and the dataset has 3 classes; give 2 to 3"):
        captax.data.open_labelled(root, classes=4)
    with pytest.raises(DataError, match=r"only one class \(soup\)"):
        captax.data.open_labelled(root, classes=["soup"])
    with pytest.raises(DataError, match=r"give a list of names, such as \['soup'\]"):
        captax.data.open_labelled(root, classes="soup")


def test_a_class_that_a_split_lacks(layout: Layout) -> None:
    files = {name: "" for name in FOLDERS if not name.startswith("val/soup")}
    root = layout(files)
    with pytest.warns(UserWarning, match="its dev split has no pictures of soup"):
        found = captax.data.open_labelled(root, split="dev")
    assert {e.label for e in found} == {"bread"}
    root = layout({"val/pie/1.jpg": ""})
    with pytest.raises(DataError, match="its train split has no pictures of pie; add"):
        captax.data.open_labelled(root, split="train")
    kept = captax.data.open_labelled(root, split="train", classes=["bread", "soup"])
    assert len(kept) == 4


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"a.jpg": ""}, "no labelled pictures; looked for"),
        ({"soup/1.jpg": "", "notes/a.txt": ""}, r"only one class \(soup\)"),
        ({**FOLDERS, "extra/1.jpg": ""}, "extra is beside the folders of splits"),
        ({**FOOD101, "meta/train.txt": "soup/1\nbread/9\n"},
         r"train\.txt: .*bread/9\.jpg does not exist"),
        ({**FOOD101, "meta/train.txt": "soup/1\nbread/4\n"}, "bread/4 is in the lists twice"),
        ({**FOOD101, "meta/train.txt": "soup/1\nbread\n"},
         r"train\.txt, entry 2: 'bread' does not have the form class/picture"),
        ({**FOOD101, "meta/classes.txt": "soup\n"}, "bread has pictures but is not in the list"),
        ({**FOOD101, "meta/classes.txt": "soup\nbread\npie\n"}, "pie has no pictures"),
        ({**FOOD101, "meta/classes.txt": "soup\nbread\nsoup\n"}, "soup comes twice"),
        ({"images/a/1.jpg": "", "meta/train.json": "[1]"}, "expected an object of class"),
    ],
)  # fmt: skip
def test_refuses(layout: Layout, files: dict[str, str], fault: str) -> None:
    root = layout(files)
    with pytest.raises(DataError, match=fault) as raised:
        captax.data.open_labelled(root, split="train")
    assert str(root) in str(raised.value) and "\n" not in str(raised.value)


def test_refuses_what_is_not_there() -> None:
    with pytest.raises(DataError, match="nowhere: no such directory"):
        captax.data.open_labelled("nowhere")
    with pytest.raises(DataError, match="no split 'training'"):
        captax.data.open_labelled("nowhere", split="training")
