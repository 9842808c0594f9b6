"""Pictures: found, decoded, prepared for an encoder, changed for training, shown with captions.

Imports nothing of captax but its errors, and no JAX: data-loading workers start fast.
"""

from captax.images.augment import Augment, mentions_sides, rng_for
from captax.images.decode import MAX_PIXELS, ImageError, ImageSource, decode, inspect
from captax.images.find import UnusableImage, find_images, walk_images
from captax.images.kinds import (
    IMAGE_SUFFIXES,
    begins_like_picture,
    is_image_path,
    names_picture,
    suffix_told,
)
from captax.images.loading import AnyProcessor, load_processor
from captax.images.native import NativeProcessor
from captax.images.prepared import Prepared
from captax.images.processor import ImageProcessor
from captax.images.sheet import SHEET, SheetRow, write_sheet
from captax.images.square import SquareProcessor
from captax.images.tiles import TileProcessor

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "SHEET",
    "AnyProcessor",
    "Augment",
    "ImageError",
    "ImageProcessor",
    "ImageSource",
    "NativeProcessor",
    "Prepared",
    "SheetRow",
    "SquareProcessor",
    "TileProcessor",
    "UnusableImage",
    "begins_like_picture",
    "decode",
    "find_images",
    "inspect",
    "is_image_path",
    "load_processor",
    "mentions_sides",
    "names_picture",
    "rng_for",
    "suffix_told",
    "walk_images",
    "write_sheet",
]
