"""Pictures in which nothing can be seen, to measure others from."""

import dataclasses

import numpy as np
from PIL import Image, ImageFilter

from captax.images import Prepared
from captax.images.tiles import cut, joined

HIDE = ("mean", "blur")


def hidden_picture(image: Image.Image, hide: str) -> Image.Image:
    """The RGB picture with everything hidden: filled with its mean colour, or blurred."""
    if hide == "blur":
        return image.filter(ImageFilter.GaussianBlur(max(image.size) / 8))
    colour = np.asarray(image).reshape(-1, 3).mean(0).round().astype(int)
    return Image.new("RGB", image.size, tuple(map(int, colour)))


def hidden(shown: Prepared, hide: str) -> Prepared:
    """The picture with everything hidden, in the same views."""
    whole = np.asarray(hidden_picture(shown.image, hide))
    if shown.tiles is None:
        return Prepared(whole)
    large = hidden_picture(Image.fromarray(joined(shown.tiles, shown.grid)), hide)
    tiles = cut(np.asarray(large), shown.grid)
    return dataclasses.replace(shown, pixels=whole, tiles=tiles)
