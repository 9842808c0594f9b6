"""Pictures that look the same: resized, recompressed or slightly retouched copies."""

import numpy as np
from PIL import Image

BITS = 64
_SIDE = 32  # pictures are reduced to this size
_KEPT = 8  # frequencies that are kept in each direction
_PLAIN = 4  # the most greys, of 255, between which a plain picture varies

_cosines = np.cos(np.pi * np.outer(np.arange(_KEPT), 2 * np.arange(_SIDE) + 1) / (2 * _SIDE))


def fingerprint(image: Image.Image) -> int | None:
    """A perceptual hash of 64 bits. Copies share nearly all bits, other pictures about half.

    The result is None for a plain picture, because all plain pictures would look the same.

    Each bit says whether one of the lowest 8 x 8 frequencies (DCT-II) of the picture, grey and
    32 x 32, is above their median: the pHash of Zauner, "Implementation and Benchmarking of
    Perceptual Image Hash Functions", 2010.
    """
    small = np.asarray(
        image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), np.float64
    )
    if np.ptp(small) <= _PLAIN:
        return None
    frequencies = (_cosines @ small @ _cosines.T).ravel()
    bits = frequencies > np.median(frequencies)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


class Fingerprints:
    """The fingerprints so far, each with the name of its picture. A search compares with all.

    A million fingerprints take 8 MB, and a search among them takes about a millisecond.
    """

    def __init__(self, distance: int):
        self.distance = distance
        self._fingerprints = np.zeros(1024, np.uint64)
        self._names: list[str] = []

    def add(self, fingerprint: int, name: str) -> None:
        """Add a picture."""
        count = len(self._names)
        if count == len(self._fingerprints):
            self._fingerprints = np.resize(self._fingerprints, 2 * count)
        self._fingerprints[count] = fingerprint
        self._names.append(name)

    def forget(self, name: str) -> None:
        """Take out a picture, if it is there."""
        if name in self._names:
            place = self._names.index(name)
            del self._names[place]
            self._fingerprints = np.append(np.delete(self._fingerprints, place), np.uint64(0))

    def like(self, fingerprint: int) -> str | None:
        """The first picture whose fingerprint differs in at most `distance` bits, or None."""
        known = self._fingerprints[: len(self._names)]
        near = np.bitwise_count(known ^ np.uint64(fingerprint)) <= self.distance
        return self._names[int(near.argmax())] if near.any() else None
