"""Captioners that are shown every picture at its own size."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from captax.generation import GenerationConfig
from captax.generation.programs import Shown
from captax.images import NativeProcessor, Prepared
from captax.models.encoders import Features
from captax.models.patches import Patches, in_squares
from captax.pipelines.vision_language import VisionLanguageCaptioner

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

    def places(self, picture: Prepared) -> int:
        height, width, _ = picture.pixels.shape
        return height * width // self.processor.side**2

    def arrangement(self, picture: Prepared) -> tuple[tuple[int, int], int]:
        return (0, 0), self.places(picture)

    @property
    def largest(self) -> tuple[tuple[int, int], int]:
        return (0, 0), self.processor.most_places

    def _whole_prompt(self, asked: Any, picture: Prepared, config: GenerationConfig) -> list[int]:
        places = self.places(picture)
        return Shown(super()._whole_prompt(asked, picture, config), places, self._room(places))

    def inputs(self, pictures: Sequence[Prepared], rows: int) -> Patches:  # type: ignore[override]
        patch, merge = self.processor.patch, self.processor.merge
        room = self._room(max(map(self.places, pictures))) * merge**2
        values = np.zeros((rows, room, 3 * patch**2), np.uint8)
        grids = np.full((rows, 2), merge, np.int32)
        for row, picture in enumerate(pictures):
            cut = in_squares(picture.pixels, patch, merge)
            values[row, : len(cut)] = cut
            grids[row] = np.array(picture.pixels.shape[:2]) // patch
        return Patches(values, grids)

    def encode(self, model: Any, inputs: Patches) -> Features:
        scale, offset = (np.tile(each, self.processor.patch**2) for each in self.processor.factors)
        values = jnp.asarray(inputs.values, jnp.float32) * scale + offset
        return model.encode(Patches(values, inputs.grids))

    def _room(self, places: int) -> int:
        """The number of tokens that pictures of so many are filled up to."""
        most = self.processor.most_places
        room = max(ROOM, 1 << (places - 1).bit_length())
        return min(room, most) if places <= most else room
