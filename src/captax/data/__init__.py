"""Data: sources of pictures with captions, their splits, and the batches made of them."""

from captax.data.batches import (
    PackedCaptions,
    epoch_order,
    load_images,
    pack_captions,
    prefetch,
)
from captax.data.example import DataError, Example
from captax.data.mix import mix
from captax.data.sources import open
from captax.data.splits import split_by_hash

__all__ = [
    "DataError",
    "Example",
    "PackedCaptions",
    "epoch_order",
    "load_images",
    "mix",
    "open",
    "pack_captions",
    "prefetch",
    "split_by_hash",
]
