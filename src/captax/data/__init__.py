"""Data: sources of pictures with captions, their splits, and the batches made of them.

Also pictures with labels (`open_labelled`) and texts with texts (`open_pairs`).
"""

from captax.data.batches import (
    PackedCaptions,
    batched,
    epoch_order,
    epoch_size,
    filled,
    load_images,
    map_ahead,
    pack_captions,
    prefetch,
)
from captax.data.example import DataError, Example
from captax.data.labelled import LabelledExample, class_names, open_labelled
from captax.data.mix import mix
from captax.data.pairs import Pair, open_pairs
from captax.data.sources import check_place, open
from captax.data.splits import split_by_hash, take_rows

__all__ = [
    "DataError",
    "Example",
    "LabelledExample",
    "PackedCaptions",
    "Pair",
    "batched",
    "check_place",
    "class_names",
    "epoch_order",
    "epoch_size",
    "filled",
    "load_images",
    "map_ahead",
    "mix",
    "open",
    "open_labelled",
    "open_pairs",
    "pack_captions",
    "prefetch",
    "split_by_hash",
    "take_rows",
]
