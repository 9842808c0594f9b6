"""Random crops, flips and colour changes of training pictures, reproducible from a seed."""

import dataclasses
import hashlib
import math
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from captax.images.decode import ImageError
from captax.images.geometry import Box, centred

_SIDES = re.compile(
    r"\b(?:left|right)(?:most|ward|wards|hand|handed|side)?\b", re.ASCII | re.IGNORECASE
)


@dataclasses.dataclass(frozen=True)
class Augment:
    """A random change of an RGB picture; resizing is left to the processor.

    `crop_scale` is the range of the crop's share of the picture's area, and `crop_ratio` the range
    of the crop's width / height (the random resized crop of Szegedy et al. 2015,
    https://arxiv.org/abs/1409.4842); a `crop_scale` of None keeps the whole picture. `flip` mirrors
    half of the pictures, drawn at random. `jitter` multiplies brightness, contrast and saturation
    each by a factor drawn from 1 - jitter .. 1 + jitter; 0 does not change colours.
    """

    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ImageError(f"crop_scale {self.crop_scale}: must be 0 < min <= max <= 1")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ImageError(f"crop_ratio {self.crop_ratio}: must be 0 < min <= max")
        if not 0 <= self.jitter < 1:
            raise ImageError(f"jitter {self.jitter}: must be at least 0 and below 1")

    def __call__(
        self, image: Image.Image, rng: np.random.Generator, *, allow_flip: bool = True
    ) -> Image.Image:
        """`image` (RGB) cropped, mirrored and recoloured as `rng` draws; the input is not modified.

        `allow_flip=False` never mirrors, for captions that name left or right.
        """
        if self.crop_scale is not None:
            image = image.crop(self._crop_box(image.size, rng))
        # A number is drawn even if flips are not allowed, so that later draws stay the same.
        if self.flip and rng.random() < 0.5 and allow_flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.jitter:
            image = _recolour(image, *rng.uniform(1 - self.jitter, 1 + self.jitter, 3))
        return image

    def _crop_box(self, size: tuple[int, int], rng: np.random.Generator) -> Box:
        assert self.crop_scale is not None
        width, height = size
        low, high = math.log(self.crop_ratio[0]), math.log(self.crop_ratio[1])
        for _ in range(10):
            area = width * height * rng.uniform(*self.crop_scale)
            ratio = math.exp(rng.uniform(low, high))
            crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                left = int(rng.integers(width - crop_width + 1))
                top = int(rng.integers(height - crop_height + 1))
                return left, top, left + crop_width, top + crop_height
        return self._centre_box(width, height)

    def _centre_box(self, width: int, height: int) -> Box:
        """The largest centred crop of an allowed ratio, used for very narrow pictures."""
        ratio = min(max(width / height, self.crop_ratio[0]), self.crop_ratio[1])
        crop_width = max(1, min(width, round(height * ratio)))
        crop_height = max(1, min(height, round(width / ratio)))
        return centred((height, width), (crop_height, crop_width))


def rng_for(seed: int, epoch: int, example_id: str) -> np.random.Generator:
    """The random generator of one example in one epoch: equal in every process and worker."""
    key = f"{seed}/{epoch}/{example_id}".encode()
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest()))


def mentions_sides(captions: Sequence[str]) -> bool:
    """Whether some caption says left or right, so that a mirrored picture would make it false.

    The verb "left" counts too: not mirroring a picture costs less than a false caption.
    """
    return any(_SIDES.search(caption) for caption in captions)


def _recolour(
    image: Image.Image, brightness: float, contrast: float, saturation: float
) -> Image.Image:
    """Brightness, then contrast about the mean grey, then saturation, as Pillow's ImageEnhance."""
    levels = np.arange(256) * brightness
    grey = np.asarray(image.convert("L"))
    mean = float(np.clip(levels, 0, 255)[grey].mean())
    table = np.clip((np.clip(levels, 0, 255) - mean) * contrast + mean, 0, 255)
    image = image.point(np.rint(table).astype(int).tolist() * 3)
    return Image.blend(image.convert("L").convert("RGB"), image, saturation)
