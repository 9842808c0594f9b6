"""A picture that is ready for a model: decoded, resized and cropped, but not normalised."""

import dataclasses

import numpy as np
from jaxtyping import UInt8
from PIL import Image


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """The result of `ImageProcessor.prepare`; methods that take a picture take it unchanged.

    Attributes:
        pixels: RGB, in the size that the encoder takes.
        seen: the part of the upright picture that the pixels show, as fractions of its size: left,
            top, width and height. It reaches beyond the picture where black was added.
    """

    pixels: UInt8[np.ndarray, "height width 3"]
    seen: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def image(self) -> Image.Image:
        """The pixels as a Pillow picture."""
        return Image.fromarray(self.pixels)
