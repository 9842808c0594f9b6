"""All that is wrong with a recipe's data is told at once, or left out for the whole of a run."""

import io
import json
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import captax
from captax.data import DataError
from captax.data.check import check
from captax.data.faults import Kind
from captax.images import ImageError
from captax.training import examples, loop, writing
from captax.training.examples import BrokenData, decoded, open_examples
from captax.training.loop import train
from captax.training.recipe import Recipe, RecipeError, parse_recipe
from fake_hub import FakeHub, Repository


@pytest.fixture
def recipe(finetune: Callable[[int], Recipe]) -> Recipe:
    return finetune(2)


def changed(recipe: Recipe, **fields: Any) -> Recipe:
    return Recipe.model_validate(recipe.model_dump() | fields)


def broken_png() -> bytes:
    """A PNG whose structure is whole and whose pixels are not."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 40, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(40 * 121))[:6] + b"\x55" * 40)
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def spoil(root: Path) -> None:
    """One fault of every kind, in both splits."""
    images, tokens = root / "shapes" / "images", root / "shapes" / "text" / "Flickr8k.token.txt"
    (images / "3.jpg").write_bytes(b"broken")
    (images / "4.jpg").write_bytes(broken_png())
    (images / "9.jpg").unlink()
    lines = tokens.read_text().splitlines()
    lines = ["6.jpg#0\t" if line.startswith("6.jpg#0") else line for line in lines]
    lines = [line for line in lines if not line.startswith("10.jpg")]
    tokens.write_text("\n".join(lines) + "\n")


def test_every_fault_is_told_before_a_model_is_built(
    recipe: Recipe, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(root)
    data = recipe.data.model_dump()
    data["train"] = [*data["train"], {"path": "nowhere"}, {"path": "shapes/text"}]
    monkeypatch.setattr(writing, "build", None)
    with pytest.raises(BrokenData) as told:
        train(changed(recipe, data=data), tmp_path / "run")
    assert {fault.kind for fault in told.value.faults} == {
        Kind.unreadable,
        Kind.missing,
        Kind.empty,
        Kind.uncaptioned,
        Kind.dataset,
    }
    message = str(told.value)
    assert message.startswith(
        "2 pictures cannot be read, 1 picture does not exist, 1 picture has no caption, "
        "1 picture has an empty caption, 2 datasets have faults: "
    )
    for name in ("nowhere", "shapes/text", "3.jpg", "4.jpg", "shapes/6", "9.jpg", "shapes/10"):
        assert name in message
    assert "\n" not in message and "--skip-broken" not in message
    assert isinstance(told.value, DataError) and isinstance(told.value, ImageError)
    assert not (tmp_path / "run").exists()


def test_a_message_names_some_and_counts_all(recipe: Recipe, root: Path) -> None:
    folder = root / "many"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02}.jpg").write_bytes(b"broken")
        (folder / f"{number:02}.txt").write_text("a wall")
    data = recipe.data.model_dump() | {"train": [{"path": "many"}]}
    with pytest.raises(BrokenData, match=r"^60 pictures cannot be read: ") as told:
        open_examples(changed(recipe, data=data), look=None)
    assert str(told.value).count("not a picture") == 20
    assert len(told.value.faults) == 60 and "--skip-broken" in str(told.value)


def test_what_is_broken_is_left_out(recipe: Recipe, root: Path) -> None:
    spoil(root)
    found = open_examples(recipe, look=examples.decoded, skip=True)
    assert [each.id for each in found.train] == ["shapes/" + id for id in "01257"]
    assert found.parts == [(5, 1.0)]
    assert [each.id for each in found.dev] == ["shapes/8", "shapes/11"]
    left_out = [(each.part, each.source, each.id) for each in found.skipped]
    assert left_out == [("train", 0, id) for id in "346"] + [("dev", 0, "9"), ("dev", 0, "10")]


def test_captions_without_a_picture_are_left_out_and_other_faults_are_not(
    recipe: Recipe, root: Path
) -> None:
    folder = root / "coco"
    (folder / "images").mkdir(parents=True)
    for name in "ab":
        Image.new("RGB", (32, 32)).save(folder / "images" / f"{name}.png")
    images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate("ab")]
    captions = [{"image_id": number, "caption": "a wall"} for number in range(3)]
    listed = folder / "captions_train.json"
    listed.write_text(json.dumps({"images": images, "annotations": captions}))
    data = recipe.data.model_dump() | {"train": [{"path": "coco", "split": "train"}]}
    spoken = changed(recipe, data=data)
    with pytest.raises(BrokenData, match="image 2 has captions but is not in 'images'"):
        open_examples(spoken)
    assert len(open_examples(spoken, skip=True).train) == 2
    listed.write_text(json.dumps({"images": [*images, images[1]], "annotations": captions}))
    with pytest.raises(BrokenData, match="image 1 comes twice; remove one"):
        open_examples(spoken, skip=True)


def test_texts_that_are_too_long_are_left_out(recipe: Recipe, root: Path) -> None:
    tokens = root / "shapes" / "text" / "Flickr8k.token.txt"
    long = "6.jpg#0\t" + "word " * 30_000
    lines = [
        long if line.startswith("6.jpg#0") else line for line in tokens.read_text().split("\n")
    ]
    tokens.write_text("\n".join(lines))
    told = (
        r"^1 text is too long: shapes/6: has a text of more than 100,000 characters; shorten it\."
    )
    with pytest.raises(BrokenData, match=told):
        open_examples(recipe)
    found = open_examples(recipe, skip=True)
    assert [each.id for each in found.skipped] == ["6"] and len(found.train) == 7
    [fault] = check(root / "shapes").report.faults
    assert fault.endswith("6 has a caption of more than 100,000 characters")
    with pytest.raises(DataError, match=r"line 13: a text of 149,999 characters; give at most"):
        captax.data.open(root / "shapes")


def test_pairs_with_an_empty_text(root: Path, recipe: Recipe) -> None:
    rows = [{"source": "a", "target": "b"}, {"source": "", "target": "b"}]
    rows += [{"source": "a", "target": " "}]
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = [{"path": "pairs.jsonl", "rows": ":3"}]
    data = recipe.data.model_dump() | {"train": sources, "dev": [{"path": "pairs.jsonl"}]}
    pairs = changed(recipe, task="rewrite", data=data, stages=[{"name": "s", "epochs": 1, "lr": 1}])
    with pytest.raises(BrokenData, match=r"^2 pairs have an empty text: 2: .*; 3: ") as told:
        open_examples(pairs)
    assert len(told.value.faults) == 2  # though both parts have them
    assert [pair.id for pair in open_examples(pairs, skip=True).train] == ["1"]


def test_labelled_pictures_are_left_out(root: Path, recipe: Recipe) -> None:
    meta, images = root / "food" / "meta", root / "food" / "images"
    meta.mkdir(parents=True)
    for label in ("soup", "tea"):
        (images / label).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (32, 32)).save(images / label / f"{number}.jpg")
    for name in ("train", "test"):
        ids = [f"{label}/{n}" for label in ("soup", "tea") for n in ((0, 1), (2,))[name == "test"]]
        (meta / f"{name}.txt").write_text("\n".join(ids))
    (images / "soup" / "0.jpg").unlink()
    (images / "tea" / "1.jpg").write_bytes(b"broken")
    data = recipe.data.model_dump()
    data |= {part: [{"path": "food", "split": part}] for part in ("train", "dev")}
    labelled = changed(recipe, task="classify", data=data)
    with pytest.raises(BrokenData, match=r"^1 picture cannot be read, 1 picture does not exist: "):
        open_examples(labelled, look=None)
    found = open_examples(labelled, look=examples.decoded, skip=True)
    assert [each.id for each in found.train] == ["soup/1", "tea/0"]


def test_many_pictures_are_decoded_once(
    recipe: Recipe, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features are computed from all pictures; what only decoding shows is then told at once."""
    stage = recipe.stages[0].model_dump() | {"views": 1}
    kept = changed(recipe, stages=[stage])
    images = root / "shapes" / "images"
    for name in ("4.jpg", "9.jpg"):
        (images / name).write_bytes(broken_png())
    assert examples.thorough(kept, 20_000) is examples.decoded
    monkeypatch.setattr(examples, "MOST_DECODED", 3)
    assert examples.thorough(recipe, 12) is examples.decoded  # no features are kept
    assert len(open_examples(kept, look=None).train) == 8
    monkeypatch.setattr(loop, "make_step", None)
    with pytest.raises(BrokenData, match=r"^2 pictures cannot be read: shapes/4: .*shapes/9: "):
        train(kept, tmp_path / "run")


@pytest.mark.slow
def test_a_run_leaves_out_the_same_when_it_goes_on(
    recipe: Recipe,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(root)
    whole, out = tmp_path / "whole", tmp_path / "run"
    train(recipe, whole, skip_broken=True)
    told = capsys.readouterr().out
    assert "skipped 5 of 12 examples, which are listed in skipped.json:\n" in told
    assert "  shapes/10: has no caption" in told
    assert "warning: the model is fine-tuned on only 5 pictures and will forget" in told
    card = (whole / "best" / "README.md").read_text()
    assert (
        "- `shapes` (train): 5 pictures\n\nLeft out because they could not be used: 5 pictures."
        in card
    )
    assert "on 2 pictures of `shapes` (dev)" in card and "too few to say how good" in card

    save = loop.RunCheckpoints.save

    def stop(self: Any, step: int, *rest: Any) -> None:
        save(self, step, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.RunCheckpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, out, skip_broken=True)
    images = root / "shapes" / "images"
    (images / "3.jpg").write_bytes((images / "0.jpg").read_bytes())  # repaired
    capsys.readouterr()
    train(recipe, out)
    told = capsys.readouterr().out
    assert "skipped 5 of 12 examples" in told
    assert re.search("the run goes on from its checkpoint of step [1-9]", told)
    best = "best/model.safetensors"
    assert (out / best).read_bytes() == (whole / best).read_bytes()
    # Until a picture of those that are learned from is gone.
    (images / "0.jpg").unlink()
    with pytest.raises(BrokenData, match=r"^1 picture does not exist: shapes/0: "):
        train(recipe, out)
    (out / "skipped.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"skipped\.json: does not say what the run leaves out"):
        train(recipe, out)


def test_one_dev_picture_is_told_to_be_too_few(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(loop._Run, "run_stage", lambda *_: None)
    few = changed(recipe, evaluation=recipe.evaluation.model_dump() | {"limit": 1})
    for name, each, told in (("two", recipe, False), ("one", few, True)):
        train(each, tmp_path / name)
        said = "there is one dev picture, and CIDEr-D of a single picture is always 0"
        assert (said in capsys.readouterr().out) is told


def test_a_run_that_began_with_all_goes_on_with_all(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop._Run, "run_stage", lambda *_: None)
    (tmp_path / "run").mkdir()
    examples.write_skipped(tmp_path / "run", [])  # and was ended before it began
    train(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "skipped.json").exists()
    with pytest.raises(RecipeError, match="this run began without --skip-broken"):
        train(recipe, tmp_path / "run", skip_broken=True)


def test_sources_on_the_hub_need_no_root(
    finetune: Callable[[int], Recipe],
    root: Path,
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra hub-data")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("CAPTAX_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    files = {}
    for split, numbers in (("train", range(8)), ("validation", range(8, 12))):
        pictures = [(root / "shapes" / "images" / f"{n}.jpg").read_bytes() for n in numbers]
        rows = {"image": [{"bytes": each, "path": None} for each in pictures]}
        rows["text"] = [f"Number {n}" for n in numbers]
        made = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
        made.to_parquet(file := io.BytesIO())
        files[f"data/{split}-00000-of-00001.parquet"] = file.getvalue()
    hub.repositories["datasets/me/shapes"] = Repository({"main": files})
    fields = finetune(4).model_dump(mode="json")
    fields["data"] |= {
        "root": None,
        "train": [{"path": "hf://me/shapes", "split": "train", "rows": ":-1"}],
        "dev": [{"path": "hf://me/shapes", "split": "validation"}],
    }
    recipe = parse_recipe(Recipe.model_validate(fields).to_yaml())
    found = open_examples(recipe, look=decoded)
    assert [example.id for example in found.train] == [f"shapes/train/{n}" for n in range(7)]
    assert [example.captions for example in found.dev] == [(f"Number {n}",) for n in range(8, 12)]
    fields["data"]["dev"] = [{"path": "shapes", "split": "dev"}]
    with pytest.raises(ValueError, match=r"data\.root"):
        Recipe.model_validate(fields)
