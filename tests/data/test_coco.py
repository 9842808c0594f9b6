import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import captax.data
from captax.data import DataError, Example, split_by_hash

Layout = Callable[[dict[str, str]], Path]


def coco(*ids: int, **changes: Any) -> str:
    return json.dumps(
        {
            "images": [{"id": id, "file_name": f"{id:012}.jpg"} for id in ids],
            "annotations": [
                {"id": 10 * id + n, "image_id": id, "caption": f"Caption {n} of {id}.\n"}
                for n in range(2)
                for id in reversed(ids)
            ],
            **changes,
        }
    )


def pictures(directory: str, *ids: int) -> dict[str, str]:
    return {f"{directory}/{id:012}.jpg": "" for id in ids}


def ids(examples: list[Example]) -> list[str]:
    return [example.id for example in examples]


def test_images_and_captions_meet_by_id(layout: Layout) -> None:
    root = layout({"annotations/captions_small.json": coco(7, 3), **pictures("images", 7, 3)})
    assert captax.data.open(root) == [
        Example(
            str(id),
            root / f"images/{id:012}.jpg",
            (f"Caption 0 of {id}.", f"Caption 1 of {id}."),
            "made-up",
        )
        for id in (7, 3)
    ]
    assert captax.data.open(root / "annotations/captions_small.json") == captax.data.open(root)


def test_a_file_without_a_split_is_split_by_hashing(layout: Layout) -> None:
    numbers = range(1, 41)
    root = layout({"captions.json": coco(*numbers), **pictures("images", *numbers)})
    train, dev = split_by_hash(captax.data.open(root))
    assert captax.data.open(root, split="train") == train
    assert captax.data.open(root, split="dev") == dev


@pytest.mark.parametrize("images", ["{}2017", "images/{}2017", "images", "."])
def test_files_named_for_a_split_are_that_split(layout: Layout, images: str) -> None:
    root = layout(
        {
            "annotations/captions_train2017.json": coco(1, 2),
            "annotations/captions_val2017.json": coco(3),
            "annotations/instances_val2017.json": "{}",
            **pictures(images.format("train"), 1, 2),
            **pictures(images.format("val"), 3),
        }
    )
    assert ids(captax.data.open(root, split="train")) == ["1", "2"]
    assert ids(captax.data.open(root, split="dev")) == ["3"]
    assert ids(captax.data.open(root)) == ["1", "2", "3"]
    with pytest.raises(DataError, match="no test split; choose dev or train"):
        captax.data.open(root, split="test")


def test_the_files_of_other_splits_are_not_read(layout: Layout) -> None:
    files = {"captions_train2017.json": "not even JSON", "captions_val2017.json": coco(3)}
    root = layout({**files, **pictures("val2017", 3)})
    assert ids(captax.data.open(root, split="dev")) == ["3"]


def test_the_directory_of_pictures_may_be_given(layout: Layout) -> None:
    root = layout({"notes/captions_val.json": coco(1), **pictures("elsewhere", 1)})
    with pytest.raises(
        DataError, match=r"no directory of its pictures was found; .* 000000000001\.jpg in"
    ):
        captax.data.open(root / "notes/captions_val.json")
    [example] = captax.data.open(root / "notes/captions_val.json", images=root / "elsewhere")
    assert example.image == root / "elsewhere/000000000001.jpg"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "not JSON .*line 1"),
        ("[]", "no list 'images'"),
        ('{"images": []}', "no list 'annotations'"),
        (coco(1, images=[]), "image 1 has captions but is not in 'images'"),
        (coco(1, 2, 3, annotations=[]), r"image 1 \(and 2 others\) has no captions"),
        (coco(1, annotations=[{"image_id": 1}]), "an entry lacks 'caption'"),
        (coco(1, annotations=[{"image_id": 1, "caption": None}]), "a string where it has None"),
        (
            coco(1, annotations=[{"image_id": 1, "caption": "x"}, {"image_id": 1, "caption": " "}]),
            r"annotations\[1\]: 1 has an empty caption",
        ),
        (coco(1, images=[3]), "an entry lacks"),
        (coco(1, 1), "image 1 comes twice"),
        (coco(), "no pictures"),
    ],
)
def test_refuses_malformed_annotations(layout: Layout, content: str, fault: str) -> None:
    root = layout({"annotations/captions_val.json": content, **pictures("images", 1)})
    with pytest.raises(DataError, match=fault) as raised:
        captax.data.open(root)
    assert "\n" not in str(raised.value)


def test_refuses_an_image_of_two_files(layout: Layout) -> None:
    files = {f"annotations/captions_{name}.json": coco(1) for name in ("train", "val")}
    root = layout({**files, **pictures("images", 1)})
    with pytest.raises(DataError, match=r"captions_train.*captions_val.*: image 1 comes twice"):
        captax.data.open(root)


def test_names_the_missing_pictures(layout: Layout) -> None:
    root = layout({"annotations/captions_val.json": coco(1, 2, 3), **pictures("images", 2)})
    fault = r"captions_val\.json: \S*000000000001\.jpg \(and 1 other\) does not exist"
    with pytest.raises(DataError, match=fault):
        captax.data.open(root)


def karpathy(*entries: tuple[str, str], **changes: Any) -> str:
    images = [
        {
            "filepath": "val2014",
            "filename": f"{name}.jpg",
            "split": split,
            "cocoid": index,
            "sentences": [{"raw": f"Caption of {name}. "}],
            **changes,
        }
        for index, (name, split) in enumerate(entries)
    ]
    return json.dumps({"images": images, "dataset": "coco"})


def test_karpathys_splits(layout: Layout) -> None:
    entries = [("a", "train"), ("b", "val"), ("c", "restval"), ("d", "test")]
    root = layout(
        {
            "dataset_coco.json": karpathy(*entries),
            "annotations/captions_val2014.json": coco(9),
            **{f"val2014/{name}.jpg": "" for name in "abcd"},
        }
    )
    assert ids(captax.data.open(root, split="train")) == ["0", "2"]
    assert ids(captax.data.open(root, split="test")) == ["3"]
    assert captax.data.open(root, split="val") == [
        Example("1", root / "val2014/b.jpg", ("Caption of b.",), "made-up")
    ]


def test_karpathys_flickr8k_has_neither_directories_nor_ids(layout: Layout) -> None:
    content = json.loads(karpathy(("a", "train"), ("b", "test")))
    for image in content["images"]:
        del image["filepath"], image["cocoid"]
    files = {"dataset_flickr8k.json": json.dumps(content), "Images/a.jpg": "", "Images/b.jpg": ""}
    root = layout({**files, "captions.txt": "image,caption\n"})
    assert ids(captax.data.open(root, split="test")) == ["b"]
    with pytest.raises(DataError, match="no dev split; choose test or train"):
        captax.data.open(root, split="dev")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"split": "extra"}, r"dataset_coco\.json: there is no split 'extra'"),
        ({"sentences": []}, r"image 0 \(and 1 other\) has no captions|no list 'annotations'"),
        ({"sentences": [{"raw": " "}]}, r"image 0 \(and 1 other\) has no captions"),
        ({"sentences": [{"tokens": []}]}, "an image lacks 'raw'"),
        ({"cocoid": 5}, "image 5 comes twice"),
    ],
)
def test_refuses_malformed_karpathy(layout: Layout, changes: dict[str, Any], fault: str) -> None:
    content = karpathy(("a", "train"), ("b", "train"), **changes)
    root = layout({"dataset_coco.json": content, "val2014/a.jpg": "", "val2014/b.jpg": ""})
    with pytest.raises(DataError, match=fault):
        captax.data.open(root)


@pytest.mark.data
def test_the_small_one(shared_data: Path) -> None:
    examples = captax.data.open(shared_data / "coco-small")
    assert len(examples) == 1474
    assert sum(len(example.captions) for example in examples) == 7369
    assert examples[0].id == "2431"
    assert examples[0].captions[0] == "A plate on a wooden table full of bread."


@pytest.mark.parametrize(
    ("image", "caption", "told"),
    [
        ({"id": {}, "file_name": "a.jpg"}, "a", "a number or a string as id"),
        ({"id": True, "file_name": "a.jpg"}, "a", "a number or a string as id"),
        ({"id": 1, "file_name": 7}, "a", "a string where it has 7"),
        ({"id": 1, "file_name": "a.jpg"}, "a" * 10_000_000, "a text of 10,000,000 characters"),
        ({"id": 1, "file_name": "a.jpg"}, ["a" * 10_000_000], "a string where it has"),
    ],
)
def test_odd_values_are_refused_in_a_short_line(
    image: dict, caption: object, told: str, tmp_path: Path
) -> None:
    note = {"image_id": image["id"], "caption": caption}
    content = {"images": [image], "annotations": [note]}
    (tmp_path / "captions.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=told) as refused:
        captax.data.open(tmp_path / "captions.json")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 1000
