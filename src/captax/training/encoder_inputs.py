"""What the encoder is given for the pictures of a dataset: cached features, or fresh pixels."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from flax import struct
from jaxtyping import Float, UInt8

from captax.generation.programs import fill_prompts
from captax.images import AnyProcessor, Augment
from captax.models.encoders import VisionEncoder
from captax.models.patches import Patches
from captax.models.prompt import Prompt
from captax.pipelines.vision_language import Arrangement, VisionLanguageCaptioner
from captax.training.features import FeatureCache, augmented, augmented_pixels, cache_features


class EncoderInputs:
    """Inputs of an encoder, by a picture's place in a dataset.

    They have passed through the encoder's first `depth` parts already. Before `cache` is called, or
    after it was called without views, `depth` is 0: they are pixels.
    """

    def __init__(
        self,
        examples: Sequence[Any],
        processor: AnyProcessor,
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

    def read(self, chosen: np.ndarray, visits: np.ndarray | None = None) -> Any:
        """The inputs as each visit shows them, from 0; without visits, unaugmented."""
        if self._cache is None:
            return np.concatenate(self._load(augmented_pixels, chosen, visits))
        if visits is None:
            return self._cache.read(chosen, np.zeros_like(chosen))
        # Every picture takes its views in turn, and neighbours are not at the same one.
        return self._cache.read(chosen, (chosen + visits) % self._cache.views)

    def _load(
        self, make: Callable[..., Any], chosen: np.ndarray, visits: np.ndarray | None
    ) -> list[Any]:
        """What `make` makes of each picture."""
        views = np.zeros_like(chosen)
        if self.augment is not None and visits is not None:
            views = visits + 1

        def load(place: int, view: int) -> Any:
            return make(self.examples[place], self.processor, self.augment, self.seed, view)

        return list(self._threads.map(load, chosen.tolist(), views.tolist()))


@struct.dataclass
class Asked:
    """What a vision-language model is asked: pictures and a prompt about each.

    `pictures` are all views of each as bytes, patches if they have several sizes, or what
    `EncoderInputs` kept of a single view.
    """

    pictures: UInt8[Any, "batch views height width 3"] | Patches | Float[Any, "batch ..."]
    prompt: Prompt


class AskedInputs(EncoderInputs):
    """The same for a vision-language model, with the prompts that captions answer."""

    def __init__(
        self,
        examples: Sequence[Any],
        captioner: VisionLanguageCaptioner,
        prompts: Sequence[str],
        **how: Any,
    ):
        super().__init__(examples, captioner.processor, **how)
        self.captioner, self.asking = captioner, [captioner.asking(each) for each in prompts]

    def read(self, chosen: np.ndarray, visits: np.ndarray | None = None) -> Asked:
        if self.depth:
            pictures = super().read(chosen, visits)
            shown = [Arrangement(((0, 0),), (self.captioner.model.config.places,))] * len(chosen)
        else:
            prepared = self._load(augmented, chosen, visits)
            pictures = self.captioner.inputs(prepared, len(prepared))
            shown = [self.captioner.arrangement(picture) for picture in prepared]
        # As with views, neighbours are not at the same one.
        turns = np.zeros_like(chosen) if visits is None else (chosen + visits) % len(self.asking)
        prompts = [self.asking[turn](each) for turn, each in zip(turns, shown, strict=True)]
        most = self.captioner.model.decoder.max_positions
        return Asked(pictures, fill_prompts(prompts, len(prompts), max_positions=most))
