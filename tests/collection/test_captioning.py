"""Batches through a real captioner: the captions of a collection are those of its pictures."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from captax.collection.captioning import CaptionOptions, Copies, Wanted, caption_batches
from captax.collection.items import find_items
from captax.collection.record import Record
from captax.generation import Calibration
from captax.pipelines.captioner import Captioner

SAMPLED = {"do_sample": True, "num_beams": 1, "temperature": 2.0}


@pytest.fixture
def folder(tmp_path: Path, scene: Callable[[int], Image.Image]) -> Path:
    """Nine pictures, one broken, one a copy of the first and two of one another."""
    for place, seed in enumerate((0, 1, 2, 0, 3, 4, 4, 5)):
        scene(seed).save(tmp_path / f"{place}.png")
    (tmp_path / "2a.png").write_bytes(b"broken")
    return tmp_path


def wanted(folder: Path) -> list[Wanted]:
    return [Wanted(item, place) for place, item in enumerate(find_items([str(folder)]))]


def texts(records: list[Record]) -> list[str]:
    return [record.error or record.text for record in records]


def records(
    captioner: Captioner,
    pictures: list[Wanted],
    options: CaptionOptions,
    copies: Copies | None = None,
) -> list[Record]:
    return [one for batch in caption_batches(captioner, pictures, options, copies) for one in batch]


@pytest.mark.slow
def test_draws_depend_on_the_place_and_not_on_where_a_job_was_taken_up(
    tiny_captioner: Captioner, folder: Path
) -> None:
    options = CaptionOptions(seed=3, batch_size=2, decoding=SAMPLED)
    every = wanted(folder)
    found = records(tiny_captioner, every, options)
    paths = [each.item.path for each in every]
    good = [i for i, record in enumerate(found) if not record.error]
    assert len(good) == 8 and found[3].error.startswith("not a picture that can be read")
    # A broken one among them keeps its place.
    said = [
        None if isinstance(caption, Exception) else caption.text
        for caption in tiny_captioner.stream(paths, seed=3, batch_size=2, **SAMPLED)
    ]
    assert [found[i].text for i in good] == [said[i] for i in good]
    assert len(set(said)) > 4
    for begin in (2, 4, 8):
        assert records(tiny_captioner, every[begin:], options) == found[begin:]
    some = records(tiny_captioner, every[::3], options)
    assert texts(some) == texts(found[::3])


@pytest.mark.slow
def test_copies_have_the_captions_of_what_they_are_copies_of(
    tiny_captioner: Captioner, folder: Path
) -> None:
    tiny, calibration = (
        tiny_captioner,
        Calibration({"mean_logprob": 2.0, "evidence": 0.2}, 0.5, 0.5),
    )
    captioner = Captioner(tiny.model, tiny.processor, tiny.tokenizer, tiny.generation, calibration)
    options, every = CaptionOptions(batch_size=2, dedupe=2), wanted(folder)
    batches = list(caption_batches(captioner, every, options, Copies(2)))
    assert [len(batch) for batch in batches] == [2, 2, 2, 2, 1]
    found = [record for batch in batches for record in batch]
    names = [Path(record.name).name for record in found]
    assert names == [each.item.name.rpartition("/")[2] for each in every]
    copies = {Path(one.name).name: Path(one.copy_of).name for one in found if one.copy_of}
    assert copies == {"3.png": "0.png", "6.png": "5.png"}
    sure = {Path(record.name).name: record.confidence for record in found}
    assert all(sure[copy] == sure[original] is not None for copy, original in copies.items())
    alone = records(tiny_captioner, every, CaptionOptions(batch_size=2))
    assert texts(found) == texts(alone)
    for begin in (2, 4, 6, 8):  # after what an earlier process did
        known = Copies(2)
        for record in found[:begin]:
            known.done(record)
        assert records(captioner, every[begin:], options, known) == found[begin:]


def test_a_collection_of_copies_comes_batch_by_batch(
    tiny_captioner: Captioner, tmp_path: Path, scene: Callable[[int], Image.Image]
) -> None:
    """And not when at last something new comes, which would be taken down too late."""
    scene(0).save(tmp_path / "0.png")
    items = [Wanted(item, place) for place in range(200) for item in find_items([str(tmp_path)])]
    read = 0

    def counted() -> object:
        nonlocal read
        for each in items:
            read += 1
            yield each

    batches = caption_batches(
        tiny_captioner, counted(), CaptionOptions(batch_size=4, dedupe=0), Copies(0)
    )  # type: ignore[arg-type]
    next(batches)
    assert read < 50
