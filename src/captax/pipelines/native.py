"""Captioners that are shown every picture at its own size, and videos in pairs of frames."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from captax.generation import GenerationConfig
from captax.generation.programs import Filled
from captax.images import Group, NativeProcessor, Prepared
from captax.models.encoders import Features
from captax.models.patches import Patches, in_squares
from captax.pipelines.vision_language import (
    Arrangement,
    Shown,
    VisionLanguageCaptioner,
    padded_views,
    pictures_of,
)

# The fewest tokens that a picture is filled up to; beyond it, to a power of two.
ROOM = 64


class NativeCaptioner(VisionLanguageCaptioner):
    """Asks a model that takes a token for every square of a picture, of whatever size.

    The pictures of a batch are filled up to one of a few numbers of tokens, and their prompts to as
    many places for them, so that a folder of pictures of many sizes needs few programs.
    """

    processor: NativeProcessor

    @property
    def cost(self) -> str:
        side, most = self.processor.side, self.processor.max_pixels
        return (
            f"a picture takes a token of the prompt for {side} x {side} pixels, up to "
            f"{most // side**2:,} tokens; `max_pixels={most // 4}` makes it a quarter"
        )

    def places(self, picture: Shown) -> int:
        return sum(self.arrangement(picture).places)

    def arrangement(self, picture: Shown) -> Arrangement:
        """The tokens of each picture or, of a video, of each `times` frames at their mean time."""
        squares = [self._squares(each) for each in pictures_of(picture)]
        if not isinstance(picture, Group) or picture.times is None:
            return Arrangement(((0, 0),) * len(squares), tuple(squares))
        step = self.processor.times
        times = list(picture.times)
        times += times[-1:] * (-len(times) % step)  # as the last frame is repeated
        middle = [(times[i] + times[i + step - 1]) / 2 for i in range(0, len(times), step)]
        count = len(middle)
        places = tuple(squares[::step])
        return Arrangement(((0, 0),) * count, places, tuple(middle), picture.duration)

    def shape(self, picture: Shown) -> Any:
        if not isinstance(picture, Group):
            return None
        return picture.is_video, padded_views(len(self.arrangement(picture).places))

    @property
    def largest(self) -> Arrangement:
        return Arrangement(((0, 0),), (self.processor.most_places,))

    def _whole_prompt(self, asked: Any, picture: Shown, config: GenerationConfig) -> list[int]:
        shown = self.arrangement(picture)
        places = sum(shown.places)
        return Filled(asked(shown), places, self._room(places, len(shown.places)))

    def inputs(self, pictures: Sequence[Shown], rows: int) -> Patches:  # type: ignore[override]
        shown = [self._cut(each) for each in pictures]
        merge = self.processor.merge
        room = max(len(values) for each in shown for values, _ in each) // merge**2
        room = self._room(room) * merge**2
        most = max(map(len, shown))
        several = any(isinstance(each, Group) for each in pictures)
        count = padded_views(most) if several else 1
        values = np.zeros((rows, count, room, shown[0][0][0].shape[1]), np.uint8)
        grids = np.full((rows, count, 2), merge, np.int32)
        starts = np.zeros((rows, count), np.int32)
        for row, (each, cuts) in enumerate(zip(pictures, shown, strict=True)):
            for place, (cut, grid) in enumerate(cuts):
                values[row, place, : len(cut)] = cut
                grids[row, place] = grid
            starts[row, : len(cuts)] = self._starts(each, len(cuts))
        if not several:
            return Patches(values[:, 0], grids[:, 0])
        return Patches(values, grids, starts)

    def _cut(self, picture: Shown) -> list[tuple[np.ndarray, tuple[int, int]]]:
        """The patches and the grid of each picture, or of each `times` frames of a video."""
        patch, merge, pictures = self.processor.patch, self.processor.merge, pictures_of(picture)
        cuts = [in_squares(each.pixels, patch, merge) for each in pictures]
        rows = [(each.pixels.shape[0] // patch, each.pixels.shape[1] // patch) for each in pictures]
        if isinstance(picture, Group) and picture.is_video:
            step = self.processor.times
            cuts += cuts[-1:] * (-len(cuts) % step)
            cuts = [np.concatenate(cuts[i : i + step], axis=1) for i in range(0, len(cuts), step)]
            rows = rows[::step]
        return list(zip(cuts, rows, strict=True))

    def _starts(self, picture: Shown, count: int) -> list[int]:
        """The position in time of each part of what is shown, from the first."""
        rate = getattr(self.model.config.vision_config, "tokens_per_second", 0)
        if not isinstance(picture, Group) or picture.times is None or len(picture.times) < 2:
            return [0] * count
        between = (picture.times[-1] - picture.times[0]) / (len(picture.times) - 1)
        step = rate * self.processor.times * between
        return [int(round(index * step, 6)) for index in range(count)]

    def _squares(self, picture: Prepared) -> int:
        """How many tokens one picture becomes."""
        height, width, _ = picture.pixels.shape
        return height * width // self.processor.side**2

    def encode(self, model: Any, inputs: Patches) -> Features:
        pixels = inputs.values.shape[-1] // 3
        scale, offset = (np.tile(each, pixels) for each in self.processor.factors)
        values = jnp.asarray(inputs.values, jnp.float32) * scale + offset
        return model.encode(dataclasses.replace(inputs, values=values))

    def _room(self, places: int, count: int = 1) -> int:
        """The number of tokens that `count` pictures of so many in all are filled up to."""
        most = self.processor.most_places * count
        room = max(ROOM, 1 << (places - 1).bit_length())
        return min(room, most) if places <= most else room
