from collections.abc import Callable
from pathlib import Path

import pytest

import captax.data
from captax.data import DataError, Example, split_by_hash

Layout = Callable[[dict[str, str]], Path]

TOKENS = "a.jpg#0\tA dog .\na.jpg#1\tA brown dog .\nb.jpg#0\tA cat .\nc.jpg#0\tA bird .\n"
LISTS = {"train": "b.jpg\na.jpg\n", "dev": "c.jpg\n"}


def official(text: str = "text", images: str = "images", **changes: str) -> dict[str, str]:
    lists = {f"{text}/Flickr_8k.{name}Images.txt": content for name, content in LISTS.items()}
    files = {f"{text}/Flickr8k.token.txt": TOKENS, **lists}
    files |= {f"{images}/{name}.jpg": "" for name in "abc"}
    return files | {f"{text}/{name}": content for name, content in changes.items()}


@pytest.mark.parametrize(
    ("text", "images"),
    [("text", "images"), (".", "Flicker8k_Dataset"), ("Flickr8k_text", "Flickr8k_Dataset")],
)
def test_official_layout(layout: Layout, text: str, images: str) -> None:
    root = layout(official(text, images))
    b = Example("b", root / images / "b.jpg", ("A cat .",), "made-up")
    a = Example("a", root / images / "a.jpg", ("A dog .", "A brown dog ."), "made-up")
    c = Example("c", root / images / "c.jpg", ("A bird .",), "made-up")
    assert captax.data.open(root, split="train") == [b, a]
    assert captax.data.open(root, split="val") == captax.data.open(root, split="dev") == [c]
    assert captax.data.open(root) == [b, a, c]


def test_pictures_in_no_list_need_not_exist(layout: Layout) -> None:
    # As 2258277193_586949ec62.jpg.1 of the published file does not.
    root = layout(official(**{"Flickr8k.token.txt": TOKENS + "d.jpg.1#0\tA fish .\r\n\n"}))
    assert [example.id for example in captax.data.open(root)] == ["b", "a", "c"]


def test_only_newlines_end_a_line(layout: Layout) -> None:
    tokens = "a.jpg#0\tA dog\u2028runs\x85 .\r\n"
    root = layout({"Flickr8k.token.txt": tokens, "images/a.jpg": ""})
    assert captax.data.open(root)[0].captions == ("A dog\u2028runs\x85 .",)


def test_without_lists_the_split_is_made_by_hashing(layout: Layout) -> None:
    names = [f"p{n}" for n in range(40)]
    tokens = "".join(f"{name}.jpg#0\tA dog .\n" for name in names)
    root = layout({"Flickr8k.token.txt": tokens} | {f"images/{name}.jpg": "" for name in names})
    everything = captax.data.open(root)
    assert [example.id for example in everything] == names
    train, dev = split_by_hash(everything)
    assert captax.data.open(root, split="train") == train
    assert captax.data.open(root, split="dev") == dev
    assert 0 < len(dev) < len(train)
    with pytest.raises(DataError, match="lists no splits, so it has no test part"):
        captax.data.open(root, split="test")


def test_kaggle_layout(layout: Layout) -> None:
    table = 'image,caption\na.jpg,"A dog , ""Rex"" , runs ."\nb.jpg,A cat .\na.jpg,A dog .\n'
    root = layout({"captions.txt": table, "Images/a.jpg": "", "Images/b.jpg": ""})
    assert captax.data.open(root) == [
        Example("a", root / "Images/a.jpg", ('A dog , "Rex" , runs .', "A dog ."), "made-up"),
        Example("b", root / "Images/b.jpg", ("A cat .",), "made-up"),
    ]


def test_kaggle_layout_with_the_official_lists(layout: Layout) -> None:
    table = "image,caption\na.jpg,A dog\nb.jpg,A cat\n"
    lists = {"Flickr_8k.trainImages.txt": "a.jpg\n", "Flickr_8k.testImages.txt": "b.jpg\n"}
    root = layout({"captions.txt": table, "Images/a.jpg": "", "Images/b.jpg": "", **lists})
    assert [example.id for example in captax.data.open(root, split="test")] == ["b"]
    with pytest.raises(DataError, match=r"devImages\.txt: no such file; .* are train, test"):
        captax.data.open(root, split="dev")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("d.jpg#0 A fish .", "expected picture"),
        ("d.jpg\tA fish .", "expected picture"),
        ("d.jpg#x\tA fish .", "expected picture"),
        ("d.jpg#0\t ", "d.jpg has an empty caption"),
        ("#0\tA fish .", "without a picture's name"),
    ],
)
def test_names_the_malformed_line(layout: Layout, line: str, fault: str) -> None:
    root = layout(official(**{"Flickr8k.token.txt": f"{TOKENS}{line}\n"}))
    with pytest.raises(DataError, match=rf"Flickr8k\.token\.txt, line 5: .*{fault}"):
        captax.data.open(root)


def test_refuses_listed_pictures_without_captions(layout: Layout) -> None:
    root = layout(official(**{"Flickr_8k.devImages.txt": "c.jpg\n\nx.jpg\ny.jpg\nz.jpg\n"}))
    fault = r"devImages\.txt: line 3, x\.jpg, \(and 2 others\) has no captions"
    with pytest.raises(DataError, match=fault):
        captax.data.open(root, split="dev")


@pytest.mark.parametrize("dev", ["c.jpg\nc.jpg\n", "c.jpg\na.jpg\n"])
def test_refuses_a_picture_listed_twice(layout: Layout, dev: str) -> None:
    root = layout(official(**{"Flickr_8k.devImages.txt": dev}))
    with pytest.raises(DataError, match=r"[ac]\.jpg is in the split lists twice"):
        captax.data.open(root, split="dev")


def test_names_the_missing_pictures(layout: Layout) -> None:
    root = layout(official())
    for name in "ab":
        (root / f"images/{name}.jpg").unlink()
    fault = r"trainImages\.txt: \S*images/b\.jpg \(and 1 other\) does not exist"
    with pytest.raises(DataError, match=fault):
        captax.data.open(root)
    assert len(captax.data.open(root, split="dev")) == 1

    (root / "images/c.jpg").rename(root / "c.jpg")
    (root / "images").rmdir()
    with pytest.raises(DataError, match="no directory of pictures; looked for images, Images"):
        captax.data.open(root)
    assert len(captax.data.open(root, split="dev", images=root)) == 1


@pytest.mark.data
def test_the_real_one(shared_data: Path) -> None:
    train = captax.data.open(shared_data / "flickr8k", split="train")
    dev = captax.data.open(shared_data / "flickr8k", split="dev")
    assert (len(train), len(dev)) == (5996, 1000)
    assert {len(example.captions) for example in train + dev} == {5}
    assert not {example.id for example in train} & {example.id for example in dev}
    assert train[0].id == "2513260012_03d33305cf"
    assert train[0].captions[0] == "A black dog is running after a white dog in the snow ."
