"""Which processor a checkpoint directory asks for."""

from pathlib import Path

from captax.images import native, tiles
from captax.images.native import NativeProcessor
from captax.images.processor import ImageProcessor, described, named_class
from captax.images.tiles import TileProcessor

# Whatever prepares pictures.
AnyProcessor = ImageProcessor | TileProcessor | NativeProcessor


def load_processor(directory: str | Path) -> AnyProcessor:
    """Read the processor of a checkpoint directory, of the kind that its class asks for.

    Raises:
        ImageError: no file has it, or it asks for what captax's processors do not do.
    """
    _, config = described(directory)
    if (name := named_class(config)) in tiles.CLASSES:
        return TileProcessor.load(directory)
    if name in native.CLASSES:
        return NativeProcessor.load(directory)
    return ImageProcessor.load(directory)
