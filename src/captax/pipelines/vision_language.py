"""Captioners that are asked: vision-language models, which answer a prompt about a picture."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from captax.explain import ExplainError
from captax.generation import GenerationConfig
from captax.images import ImageProcessor, ImageSource, Prepared, TileProcessor
from captax.models.encoders import Features
from captax.models.vision_language import VisionLanguageModel
from captax.pipelines.captioner import Captioner
from captax.text import Tokenizer
from captax.text.prompt_format import PromptFormat

# Batches have one of these numbers of views, or the largest number that a picture of them has.
VIEWS = (1, 5, 9, 13, 17)
# The most tokens of an answer, if a checkpoint does not say: a few sentences.
NEW_TOKENS = 128


class VisionLanguageCaptioner(Captioner):
    """Writes captions of pictures by asking for them.

    A prompt goes through the model's `prompt_format`, unless it is `raw`; a caption is the answer
    alone. Pictures stay bytes until they are on the device.
    """

    model: VisionLanguageModel

    def __init__(
        self,
        model: VisionLanguageModel,
        processor: ImageProcessor | TileProcessor,
        tokenizer: Tokenizer,
        prompt_format: PromptFormat,
        generation: GenerationConfig | None = None,
    ):
        generation = generation or GenerationConfig()
        if generation.max_new_tokens is None and generation.max_length is None:
            generation = dataclasses.replace(generation, max_new_tokens=NEW_TOKENS)
        super().__init__(model, processor, tokenizer, generation)
        self.prompt_format = prompt_format
        self._encoded = functools.lru_cache(maxsize=256)(self._encode_prompt)

    def prepare(self, image: ImageSource) -> Prepared:
        ready = image if isinstance(image, Prepared) else self.processor.decode(image)
        return self.processor.prepare(ready)

    def places(self, picture: Prepared) -> int:
        """How many tokens stand for a prepared picture."""
        return self.model.config.places * len(picture.views)

    def explain(self, *arguments: Any, **options: Any) -> Any:
        """Vision-language models cannot be explained yet: this raises `ExplainError`."""
        raise ExplainError(
            "vision-language models cannot be explained yet; give a captioner that reads its "
            "picture by cross-attention, or GIT"
        )

    def _asked(self, prompts: Sequence[str], system: str, raw: bool) -> list[Any]:
        self._refuse_special([*prompts, system])
        return [(prompt, system, raw) for prompt in prompts]

    def _whole_prompt(self, asked: Any, picture: Prepared, config: GenerationConfig) -> list[int]:
        return self._encoded(*asked, picture.grid)

    def _encode_prompt(
        self, prompt: str, system: str, raw: bool, grid: tuple[int, int]
    ) -> list[int]:
        how = self.prompt_format
        shown = how.picture_text(self.model.config.places, grid)
        if raw:
            text = how.start + shown + prompt
        else:
            text = how.text(prompt or None, pictures=[shown], system=system or None)
        return self.tokenizer.encode_special([text])[0]

    def _spoken(self, asked: Any) -> list[int]:
        return []  # the prompt is a question

    def _inputs(self, pictures: list[Any], rows: int) -> UInt8[np.ndarray, "rows views h w 3"]:
        most = max(len(picture.views) for picture in pictures)
        count = next((size for size in VIEWS if size >= most), most)
        views = np.zeros((rows, count, *self.processor.size, 3), np.uint8)
        for row, picture in enumerate(pictures):
            views[row, : len(picture.views)] = picture.views
        return views

    def _encode(self, model: Any, inputs: Any) -> Features:
        scale, offset = self.processor.factors
        return model.encode(jnp.asarray(inputs, jnp.float32) * scale + offset)
