"""Few compiled programs for many calls: batch sizes, padding, seeds, what is kept."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from captax.generation.decoding import GenerationError
from captax.generation.loop import Prompts

# Each size has a compiled program; a smaller batch is padded to the next size.
BATCH_SIZES = (1, 8, 32)
# How many programs are kept: clients of a server may ask for any number of decoding options.
KEPT_PROGRAMS = 64


class Programs:
    """Compiled programs by what they depend on; the least recently used one goes first."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Callable[..., Any]] = {}

    def get(self, key: Hashable, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        """The program for `key`; `make` makes it if it is not kept."""
        # Taken out and put back, so that the least recently used one comes first.
        program = self._kept.pop(key, None) or make()
        self._kept[key] = program
        if len(self._kept) > KEPT_PROGRAMS:
            del self._kept[next(iter(self._kept))]
        return program


def padded(size: int, batch_size: int) -> int:
    """The number of rows that a batch of `size` is padded to."""
    return min(each for each in (*BATCH_SIZES, batch_size) if each >= size)


def seeds_of(seed: int | Sequence[int], places: Sequence[int]) -> list[tuple[int, int]]:
    """Two seeds for each input: the seed and its place, or its own of several seeds and 0."""
    if isinstance(seed, int):
        return [(seed, place) for place in places]
    if places and max(places) >= len(seed):
        raise GenerationError(
            f"there are more inputs than seeds ({len(seed)}); give one seed for each"
        )
    return [(seed[place], 0) for place in places]


def fill_prompts(
    prompts: Sequence[Sequence[int]],
    lengths: Int[np.ndarray, " real"],
    limits: Int[np.ndarray, " real"],
    rows: int,
    max_positions: int,
) -> tuple[Int[np.ndarray, "rows time"] | Prompts, int | None]:
    """Prompts for the device and, if all have one length, the number of tokens that may follow.

    Prompts of different lengths are padded to one of a few lengths, so that a handful of compiled
    programs serves all.
    """
    shortest, longest = int(lengths.min()), int(lengths.max())
    alike = shortest == longest and limits.min() == limits.max()
    capacity = int(limits.max())
    if not alike:
        bucket = 1 << (longest - 1).bit_length()
        roomy = min(bucket + capacity - longest, max_positions + 1)
        capacity = max(capacity, roomy)
        longest = min(bucket, capacity - 1)
        shortest = 1 << (shortest.bit_length() - 1)
    tokens = np.zeros((rows, longest), np.int32)
    for row in range(rows):
        prompt = prompts[min(row, len(prompts) - 1)]
        tokens[row, : len(prompt)] = prompt
    if alike:
        return tokens, capacity - longest
    fill = (0, rows - len(prompts))
    lengths, limits = (np.pad(x, fill, "edge").astype(np.int32) for x in (lengths, limits))
    return Prompts(tokens, lengths, limits, shared=shortest, capacity=capacity), None
