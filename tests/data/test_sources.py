import os
from collections.abc import Callable
from pathlib import Path

import pytest

import captax.data
from captax.data import DataError

Layout = Callable[[dict[str, str]], Path]


def test_says_what_it_looked_for(layout: Layout) -> None:
    root = layout({"a.jpg": "", "captions.txt": "A dog\n"})
    with pytest.raises(DataError) as raised:
        captax.data.open(root)
    for name in ("Flickr8k.token.txt", "annotations/*.json", "metadata.jsonl", "captions.csv"):
        assert name in str(raised.value)


def test_refuses_other_paths_and_splits(layout: Layout) -> None:
    root = layout({"a.jpg": "", "a.txt": "A dog"})
    with pytest.raises(DataError, match="nowhere: no such directory"):
        captax.data.open("nowhere")
    with pytest.raises(DataError, match=r"a\.txt: not a dataset; give a"):
        captax.data.open(root / "a.txt")
    with pytest.raises(DataError, match="no split 'training'; choose train"):
        captax.data.open(root, split="training")


def test_refuses_an_empty_part(layout: Layout) -> None:
    root = layout({"a.jpg": "", "a.txt": "A dog"})
    parts = []
    for split in ("train", "dev"):
        try:
            parts += captax.data.open(root, split=split)
        except DataError as error:
            assert f"no pictures in its {split} split" in str(error)
    assert len(parts) == 1


def test_the_source_is_the_directorys_name(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(layout({"a.jpg": "", "a.txt": "A dog"}))
    assert captax.data.open(".")[0].source == "made-up"


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_a_pipe_or_a_device_is_no_dataset(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    for path in (tmp_path / "a.json", Path(os.devnull)):
        with pytest.raises(DataError, match=r": is a device, a pipe or a socket; give a dataset's"):
            captax.data.open(path)
