"""The size that a picture is resized to, and the box that is then cut out of it.

The processor resizes by it, and what is drawn on the picture is placed by it. Exports are used
without captax, so `export/bundle/caption.py` has a copy. Sizes are
(height, width), as arrays have them; boxes are (left, top, right, bottom), as Pillow has them.
"""

import dataclasses
import math

Size = tuple[int, int]
Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a picture is brought to another size: it is resized, then a box is cut out.

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
    """Resize to `resized`, whatever the aspect ratio, and cut out the centre of `size`."""
    return Fit(picture, resized, centred(resized, size))


def shortest_edge(picture: Size, edge: int, size: Size) -> Fit:
    """Resize so that the shorter side is `edge`, and cut out the centre of `size`.

    The aspect ratio stays. The longer side is rounded down, as transformers does.
    """
    short = min(picture)
    resized = edge * picture[0] // short, edge * picture[1] // short
    return Fit(picture, resized, centred(resized, size))


def longest_edge(picture: Size, edge: int, most: int) -> Size:
    """The size of `picture` when its longer side is `edge`, and then at most `most`.

    The shorter side is rounded down, then up to an even number unless `most` is what limits it, as
    transformers does for Idefics3.
    """
    height, width = picture
    aspect = width / height
    if width >= height:
        width, height = edge, int(edge / aspect)
        height += height % 2
    else:
        height, width = edge, int(edge * aspect)
        width += width % 2
    height, width = max(height, 1), max(width, 1)
    aspect = width / height
    if width >= height and width > most:
        width, height = most, int(most / aspect)
    elif height > width and height > most:
        height, width = most, int(most * aspect)
    return max(height, 1), max(width, 1)


def within_budget(picture: Size, side: int, least: int, most: int) -> Size:
    """The size of `picture` in whole squares of `side`, of `least` to `most` pixels in all.

    It is rounded to the nearest squares. If these are too many or too few pixels, the picture is
    reduced or enlarged to the limit, and rounded down or up, as transformers does for Qwen.
    """
    height, width = picture
    rounded = round(height / side) * side, round(width / side) * side
    if math.prod(rounded) > most:
        factor = math.sqrt(height * width / most)
        rows, columns = (max(1, math.floor(edge / factor / side)) for edge in picture)
    elif math.prod(rounded) < least:
        factor = math.sqrt(least / (height * width))
        rows, columns = (math.ceil(edge * factor / side) for edge in picture)
    else:
        return rounded
    return rows * side, columns * side


def tiles(picture: Size, side: int) -> Size:
    """How many rows and columns of square tiles `picture` is stretched to, as for Idefics3."""
    height, width = picture
    aspect = width / height
    if width >= height:
        columns = math.ceil(width / side)
        rows = math.ceil(int(columns * side / aspect) / side)
    else:
        rows = math.ceil(height / side)
        columns = math.ceil(int(rows * side * aspect) / side)
    return max(rows, 1), max(columns, 1)


def centred(outer: Size, size: Size) -> Box:
    """The box of `size` in the middle of `outer`; it may reach beyond the edges.

    Half pixels are rounded down, negative ones too; transformers pads at the same place.
    """
    (outer_height, outer_width), (height, width) = outer, size
    left, top = (outer_width - width) // 2, (outer_height - height) // 2
    return left, top, left + width, top + height
