"""Captioners that are asked: vision-language models, which answer a prompt about a picture."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from captax.checkpoints.directory import CONFIG, read_json
from captax.errors import CheckpointError, OptionError, quoted
from captax.generation import GenerationConfig
from captax.generation.programs import Begun
from captax.generation.result import Generated
from captax.images import AnyProcessor, ImageSource, Prepared
from captax.images.processor import PROCESSOR
from captax.models.encoders import Features, check_positions
from captax.models.vision_language import VisionLanguageModel
from captax.pipelines.captioner import Captioner
from captax.text import Tokenizer
from captax.text.prompt_format import PromptFormat
from captax.text.styles import Styles, styles_of

# How many tokens a view takes, as transformers' processors are told.
PLACES = "image_seq_len"
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
    measurable = False

    def __init__(
        self,
        model: VisionLanguageModel,
        processor: AnyProcessor,
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

    def arrangement(self, picture: Prepared) -> tuple[tuple[int, int], int]:
        """The grid of a prepared picture's tiles, and how many tokens stand for a view of it."""
        return picture.grid, self.model.config.places

    @property
    def largest(self) -> tuple[tuple[int, int], int]:
        """The arrangement of the picture that takes the most tokens."""
        return self.processor.most_tiles, self.model.config.places

    @property
    def cost(self) -> str:
        """How many tokens a picture takes, in a sentence that may go on as text for a user."""
        view, views = self.model.config.places, self.processor.most_views
        if views == 1:
            return f"a picture takes {view:,} tokens of the prompt"
        return (
            f"a picture takes up to {view * views:,} tokens of the prompt ({views} views of "
            f"{view}); `image_splitting=False` makes it {view}"
        )

    @functools.cached_property
    def styles(self) -> Styles:
        """Prompts by name: those that the model was taught, or else plain requests."""
        return styles_of(self.prompt_format.styles)

    def asking(self, prompt: str = "") -> Callable[..., list[int]]:
        """All tokens of a prompt in the model's format, by the `arrangement` of a picture.

        Where a view always takes as many tokens, the grid of its tiles is enough.

        Raises `GenerationError` if the prompt contains a token that is no text.
        """
        [asked] = self._asked([prompt], system="", raw=False)
        return asked

    def check_prompt(self, prompt: Sequence[int]) -> None:
        """Raise `LengthError` if a whole prompt is longer than the model can read."""
        if isinstance(prompt, Begun):
            check_positions(len(prompt.question), prompt.room)
        else:
            check_positions(len(prompt) + 1, self._max_positions)

    def spell(self, texts: Sequence[str]) -> list[list[int]]:
        reply = self.prompt_format.reply
        return super().spell([f"{reply}{text.strip()}" for text in texts])

    def with_model(self, model: Any) -> "VisionLanguageCaptioner":
        parts = self.processor, self.tokenizer, self.prompt_format, self.generation
        return type(self)(model, *parts)

    def _said(
        self, captions: Sequence[str | Generated], prompt: str, config: GenerationConfig
    ) -> list[list[int]]:
        return super()._said(captions, "", config)  # the prompt is no part of them

    def _asked(self, prompts: Sequence[str], system: str, raw: bool) -> list[Any]:
        self._refuse_special([*prompts, system])
        return [functools.partial(self._encoded, prompt, system, raw) for prompt in prompts]

    def _whole_prompt(self, asked: Any, picture: Prepared, config: GenerationConfig) -> list[int]:
        return asked(*self.arrangement(picture))

    def _encode_prompt(
        self, prompt: str, system: str, raw: bool, grid: tuple[int, int], places: int | None = None
    ) -> list[int]:
        how, (rows, columns) = self.prompt_format, grid
        if how.tiles is not None and rows:
            last = how.tiles.cell.format(row=rows, column=columns)
            if self.tokenizer.special_ids.isdisjoint(self.tokenizer.encode_special([last])[0]):
                raise OptionError(
                    f"a picture of {rows} x {columns} tiles: the tokenizer has no {last}; give a "
                    "smaller `image_size`"
                )
        shown = how.picture_text(places or self.model.config.places, grid)
        if raw:
            text = how.start + shown + prompt
        else:
            text = how.text(prompt or None, pictures=[shown], system=system or None)
        return self.tokenizer.encode_special([text])[0]

    def _spoken(self, asked: Any) -> list[int]:
        return []  # the prompt is a question

    def inputs(self, pictures: Sequence[Any], rows: int) -> UInt8[np.ndarray, "rows views h w 3"]:
        most = max(len(picture.views) for picture in pictures)
        count = next((size for size in VIEWS if size >= most), most)
        views = np.zeros((rows, count, *self.processor.size, 3), np.uint8)
        for row, picture in enumerate(pictures):
            views[row, : len(picture.views)] = picture.views
        return views

    def encode(self, model: Any, inputs: Any) -> Features:
        scale, offset = self.processor.factors
        return model.encode(jnp.asarray(inputs, jnp.float32) * scale + offset)

    def _save_processor(self, folder: Path) -> None:
        super()._save_processor(folder)
        if self.prompt_format.tiles is not None:
            contents = json.dumps({PLACES: self.model.config.places}, indent=2)
            (folder / PROCESSOR).write_text(contents + "\n")


def check_places(directory: Path, places: int) -> None:
    """Raise `CheckpointError` if a checkpoint says that a view takes another number of tokens."""
    path = directory / PROCESSOR
    said = read_json(path).get(PLACES) if path.is_file() else None
    if said is not None and said != places:
        raise CheckpointError(
            f"{path}: {PLACES}={quoted(said)}, and the model of {CONFIG} makes {places} tokens of "
            "a view; the files are of different checkpoints, so download them again"
        )
