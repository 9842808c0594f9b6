"""A picture that is ready for a model: decoded, resized and cut, yet to be normalised."""

import dataclasses

import numpy as np
from jaxtyping import UInt8
from PIL import Image


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """What `ImageProcessor.prepare` makes; wherever a picture is taken, this is taken as it is.

    Attributes:
        pixels: RGB, of the size that the processor's encoder takes.
        seen: the part of the upright picture that they show: left, top, width and height as
            fractions of it; beyond its edges where black was put around it.
    """

    pixels: UInt8[np.ndarray, "height width 3"]
    seen: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def image(self) -> Image.Image:
        """The pixels as a Pillow picture."""
        return Image.fromarray(self.pixels)
