import gc
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captax.data import (
    DataError,
    epoch_order,
    epoch_size,
    filled,
    load_images,
    pack_captions,
    prefetch,
)
from captax.images.decode import ImageError
from captax.images.processor import ImageProcessor

START, EOS, PAD = 1, 2, 0


def test_packs_captions_one_after_the_other() -> None:
    packed = pack_captions([[[1, 5, 6, 2], [1, 7, 2]], [[1, 8, 2]]], capacity=7, pad_id=0)
    assert packed.inputs.tolist() == [[1, 5, 6, 1, 7, 0, 0], [1, 8, 0, 0, 0, 0, 0]]
    assert packed.targets.tolist() == [[5, 6, 2, 7, 2, 0, 0], [8, 2, 0, 0, 0, 0, 0]]
    assert packed.segments.tolist() == [[1, 1, 1, 2, 2, 0, 0], [1, 1, 0, 0, 0, 0, 0]]
    assert packed.positions.tolist() == [[0, 1, 2, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0, 0]]
    assert (packed.truncated, packed.dropped) == (0, 0)


def test_a_cut_caption_ends_without_eos() -> None:
    packed = pack_captions([[[1, 5, 6, 7, 2], [1, 5, 2]]], capacity=6, pad_id=9, max_tokens=3)
    assert packed.inputs.tolist() == [[1, 5, 1, 5, 9, 9]]
    assert packed.targets.tolist() == [[5, 6, 5, 2, 9, 9]]
    assert (packed.truncated, packed.dropped) == (1, 0)


def test_what_finds_no_room_is_dropped_and_a_shorter_one_still_fits() -> None:
    packed = pack_captions([[[1, 5, 6, 2], [1, 5, 2], [1, 2]]], capacity=4, pad_id=0)
    assert packed.inputs.tolist() == [[1, 5, 6, 1]]
    assert packed.targets.tolist() == [[5, 6, 2, 2]]
    assert packed.dropped == 1


captions = st.lists(st.integers(3, 9), max_size=12).map(lambda words: [START, *words, EOS])


@given(
    st.lists(st.lists(captions, max_size=5), max_size=4),
    st.integers(1, 30),
    st.none() | st.integers(2, 16),
)
def test_unpacks_to_what_was_packed(
    batch: list[list[list[int]]], capacity: int, max_tokens: int | None
) -> None:
    packed = pack_captions(batch, capacity=capacity, pad_id=PAD, max_tokens=max_tokens)
    assert packed.inputs.shape == (len(batch), capacity)
    longest = min(max_tokens or capacity + 1, capacity + 1)
    kept = 0
    for row, given_captions in enumerate(batch):
        segments = packed.segments[row]
        for segment in range(1, segments.max(initial=0) + 1):
            (places,) = np.nonzero(segments == segment)
            assert (np.diff(places) == 1).all()
            assert packed.positions[row, places].tolist() == list(range(len(places)))
            inputs, targets = packed.inputs[row, places], packed.targets[row, places]
            assert (inputs[1:] == targets[:-1]).all()
            tokens = [*inputs.tolist(), int(targets[-1])]
            assert tokens in [caption[:longest] for caption in given_captions]
            kept += 1
        if given_captions:
            assert segments[0] == 1  # a cut caption always fits an empty row
        padding = segments == 0
        assert (packed.inputs[row, padding] == PAD).all()
        assert (packed.targets[row, padding] == PAD).all()
        assert (packed.positions[row, padding] == 0).all()
    assert kept + packed.dropped == sum(map(len, batch))
    # Only a caption that is there in whole trains its end.
    ends = int((packed.targets == EOS).sum())
    assert kept - packed.truncated == ends


def test_refuses_what_cannot_be_packed() -> None:
    with pytest.raises(DataError, match=r"picture 1 of the batch: caption \[1\] needs"):
        pack_captions([[[1, 2]], [[1, 2], [1]]], capacity=4, pad_id=0)
    with pytest.raises(DataError, match="capacity is 0"):
        pack_captions([], capacity=0, pad_id=0)
    with pytest.raises(DataError, match="max_tokens is 1"):
        pack_captions([], capacity=4, pad_id=0, max_tokens=1)


def test_epoch_order_is_a_permutation_that_seed_and_epoch_determine() -> None:
    order, visits = epoch_order([(60, 1.0), (40, 1.0)], seed=3, epoch=1)
    assert sorted(order) == list(range(100))
    assert (visits == 1).all()
    np.testing.assert_array_equal(order, epoch_order([(100, 1.0)], seed=3, epoch=1)[0])
    for seed, epoch in ((3, 2), (1, 3), (4, 1)):
        assert (order != epoch_order([(100, 1.0)], seed=seed, epoch=epoch)[0]).any()
    assert epoch_order([(8, 1.0)], seed=0, epoch=0)[0].tolist() == ORDER


def test_epoch_order_takes_each_part_as_often_as_its_weight_says() -> None:
    parts = [(10, 2.5), (20, 1.0), (40, 0.25)]
    assert epoch_size(parts) == 25 + 20 + 10
    seen = set()
    for epoch in range(3):
        order, visits = epoch_order(parts, seed=0, epoch=epoch)
        counts = np.bincount(order, minlength=70)
        assert sorted(counts[:10]) == [2] * 5 + [3] * 5
        assert (counts[10:30] == 1).all()
        assert sorted(counts[30:]) == [0] * 30 + [1] * 10
        pairs = set(zip(order.tolist(), visits.tolist(), strict=True))
        assert len(pairs) == 55 and not pairs & seen  # no visit of an example comes twice
        seen |= pairs
        assert sorted(order) != order.tolist()
    first, second = (set(epoch_order(parts, seed=0, epoch=e)[0][:]) for e in (0, 1))
    assert first != second


def prefetch_threads() -> int:
    return sum(thread.name == "captax-prefetch" for thread in threading.enumerate())


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 5
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Counted:
    """An endless iterable that counts what was asked of it, and notices being closed."""

    made = 0
    closed = False

    def __iter__(self) -> Iterator[int]:
        try:
            while True:
                self.made += 1
                yield self.made
        finally:
            self.closed = True


@pytest.mark.parametrize("size", [1, 3, 100])
def test_prefetch_keeps_the_order(size: int) -> None:
    assert list(prefetch(range(50), size)) == list(range(50))
    assert list(prefetch(iter([None, None]), size)) == [None, None]
    assert prefetch_threads() == 0


def test_prefetch_runs_ahead_by_its_size_only() -> None:
    items = Counted()
    ahead = prefetch(items, 3)
    assert next(ahead) == 1
    wait_for(lambda: items.made == 4)
    time.sleep(0.02)
    assert items.made == 4
    ahead.close()
    assert items.closed
    assert prefetch_threads() == 0


def test_prefetch_ends_its_thread_when_abandoned() -> None:
    items = Counted()
    for item in prefetch(items, 2):
        if item == 5:
            break
    gc.collect()
    assert items.closed
    assert prefetch_threads() == 0


def test_prefetch_raises_the_error_after_the_items_before_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise DataError("third")

    seen = []
    with pytest.raises(DataError, match="third"):
        for item in prefetch(failing(), 5):
            seen.append(item)
    assert seen == [1, 2]
    assert prefetch_threads() == 0


def test_prefetch_nests() -> None:
    inner = Counted()
    middle = prefetch(inner, 2)  # held here, so that it is not closed for want of a holder
    outer = prefetch(middle, 2)
    assert [next(outer) for _ in range(4)] == [1, 2, 3, 4]
    outer.close()
    assert inner.closed
    assert prefetch_threads() == 0


def picture(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (10, 8), (level, 0, 0)).save(file, "PNG")
    return file.getvalue()


PROCESSOR = ImageProcessor(size=(4, 4), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), rescale=1.0)


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (3, 2), (2, 50)])
def test_load_images_keeps_the_order_and_the_errors(
    tmp_path: Path, threads: int, ahead: int
) -> None:
    sources: list[Path | bytes] = [picture(level) for level in range(20)]
    sources[4] = b"not a picture"
    sources[7] = tmp_path / "absent.jpg"
    (tmp_path / "there.png").write_bytes(picture(200))
    sources[9] = tmp_path / "there.png"
    loaded = list(load_images(sources, PROCESSOR, threads=threads, ahead=ahead))
    assert len(loaded) == 20
    for index, result in enumerate(loaded):
        if index in (4, 7):
            assert isinstance(result, ImageError)
        else:
            assert isinstance(result, np.ndarray)
            assert result.shape == (4, 4, 3)
            assert result[0, 0, 0] == (200 if index == 9 else index)
    assert "absent.jpg" in str(loaded[7])


def test_load_images_asks_for_no_more_than_ahead() -> None:
    items = Counted()
    images = load_images((picture(n) for n in items), PROCESSOR, threads=2, ahead=3)
    next(images)
    assert items.made == 3
    images.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("captax-images")]


def test_load_images_raises_what_is_not_the_pictures_fault() -> None:
    def broken(sources: list[object]) -> np.ndarray:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(load_images([b""], broken, threads=1, ahead=1))


def test_refuses_sizes_below_one_at_once() -> None:
    with pytest.raises(DataError, match="prefetch size is 0"):
        prefetch([], 0)
    with pytest.raises(DataError, match="threads is 0 and ahead is 2"):
        load_images([], PROCESSOR, threads=0, ahead=2)


@pytest.mark.data
def test_real_pictures(shared_data: Path) -> None:
    paths = sorted((shared_data / "flickr8k/images").iterdir())[:16]
    for result in load_images(paths, PROCESSOR, threads=2, ahead=8):
        assert isinstance(result, np.ndarray)
        assert result.max() > 1


ORDER = [2, 4, 3, 6, 5, 0, 1, 7]


def test_a_batch_is_filled_up_with_zeros() -> None:
    rows = [np.full((2, 3), i, np.float32) for i in (1, 2)]
    batch = filled(rows, 4)
    assert batch.shape == (4, 2, 3) and batch.dtype == np.float32
    assert batch[:, 0, 0].tolist() == [1, 2, 0, 0]
