import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from captax.images import Augment, ImageError, mentions_sides, rng_for


def position_picture(width: int, height: int) -> Image.Image:
    """Every pixel says where it is: red its column, green its row."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, np.full_like(x, 7)], 2).astype(np.uint8))


def box(image: Image.Image) -> tuple[int, int, int, int]:
    pixels = np.asarray(image)
    return (*pixels[0, 0, :2].tolist(), *(pixels[-1, -1, :2] + 1).tolist())


def test_the_same_draws_for_the_same_seed_epoch_and_example_in_every_process():
    image = position_picture(64, 48)
    augment = Augment((0.3, 1.0), flip=True, jitter=0.3)
    once, again = (augment(image, rng_for(3, 1, "a/é.jpg#2")) for _ in range(2))
    np.testing.assert_array_equal(np.asarray(once), np.asarray(again))
    keys = [(s, e, name) for s in (0, 1) for e in (0, 1, 10) for name in ("", "0", "a", "b")]
    assert len({rng_for(*key).random() for key in keys}) == len(keys)
    code = "from captax.images import rng_for; print(rng_for(3, 1, 'a/é.jpg#2').random())"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert runs == {f"{rng_for(3, 1, 'a/é.jpg#2').random()}\n".encode()}


def test_crops_stay_within_the_picture_the_scale_and_the_ratio():
    image = position_picture(200, 150)
    boxes = [box(Augment((0.25, 0.6))(image, np.random.default_rng(n))) for n in range(500)]
    sizes = np.array([(right - left, bottom - top) for left, top, right, bottom in boxes])
    shares = sizes.prod(1) / (200 * 150)
    assert 0.24 < shares.min() < 0.3 and 0.55 < shares.max() < 0.61
    ratios = sizes[:, 0] / sizes[:, 1]
    assert 0.73 < ratios.min() < 0.8 and 1.27 < ratios.max() < 1.36
    lefts, tops, rights, bottoms = np.array(boxes).T
    assert lefts.min() == 0 and tops.min() == 0 and rights.max() == 200 and bottoms.max() == 150
    assert len(set(boxes)) > 450


@pytest.mark.parametrize("size", [(255, 4), (4, 255), (1, 1), (1, 200), (2, 3)])
def test_narrow_pictures_are_cropped_in_the_middle_to_an_allowed_ratio(size):
    cropped = Augment((0.9, 1.0))(position_picture(*size), np.random.default_rng(0))
    left, top, right, bottom = box(cropped)
    assert cropped.width >= 1 and cropped.height >= 1
    if max(size) > 100:
        assert abs(left + right - size[0]) <= 1 and abs(top + bottom - size[1]) <= 1
        assert max(cropped.size) <= 6


def test_flips_mirror_half_of_the_pictures_and_none_where_not_allowed():
    image = position_picture(9, 5)
    augment = Augment(flip=True)
    results = [np.asarray(augment(image, np.random.default_rng(n))) for n in range(400)]
    mirrored = [(got == np.asarray(image)[:, ::-1]).all() for got in results]
    assert 160 < sum(mirrored) < 240
    assert all(
        flipped or (got == np.asarray(image)).all()
        for got, flipped in zip(results, mirrored, strict=True)
    )
    for n in range(50):
        kept = augment(image, np.random.default_rng(n), allow_flip=False)
        np.testing.assert_array_equal(np.asarray(kept), np.asarray(image))


def test_forbidding_the_flip_changes_nothing_else():
    image, augment = position_picture(90, 70), Augment((0.3, 0.8), flip=True, jitter=0.4)
    for n in range(20):
        free = np.asarray(augment(image, np.random.default_rng(n)))
        kept = np.asarray(augment(image, np.random.default_rng(n), allow_flip=False))
        assert (free == kept).all() or (free == kept[:, ::-1]).all()


def test_jitter_is_brightness_contrast_and_saturation_within_its_strength():
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    image = Image.fromarray(noise)
    before = image.copy()
    rng = np.random.default_rng(5)
    got = Augment(jitter=0.3)(image, np.random.default_rng(5))
    want = image
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        want = enhance(want).enhance(rng.uniform(0.7, 1.3))
    # Pillow rounds after each of its three steps; this rounds once.
    assert np.abs(np.asarray(got).astype(int) - np.asarray(want)).max() <= 3
    assert image == before
    assert Augment()(image, rng) == before


@pytest.mark.parametrize(
    "options",
    [
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.9, 0.5)},
        {"crop_scale": (0.5, 1.5)},
        {"crop_ratio": (2.0, 1.0)},
        {"jitter": 1.0},
        {"jitter": -0.1},
    ],
)
def test_settings_out_of_range(options):
    with pytest.raises(ImageError, match=next(iter(options))):
        Augment(**options)


@pytest.mark.parametrize(
    ("caption", "sides"),
    [
        ("a man on the left of a dog", True),
        ("Right: a cat .", True),
        ("a left-handed pitcher", True),
        ("the rightmost window", True),
        ("a leftover pizza", False),
        ("bright lights and a copyright sign", False),
        ("a human rights march", False),
        ("", False),
    ],
)
def test_mentions_sides(caption, sides):
    assert mentions_sides(["a dog", caption]) is sides
    assert mentions_sides([]) is False
