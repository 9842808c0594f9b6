"""Prepares pictures as tiles and a whole view, for encoders of small squares.

Laurençon et al., *Building and better understanding vision-language models*
(https://arxiv.org/abs/2408.12637), section 2.2. The pixels are those of transformers'
`Idefics3ImageProcessor` and `SmolVLMImageProcessor`, resized by Pillow.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from captax.errors import quoted
from captax.images import geometry
from captax.images.decode import ImageError
from captax.images.geometry import Fit, Size, stretched
from captax.images.prepared import Prepared
from captax.images.processor import (
    Processor,
    Resample,
    checked,
    pixel_fields,
    refuse_unknown,
)

CLASSES = ("Idefics3", "SmolVLM")
MOST = 4096  # no side is resized to more, whatever a config says
MOST_TILES = 32  # along a side; checkpoints have markers for 6
_STEPS = {
    "do_convert_rgb",
    "do_resize",
    "do_rescale",
    "do_normalize",
    "do_image_splitting",
    "do_pad",  # only fills batches up with black views
}
_DEFAULTS: dict[str, Any] = {
    "size": {"longest_edge": 4 * 364},
    "max_image_size": {"longest_edge": 364},
    "resample": 1,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


@dataclasses.dataclass(frozen=True)
class TileProcessor(Processor):
    """Pictures to views of `side` x `side` pixels.

    A picture is resized so that its longer side is `longest_edge` and its aspect ratio stays, then
    stretched to whole tiles. The last view is the whole picture. If `split` is false, it is the
    only one, as for pictures that fit one tile.
    """

    side: int
    longest_edge: int
    split: bool = True
    resample: Resample = "lanczos"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    rescale: float = 1 / 255

    def __post_init__(self) -> None:
        if not 1 <= self.side <= MOST or self.longest_edge < 1:
            raise ImageError(
                f"tiles of {self.side} pixels from a longest edge of {self.longest_edge}: give "
                f"tiles of 1 to {MOST} pixels and an edge of at least 1"
            )
        if self.split and min(self.longest_edge, MOST) > MOST_TILES * self.side:
            raise ImageError(
                f"tiles of {self.side} pixels from a longest edge of {self.longest_edge}: that is "
                f"more than {MOST_TILES} tiles along a side; give larger tiles or a shorter edge"
            )
        self.check_pixels()

    @property
    def size(self) -> tuple[int, int]:
        """The (height, width) of each view."""
        return self.side, self.side

    @property
    def decode_size(self) -> tuple[int, int]:
        edge = min(self.longest_edge, MOST)
        return edge, edge

    @property
    def most_tiles(self) -> Size:
        return self.grid(self.decode_size)  # no aspect ratio has more than a square

    def grid(self, picture: Size) -> tuple[int, int]:
        """The rows and columns of tiles of a picture of this (height, width); (0, 0) for none."""
        if not self.split:
            return 0, 0
        rows, columns = geometry.tiles(self._resized(picture), self.side)
        return (rows, columns) if rows * columns > 1 else (0, 0)

    def prepare(self, image: Image.Image | Prepared, *, whole: bool = False) -> Prepared:
        """RGB `image` as tiles and a whole view; a prepared picture is not changed.

        Nothing is ever cut off, so `whole` changes nothing. Raises `ImageError` if a picture was
        prepared for another size.
        """
        if isinstance(image, Prepared):
            return checked(image, self.size)
        picture = image.height, image.width
        rows, columns = self.grid(picture)
        resized = self.resized(image, self._resized(picture))
        if not rows:
            return Prepared(np.asarray(self.resized(resized, self.size)))
        side = self.side
        resized = self.resized(resized, (rows * side, columns * side))
        return Prepared(
            np.asarray(self.resized(resized, self.size)),
            tiles=cut(np.asarray(resized), (rows, columns)),
            grid=(rows, columns),
        )

    @property
    def frame_size(self) -> tuple[int, int]:
        return self.size

    def prepare_frame(self, image: Image.Image) -> Prepared:
        """A frame of a video, which has no tiles, and is resized to one first."""
        whole = dataclasses.replace(
            self, longest_edge=min(self.side, self.longest_edge), split=False
        )
        return whole.prepare(image)

    def view(self, image: Image.Image | Prepared) -> Image.Image:
        """The part of RGB `image` that `prepare` keeps: all of it."""
        return image.image if isinstance(image, Prepared) else image

    def fit(self, image: Image.Image) -> Fit:
        """Where the whole view has `image`."""
        return stretched((image.height, image.width), self.size, self.size)

    def _resized(self, picture: Size) -> Size:
        return geometry.longest_edge(picture, self.longest_edge, MOST)

    def to_config(self) -> dict[str, Any]:
        return {
            "image_processor_type": f"{CLASSES[0]}ImageProcessor",
            "size": {"longest_edge": self.longest_edge},
            "max_image_size": {"longest_edge": self.side},
            "do_image_splitting": self.split,
            "do_pad": True,
            **self.pixel_config(),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "TileProcessor":
        """The processor that a preprocessor_config.json of Idefics3 or SmolVLM describes.

        A key that it leaves out has transformers' default. Raises `ImageError`, which names the key
        that asks for something this processor does not do.
        """
        config = _DEFAULTS | {key: value for key, value in config.items() if value is not None}
        refuse_unknown(config, _STEPS)
        return cls(
            side=_edge(config, "max_image_size"),
            longest_edge=_edge(config, "size"),
            split=bool(config.get("do_image_splitting", True)),
            **pixel_fields(config),
        )


def cut(
    picture: UInt8[np.ndarray, "height width 3"], grid: Size
) -> UInt8[np.ndarray, "tiles side_1 side_2 3"]:
    """A picture as tiles, in row order."""
    (rows, columns), (height, width) = grid, picture.shape[:2]
    tiles = picture.reshape(rows, height // rows, columns, width // columns, 3).swapaxes(1, 2)
    return tiles.reshape(rows * columns, *tiles.shape[2:])


def joined(
    tiles: UInt8[np.ndarray, "tiles side_1 side_2 3"], grid: Size
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture that was `cut`."""
    (rows, columns), (height, width) = grid, tiles.shape[1:3]
    parts = tiles.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return parts.reshape(rows * height, columns * width, 3)


def _edge(config: Mapping[str, Any], key: str) -> int:
    match config[key]:
        case {"longest_edge": int() as edge, **rest} if not rest and not isinstance(edge, bool):
            return edge
    raise ImageError(
        f"preprocessor config: {key}={quoted(config[key])} is not supported; it must be "
        "{longest_edge} with a whole number"
    )
