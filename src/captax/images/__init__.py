"""Pictures: found, decoded, prepared for an encoder, changed for training, shown with captions.

Imports nothing of captax but its errors, and no JAX: data-loading workers start fast.
"""

from captax.images.augment import Augment, mentions_sides, rng_for
from captax.images.decode import MAX_PIXELS, ImageError, ImageSource, IsVideo, decode, inspect
from captax.images.find import UnusableImage, find_images, walk_images
from captax.images.kinds import (
    IMAGE_SUFFIXES,
    begins_like_picture,
    is_image_path,
    names_picture,
    names_video,
    suffix_told,
)
from captax.images.loading import AnyProcessor, load_processor
from captax.images.native import NativeProcessor
from captax.images.prepared import Group, Prepared
from captax.images.processor import ImageProcessor
from captax.images.sheet import SHEET, SheetRow, write_sheet
from captax.images.square import SquareProcessor
from captax.images.tiles import TileProcessor
from captax.images.video import FRAMES, MAX_FRAMES, CaptionSource, Video, read_video

__all__ = [
    "FRAMES",
    "IMAGE_SUFFIXES",
    "MAX_FRAMES",
    "MAX_PIXELS",
    "SHEET",
    "AnyProcessor",
    "Augment",
    "CaptionSource",
    "Group",
    "ImageError",
    "ImageProcessor",
    "ImageSource",
    "IsVideo",
    "NativeProcessor",
    "Prepared",
    "SheetRow",
    "SquareProcessor",
    "TileProcessor",
    "UnusableImage",
    "Video",
    "begins_like_picture",
    "decode",
    "find_images",
    "inspect",
    "is_image_path",
    "load_processor",
    "mentions_sides",
    "names_picture",
    "names_video",
    "read_video",
    "rng_for",
    "suffix_told",
    "walk_images",
    "write_sheet",
]
