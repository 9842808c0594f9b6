"""The feature cache: right values, nothing computed twice, never a stale one."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array

from captax import data
from captax.data import Example
from captax.images import Augment, ImageError, ImageProcessor, decode, rng_for
from captax.models.encoders import Features, VisionEncoder
from captax.training import features
from captax.training.features import augmented_pixels, cache_features

AUGMENT = Augment(crop_scale=(0.4, 0.9), flip=True, jitter=0.3)


class Scale(nnx.Module):
    def __init__(self, factor: float) -> None:
        self.factor = nnx.Param(jnp.array(factor))

    def __call__(self, x: Array) -> Array:
        return x * self.factor[...]


class Scales(VisionEncoder):
    """Two parts, each a factor."""

    def __init__(self, *factors: float) -> None:
        self.scales = nnx.List([Scale(factor) for factor in factors])

    def parts(self) -> list[Scale]:
        return list(self.scales)

    def features(self, x: Array) -> Features:
        raise NotImplementedError


ENCODER = Scales(3.0, 5.0)
PROCESSOR = ImageProcessor((6, 4), resample="bilinear")


@pytest.fixture(scope="module")
def examples(
    dataset: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> list[Example]:
    root = dataset(tmp_path_factory.mktemp("data"))
    return data.open(root / "shapes")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pictures decoded, in order, each time they are."""
    names: list[str] = []

    def count(example: Example, *options: Any) -> Any:
        assert isinstance(example.image, Path)
        names.append(example.image.name)
        return augmented_pixels(example, *options)

    monkeypatch.setattr(features, "augmented_pixels", count)
    return names


def view(example: Example, number: int) -> np.ndarray:
    if number == 0:  # what the captioner will see
        return PROCESSOR([example.image])[0]
    image = decode(example.image, at_least=PROCESSOR.decode_size)
    allow_flip = "left" not in example.captions[0]
    return PROCESSOR([AUGMENT(image, rng_for(0, number, example.id), allow_flip=allow_flip)])[0]


def test_it_holds_what_the_first_parts_gave_of_every_view(
    examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "BATCH", 5)  # 24 rows: the last batch is not full
    for depth, factor in ((0, 1), (1, 3), (2, 15)):
        cache = cache_features(
            tmp_path, ENCODER, depth, examples, PROCESSOR, augment=AUGMENT, views=2
        )
        assert cache.views == 2 and cache.array.dtype == np.float16
        for index, example in enumerate(examples):
            for number in range(2):
                want = factor * view(example, number)
                np.testing.assert_allclose(cache.array[number, index], want, rtol=2e-3, atol=2e-3)
    assert any("left" in example.captions[0] for example in examples)
    got = cache.read(np.array([3, 0, 3]), np.array([0, 1, 1]))
    np.testing.assert_array_equal(got, [cache.array[0, 3], cache.array[1, 0], cache.array[1, 3]])


def test_work_done_is_kept(
    examples: list[Example],
    tmp_path: Path,
    decoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"{example.id}.jpg" for example in examples]

    def cache(views: int) -> np.ndarray:
        found = cache_features(
            tmp_path, ENCODER, 1, examples, PROCESSOR, augment=AUGMENT, views=views
        )
        return np.array(found.array)

    one = cache(1)
    assert sorted(decoded) == sorted(names)
    decoded.clear()
    np.testing.assert_array_equal(cache(1), one)
    assert decoded == []
    three = cache(3)
    assert sorted(decoded) == sorted(2 * names)  # only the views that were missing
    np.testing.assert_array_equal(three[:1], one)
    decoded.clear()
    np.testing.assert_array_equal(cache(2), three[:2])  # and fewer are among them
    assert decoded == []
    for number in range(3):
        np.testing.assert_allclose(
            three[number, 4], 3 * view(examples[4], number), rtol=2e-3, atol=2e-3
        )


def test_an_interrupted_computation_goes_on_where_it_was(
    examples: list[Example],
    tmp_path: Path,
    decoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(features, "BATCH", 1)  # progress is noted every 40 batches
    options: dict[str, Any] = {"augment": AUGMENT, "views": 5}  # 60 rows
    whole = np.array(
        cache_features(tmp_path / "whole", ENCODER, 1, examples, PROCESSOR, **options).array
    )
    decoded.clear()
    broken = jax.jit

    def stop_at(row: int) -> Callable[..., Any]:
        calls = []

        def jit(function: Callable[..., Any]) -> Callable[..., Any]:
            compiled = broken(function)

            def run(*arguments: Any) -> Any:
                if not isinstance(arguments[1], jax.core.Tracer):
                    calls.append(1)
                if len(calls) > row:
                    raise KeyboardInterrupt
                return compiled(*arguments)

            return run

        return jit

    with monkeypatch.context() as patch:
        patch.setattr(jax, "jit", stop_at(45))
        with pytest.raises(KeyboardInterrupt):
            cache_features(tmp_path / "cut", ENCODER, 1, examples, PROCESSOR, **options)
    assert len(decoded) >= 45
    decoded.clear()
    again = cache_features(tmp_path / "cut", ENCODER, 1, examples, PROCESSOR, **options)
    assert len(decoded) == 20  # 60 less the 40 that were noted
    np.testing.assert_array_equal(again.array, whole)


def test_whatever_a_value_depends_on_gives_another_folder(
    examples: list[Example], tmp_path: Path, dataset: Callable[[Path], Path]
) -> None:
    def folders(
        encoder: VisionEncoder = ENCODER,
        depth: int = 1,
        examples: list[Example] = examples[:2],
        processor: ImageProcessor = PROCESSOR,
        **options: Any,
    ) -> int:
        options = {"augment": AUGMENT, **options}
        cache_features(tmp_path, encoder, depth, examples, processor, **options)
        return len(list(tmp_path.iterdir()))

    assert folders() == folders() == 1
    assert folders(encoder=Scales(3.0, 6.0)) == 1  # that part is not one of the first
    assert folders(encoder=Scales(3.1, 5.0)) == 2
    assert folders(depth=2) == 3
    assert folders(processor=dataclasses.replace(PROCESSOR, resample="bicubic")) == 4
    assert folders(augment=dataclasses.replace(AUGMENT, jitter=0.2)) == 5
    assert folders(augment=None) == 6
    assert folders(seed=1) == 7
    assert folders(examples=examples[1::-1]) == 8
    # Another picture under the same name, and the same in memory.
    content = examples[0].image.read_bytes()
    first = dataclasses.replace(examples[0], image=content)
    assert folders(examples=[first, examples[1]]) == 9
    assert folders(examples=[first, examples[1]]) == 9
    other = dataclasses.replace(first, image=examples[2].image.read_bytes())
    assert folders(examples=[other, examples[1]]) == 10
    # A picture whose captions name sides is not mirrored.
    sides = dataclasses.replace(examples[0], captions=("on the right",))
    assert folders(examples=[sides, examples[1]]) == 11


def test_a_picture_that_cannot_be_read_is_named(examples: list[Example], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    bad = [*examples, Example("broken", broken, ("a",))]
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        cache_features(tmp_path / "cache", ENCODER, 1, bad, PROCESSOR)


def test_a_disk_without_room_is_told_before_anything_is_computed(
    examples: list[Example],
    tmp_path: Path,
    decoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from shutil import _ntuple_diskusage  # type: ignore[attr-defined]

    full = _ntuple_diskusage(100, 100, 0)
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: full)
    with pytest.raises(features.FeatureCacheError, match=r"needs 0.0 GB and only 0.0 GB are free"):
        cache_features(tmp_path, ENCODER, 1, examples, PROCESSOR)
    assert decoded == []
