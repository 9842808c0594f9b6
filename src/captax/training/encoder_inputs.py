"""What the encoder is given for the pictures of a dataset: cached features, or fresh pixels."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from captax.images import Augment, ImageProcessor
from captax.models.encoders import VisionEncoder
from captax.training.features import FeatureCache, augmented_pixels, cache_features


class EncoderInputs:
    """Inputs of an encoder, by a picture's place in a dataset.

    They have passed through the encoder's first `depth` parts already. Before `cache` is called, or
    after it was called without views, `depth` is 0: they are pixels.
    """

    def __init__(
        self,
        examples: Sequence[Any],
        processor: ImageProcessor,
        *,
        augment: Augment | None = None,
        seed: int = 0,
    ):
        self.examples, self.processor = examples, processor
        self.augment, self.seed = augment, seed
        self.depth = 0
        self._cache: FeatureCache | None = None
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="captax-pictures")

    def cache(
        self, folder: Path, encoder: VisionEncoder, depth: int, *, views: int | None, label: str
    ) -> None:
        """Compute the missing outputs of the encoder's first `depth` parts, for so many views."""
        self.depth, self._cache = 0, None
        if views is None or depth == 0:
            return
        self.depth = depth
        self._cache = cache_features(
            folder,
            encoder,
            depth,
            self.examples,
            self.processor,
            augment=self.augment,
            views=views,
            seed=self.seed,
            label=label,
        )

    def read(
        self, chosen: np.ndarray, visits: np.ndarray | None = None
    ) -> Float[np.ndarray, "batch ..."]:
        """The inputs as each visit shows them, from 0; without visits, unaugmented."""
        if self._cache is not None:
            if visits is None:
                return self._cache.read(chosen, np.zeros_like(chosen))
            # Every picture takes its views in turn, and neighbours are not at the same one.
            return self._cache.read(chosen, (chosen + visits) % self._cache.views)
        views = np.zeros_like(chosen)
        if self.augment is not None and visits is not None:
            views = visits + 1

        def load(place: int, view: int) -> np.ndarray:
            example = self.examples[place]
            return augmented_pixels(example, self.processor, self.augment, self.seed, view)[0]

        return np.stack(list(self._threads.map(load, chosen.tolist(), views.tolist())))
