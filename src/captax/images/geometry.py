"""Where a picture is resized, what is then cut out of it, and what of the picture that is.

Everyone who needs to know asks here: the processor, which resizes, and whoever draws on what the
model saw. (A bundle is used without captax, so `export/bundle/caption.py` has a copy.) Sizes are
(height, width), as arrays have them; boxes are (left, top, right, bottom), as Pillow has them.
"""

import dataclasses

Size = tuple[int, int]
Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a picture comes to another size: it is resized, then a box is cut out.

    Attributes:
        picture: the size of the picture.
        resized: the size that it is resized to.
        box: what is cut out, in pixels of the resized picture. Beyond its edges there is black.
    """

    picture: Size
    resized: Size
    box: Box

    @property
    def view(self) -> Box:
        """The box in pixels of the picture itself, to the nearest pixel."""
        (height, width), (resized_height, resized_width) = self.picture, self.resized
        across, down = width / resized_width, height / resized_height
        left, top, right, bottom = self.box
        return round(left * across), round(top * down), round(right * across), round(bottom * down)

    @property
    def seen(self) -> tuple[float, float, float, float]:
        """The box as fractions of the picture: left, top, width, height."""
        height, width = self.resized
        left, top, right, bottom = self.box
        return left / width, top / height, (right - left) / width, (bottom - top) / height


def stretched(picture: Size, resized: Size, size: Size) -> Fit:
    """The centre, of this `size`, of the picture resized whatever becomes of its aspect."""
    return Fit(picture, resized, centred(resized, size))


def shortest_edge(picture: Size, edge: int, size: Size) -> Fit:
    """The centre, of this `size`, of the picture resized so that its shorter side is `edge`.

    Its aspect is kept. The longer side is rounded down, as Hugging Face does.
    """
    short = min(picture)
    resized = edge * picture[0] // short, edge * picture[1] // short
    return Fit(picture, resized, centred(resized, size))


def centred(outer: Size, size: Size) -> Box:
    """The box of this size in the middle of another, beyond whose edges it may reach.

    Half pixels are rounded down, negative ones too, which is where Hugging Face puts a picture it
    pads.
    """
    (outer_height, outer_width), (height, width) = outer, size
    left, top = (outer_width - width) // 2, (outer_height - height) // 2
    return left, top, left + width, top + height
