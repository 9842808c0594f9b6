"""Prepares pictures in their own aspect ratio, at about their own size, within a number of pixels.

Wang et al., *Qwen2-VL* (https://arxiv.org/abs/2409.12191), section 2.1. The pixels are those of
transformers' `Qwen2VLImageProcessor`, resized by Pillow.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from captax.errors import quoted
from captax.images.decode import MAX_PIXELS, ImageError
from captax.images.geometry import Fit, Size, stretched, within_budget
from captax.images.prepared import Prepared
from captax.images.processor import (
    Processor,
    Resample,
    pixel_fields,
    refuse_unknown,
)

CLASSES = ("Qwen2VL", "Qwen2_5_VL", "Qwen3VL")
MOST_SIDES = 200  # a side is at most so many times as long as the other
# A frame of a video becomes no more tokens, as Qwen's own programs have it.
FRAME_PLACES = 768
USUAL = 1024  # pixels of a side of what is prepared before any picture is known
_STEPS = {"do_convert_rgb", "do_resize", "do_rescale", "do_normalize"}
_DEFAULTS: dict[str, Any] = {
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
}
_LEAST, _MOST = 56 * 56, 28 * 28 * 1280


@dataclasses.dataclass(frozen=True)
class NativeProcessor(Processor):
    """Pictures to their own size, rounded to squares of `patch * merge` pixels.

    A picture of more than `max_pixels` or fewer than `min_pixels` is resized to as many. Its aspect
    ratio stays as nearly as whole squares allow. `times` is how many frames of a video make a
    token; a still picture is the same in all.
    """

    patch: int
    merge: int
    min_pixels: int
    max_pixels: int
    times: int = 2
    resample: Resample = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    rescale: float = 1 / 255

    def __post_init__(self) -> None:
        square = self.side**2
        if min(self.patch, self.merge, self.times) < 1 or square > MAX_PIXELS:
            raise ImageError(
                f"patches of {self.patch} pixels in squares of {self.merge}: give whole numbers "
                "above 0"
            )
        if not 1 <= self.min_pixels <= self.max_pixels or self.max_pixels < square:
            raise ImageError(
                f"min_pixels={self.min_pixels:,} and max_pixels={self.max_pixels:,}: give 1 or "
                f"more, in this order, and a max_pixels of at least {square:,}, which make a token"
            )
        self.check_pixels()

    @property
    def side(self) -> int:
        """The pixels of a side of what becomes one token."""
        return self.patch * self.merge

    @property
    def size(self) -> tuple[int, int]:
        """The (height, width) of a large square picture; others have other sizes."""
        side = min(USUAL, math.isqrt(self.max_pixels)) // self.side * self.side
        return side, side

    @property
    def most_places(self) -> int:
        """The most tokens that a picture becomes."""
        # One that is very narrow has a row of whole squares, whatever the limit.
        return max(self.max_pixels // self.side**2, MOST_SIDES)

    @property
    def decode_size(self) -> tuple[int, int]:
        edge = math.isqrt(self.max_pixels) + 1
        return edge, edge

    def resized_to(self, picture: Size) -> Size:
        """The (height, width) of a picture when it is prepared.

        Raises `ImageError` if it is too narrow.
        """
        height, width = picture
        if max(picture) > MOST_SIDES * min(picture):
            raise ImageError(
                f"{width}x{height} picture: one side is more than {MOST_SIDES} times as long as "
                "the other; crop it first"
            )
        return within_budget(picture, self.side, self.min_pixels, self.max_pixels)

    def prepare(self, image: Image.Image | Prepared, *, whole: bool = False) -> Prepared:
        """RGB `image` resized; a prepared picture is not changed.

        Nothing is ever cut off, so `whole` changes nothing. Raises `ImageError` if a picture is too
        narrow, or was prepared for another model.
        """
        if isinstance(image, Prepared):
            height, width, _ = image.pixels.shape
            if height % self.side or width % self.side or image.tiles is not None:
                raise ImageError(
                    f"the picture was prepared as {[height, width, 3]} and the model takes sides "
                    f"of a multiple of {self.side}; prepare it with the model's own processor"
                )
            return image
        return Prepared(np.asarray(self.resized(image, self.fit(image).resized)))

    def limited(self, most: int | None = None, least: int | None = None) -> "NativeProcessor":
        """With other limits of pixels; a lower one for the most lowers the fewest too."""
        most = self.max_pixels if most is None else most
        least = min(self.min_pixels, most) if least is None else least
        return dataclasses.replace(self, min_pixels=least, max_pixels=most)

    @property
    def _of_frames(self) -> "NativeProcessor":
        return self.limited(min(self.max_pixels, FRAME_PLACES * self.side**2))

    @property
    def frame_size(self) -> tuple[int, int]:
        return self._of_frames.decode_size

    def prepare_frame(self, image: Image.Image) -> Prepared:
        """A frame of a video, which becomes at most `FRAME_PLACES` tokens."""
        return self._of_frames.prepare(image)

    def view(self, image: Image.Image | Prepared) -> Image.Image:
        """The part of RGB `image` that `prepare` keeps: all of it."""
        return image.image if isinstance(image, Prepared) else image

    def fit(self, image: Image.Image) -> Fit:
        """How `image` is resized."""
        picture = image.height, image.width
        size = self.resized_to(picture)
        return stretched(picture, size, size)

    def to_config(self) -> dict[str, Any]:
        return {
            "image_processor_type": f"{CLASSES[0]}ImageProcessor",
            "size": {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels},
            "patch_size": self.patch,
            "temporal_patch_size": self.times,
            "merge_size": self.merge,
            **self.pixel_config(),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "NativeProcessor":
        """The processor that a preprocessor_config.json of Qwen describes, old or new style.

        A key that it leaves out has transformers' default. Raises `ImageError`, which names the key
        that asks for something this processor does not do.
        """
        config = _DEFAULTS | {key: value for key, value in config.items() if value is not None}
        refuse_unknown(config, _STEPS)
        least, most = _budget(config)
        return cls(
            patch=_whole(config, "patch_size"),
            merge=_whole(config, "merge_size"),
            times=_whole(config, "temporal_patch_size"),
            min_pixels=least,
            max_pixels=most,
            **pixel_fields(config),
        )


def _budget(config: Mapping[str, Any]) -> tuple[int, int]:
    """The fewest and the most pixels, as transformers reads them: old keys come first."""
    size = config.get("size", {})
    known = {"shortest_edge", "longest_edge", "min_pixels", "max_pixels"}
    if not isinstance(size, Mapping) or set(size) - known:
        raise ImageError(
            f"preprocessor config: size={quoted(size)} is not supported; it must be "
            "{shortest_edge, longest_edge}, which are numbers of pixels"
        )
    given = {
        "min_pixels": config.get("min_pixels", size.get("shortest_edge", _LEAST)),
        "max_pixels": config.get("max_pixels", size.get("longest_edge", _MOST)),
    }
    return _whole(given, "min_pixels"), _whole(given, "max_pixels")


def _whole(config: Mapping[str, Any], key: str) -> int:
    value = config[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise ImageError(f"preprocessor config: {key}={quoted(value)} must be a whole number")
    return value
