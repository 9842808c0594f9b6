"""Prepares pictures for taggers: the whole picture on a white square."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from PIL import Image

from captax.errors import quoted
from captax.images.decode import ImageError
from captax.images.geometry import centred
from captax.images.prepared import Prepared
from captax.images.processor import Processor, Resample, checked

_WHITE = (255, 255, 255)
_MOST_SIDE = 2048  # of what models take
_LONG = 2**13  # sides that are twice as long are reduced first
_STRIP = 2**24  # pixels that are widened at a time


@dataclasses.dataclass(frozen=True)
class SquareProcessor(Processor):
    """Pictures to a square of `side` pixels, without cutting anything off.

    A picture is put in the middle of a white square, which is resized to `resize_to`, by default
    `side`, of which the middle is taken. This is what WD taggers were trained with.
    """

    side: int
    resize_to: int | None = None
    resample: Resample = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    rescale: float = 1 / 255

    def __post_init__(self) -> None:
        if self.resize_to is None:
            object.__setattr__(self, "resize_to", self.side)
        if not 1 <= self.side <= self._edge <= _MOST_SIDE:
            raise ImageError(
                f"side {self.side}, resized to {self.resize_to}: give 1 to {_MOST_SIDE} pixels, "
                "and resize to no fewer than the side"
            )
        self.check_pixels()

    @property
    def _edge(self) -> int:
        assert self.resize_to is not None
        return self.resize_to

    @property
    def decode_size(self) -> tuple[int, int]:
        return self._edge, self._edge

    def prepare(self, image: Image.Image | Prepared) -> Prepared:
        """RGB `image` on a white square of the model's size; a prepared picture is not changed.

        Raises `ImageError` if a picture was prepared for another size.
        """
        if isinstance(image, Prepared):
            return checked(image, (self.side, self.side))
        edge, across = self._edge, max(image.size)
        picture = _on_square(image, edge, Image.Resampling[self.resample.upper()])
        box = centred((edge, edge), (self.side, self.side))
        # The part of the square that is shown, then where that lies on the picture.
        left, top = ((across - side) / 2 for side in image.size)
        begin, part = box[0] / edge * across, self.side / edge * across
        width, height = image.size
        seen = (begin - left) / width, (begin - top) / height, part / width, part / height
        return Prepared(np.asarray(picture.crop(box)), seen)

    @classmethod
    def from_timm(cls, config: Mapping[str, Any]) -> "SquareProcessor":
        """The processor that a timm config's `pretrained_cfg` describes.

        Raises `ImageError`, which names the key that asks for something else.
        """
        told = config.get("pretrained_cfg") or {}
        if not isinstance(told, Mapping):
            raise ImageError(f"pretrained_cfg={quoted(told)} must be an object")
        match told.get("input_size"):
            case [3, int() as height, int() as width] if height == width and height > 0:
                side = height
            case size:
                raise ImageError(
                    f"pretrained_cfg: input_size={quoted(size)} must be [3, side, side]"
                )
        part = told.get("crop_pct", 1.0)
        if not isinstance(part, int | float) or not 0.1 <= part <= 1:
            raise ImageError(f"pretrained_cfg: crop_pct={quoted(part)} must be 0.1 to 1")
        resample: Any = told.get("interpolation", "bicubic")
        if resample not in get_args(Resample):
            raise ImageError(
                f"pretrained_cfg: interpolation={quoted(resample)} must be one of "
                f"{', '.join(get_args(Resample))}"
            )
        return cls(
            side,
            math.floor(side / part),
            resample=resample,
            mean=_three(told, "mean"),
            std=_three(told, "std"),
        )

    def to_config(self) -> dict[str, Any]:
        return {
            "input_size": [3, self.side, self.side],
            "interpolation": self.resample,
            "crop_pct": self.side / self._edge,
            "crop_mode": "center",
            "mean": list(self.mean),
            "std": list(self.std),
        }


def _three(told: Mapping[str, Any], key: str) -> tuple[float, float, float]:
    match told.get(key):
        case [int() | float() as red, int() | float() as green, int() | float() as blue] if all(
            abs(each) < 1e9 for each in (red, green, blue)
        ):
            return float(red), float(green), float(blue)
    raise ImageError(f"pretrained_cfg: {key}={quoted(told.get(key))} must be three numbers")


def _on_square(image: Image.Image, side: int, resample: Image.Resampling) -> Image.Image:
    """`image` in the middle of a white square that is resized to `side`.

    The square of a long picture would take much memory, so it is never made: a resize is one of all
    rows and then one of all columns, and rows are resized strip by strip. The pixels are the same.
    """
    if (factor := max(image.size) // max(_LONG, 2 * side)) > 1:
        image = image.reduce(factor)
    width, height = image.size
    across = max(width, height)
    left, top = (across - width) // 2, (across - height) // 2
    tall = Image.new("RGB", (side, across), _WHITE)
    rows = max(1, _STRIP // across)
    for first in range(0, height, rows):
        last = min(height, first + rows)
        strip = Image.new("RGB", (across, last - first), _WHITE)
        strip.paste(image.crop((0, first, width, last)), (left, 0))
        tall.paste(strip.resize((side, last - first), resample), (0, top + first))
    return tall.resize((side, side), resample)
