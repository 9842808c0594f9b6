"""Which pictures look the same."""

import io
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from captax.collection.copies import BITS, Fingerprints, fingerprint

Scene = Callable[[int], Image.Image]
DISTANCE = 4  # as `--dedupe` advises


def looks(*images: Image.Image) -> list[int]:
    found = [fingerprint(image) for image in images]
    assert None not in found
    return [look for look in found if look is not None]


def differ(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def test_copies_are_near_and_other_pictures_far(scene: Scene) -> None:
    for seed in range(20):
        image = scene(seed)
        copies = [
            image.resize((140, 100)),
            image.resize((700, 500), Image.Resampling.NEAREST),
            jpeg(image, 30),
            jpeg(image.resize((200, 150)), 60),
            ImageEnhance.Brightness(image).enhance(1.1),
            ImageEnhance.Color(image).enhance(0.3),
        ]
        original, *others = looks(image, *copies)
        assert max(differ(original, other) for other in others) <= DISTANCE
    different = looks(*(scene(seed) for seed in range(100)))
    distances = [differ(a, b) for a, b in itertools.combinations(different, 2)]
    assert min(distances) > 2 * DISTANCE
    assert abs(np.mean(distances) - BITS / 2) < 2


@pytest.mark.parametrize("colour", ["black", "white", "red", "#808080"])
def test_plain_pictures_have_no_look(colour: str) -> None:
    """Else every plain picture would be a copy of the first, whatever its colour."""
    plain = Image.new("RGB", (50, 40), colour)
    assert fingerprint(plain) is None and fingerprint(jpeg(plain, 40)) is None


def test_the_first_that_is_near_enough_is_found() -> None:
    rng = np.random.default_rng(0)
    seen, known = Fingerprints(3), []
    for i in range(3000):
        look = int(rng.integers(2**64, dtype=np.uint64))
        assert seen.like(look) is None or any(differ(look, other) <= 3 for other in known)
        seen.add(look, str(i))
        known.append(look)
    for i in (0, 1023, 1024, 2999):
        assert seen.like(known[i] ^ 0b111) == str(i)
        assert seen.like(known[i] ^ 0b1111) is None
    seen.add(known[0], "again")
    assert seen.like(known[0]) == "0"
