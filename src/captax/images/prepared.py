"""Pictures that are ready for a model: decoded, resized and cropped, but not normalised."""

import dataclasses

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Seen = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """The result of a processor's `prepare`; methods that take a picture take it unchanged.

    Attributes:
        pixels: RGB, in the size that the encoder takes.
        seen: the part of the upright picture that the pixels show, as fractions of its size: left,
            top, width and height. It reaches beyond the picture where black was added.
        tiles: more views of the same size, in row order, which together show the whole picture
            larger; None if there are none.
        grid: the rows and columns of the tiles; (0, 0) if there are none.
    """

    pixels: UInt8[np.ndarray, "height width 3"]
    seen: Seen = (0.0, 0.0, 1.0, 1.0)
    tiles: UInt8[np.ndarray, "tiles height width 3"] | None = None
    grid: tuple[int, int] = (0, 0)

    @property
    def views(self) -> UInt8[np.ndarray, "views height width 3"]:
        """The tiles, then the pixels."""
        whole = self.pixels[None]
        return whole if self.tiles is None else np.concatenate([self.tiles, whole])

    @property
    def boxes(self) -> tuple[Seen, ...]:
        """The part of the picture that each of the views shows, as `seen` has it."""
        rows, columns = self.grid
        width, height = 1 / max(columns, 1), 1 / max(rows, 1)
        tiles = [
            (column * width, row * height, width, height)
            for row in range(rows)
            for column in range(columns)
        ]
        return (*tiles, self.seen)

    @property
    def image(self) -> Image.Image:
        """The pixels as a Pillow picture."""
        return Image.fromarray(self.pixels)


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Prepared pictures that are shown together: several in one prompt, or frames of a video.

    `times` are the seconds of each frame, and `duration` those of the whole video; without `times`,
    the pictures are no video.
    """

    pictures: tuple[Prepared, ...]
    times: tuple[float, ...] | None = None
    duration: float = 0.0

    @property
    def is_video(self) -> bool:
        """Whether the pictures are frames of a video."""
        return self.times is not None
