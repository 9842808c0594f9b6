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
from captax.images import AnyProcessor, CaptionSource, Group, Prepared, Video
from captax.images.processor import PROCESSOR
from captax.models.encoders import Features, check_positions
from captax.models.vision_language import VisionLanguageModel
from captax.pipelines.captioner import Captioner
from captax.text import Tokenizer
from captax.text.languages import language_of
from captax.text.prompt_format import PromptFormat
from captax.text.styles import Styles, styles_of

# How many tokens a view takes, as transformers' processors are told.
PLACES = "image_seq_len"
# Batches have one of these numbers of views, or the largest number that a picture of them has.
VIEWS = (1, 5, 9, 13, 17)
# Beyond these, the numbers of views of several pictures are multiples of this.
VIEWS_STEP = 8
# The most tokens of an answer, if a checkpoint does not say: a few sentences.
NEW_TOKENS = 128


Shown = Prepared | Group


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """What a prompt must know of the pictures that it shows; each field has one entry for each.

    Attributes:
        grids: the rows and columns of its tiles; (0, 0) for none.
        places: how many tokens stand for a view of it.
        times: the seconds of each, if they are of a video, and `duration` those of the video.
    """

    grids: tuple[tuple[int, int], ...]
    places: tuple[int, ...]
    times: tuple[float, ...] | None = None
    duration: float = 0.0


class VisionLanguageCaptioner(Captioner):
    """Writes captions of pictures by asking for them.

    A prompt goes through the model's `prompt_format`, unless it is `raw`; a caption is the answer
    alone.
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

    @property
    def reads_several(self) -> bool:  # type: ignore[override]
        """Whether several pictures can be shown together."""
        return self.model.config.several

    def prepare(self, image: CaptionSource) -> Shown:
        read, processor = self.read(image), self.processor
        if isinstance(read, Video):
            frames = tuple(processor.prepare_frame(frame) for frame in read.frames)
            return Group(frames, read.times, read.duration)
        if isinstance(read, Group):
            return dataclasses.replace(read, pictures=tuple(map(processor.prepare, read.pictures)))
        if isinstance(read, tuple):
            return Group(tuple(map(processor.prepare, read)))
        return processor.prepare(read)

    def shape(self, picture: Shown) -> Any:
        # Single pictures share programs, whatever their tiles.
        if not isinstance(picture, Group):
            return None
        return picture.is_video, padded_views(sum(len(each.views) for each in picture.pictures))

    def places(self, picture: Shown) -> int:
        """How many tokens stand for what was prepared."""
        return self.model.config.places * sum(len(each.views) for each in pictures_of(picture))

    def arrangement(self, picture: Shown) -> Arrangement:
        """What a prompt must know of what was prepared."""
        pictures = pictures_of(picture)
        places = (self.model.config.places,) * len(pictures)
        grids = tuple(each.grid for each in pictures)
        if isinstance(picture, Group):
            return Arrangement(grids, places, picture.times, picture.duration)
        return Arrangement(grids, places)

    @property
    def largest(self) -> Arrangement:
        """The arrangement of the picture that takes the most tokens."""
        return Arrangement((self.processor.most_tiles,), (self.model.config.places,))

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

    def prompt_in(self, language: str, prompt: str = "") -> str:
        how = self.prompt_format
        if how.speak is None:
            return super().prompt_in(language, prompt)
        return how.speak(prompt or how.prompt, language_of(language))

    def asking(self, prompt: str = "") -> Callable[[Arrangement], list[int]]:
        """All tokens of a prompt in the model's format, by the `Arrangement` of its pictures.

        Raises `GenerationError` if the prompt contains a token that is no text.
        """
        [asked] = self._asked([prompt], system="", raw=False)
        return asked

    def check_prompt(self, prompt: Sequence[int], new_tokens: int = 1) -> None:
        """Raise `LengthError` if the model cannot read a whole prompt and so many new tokens."""
        if isinstance(prompt, Begun):
            check_positions(len(prompt.question), prompt.room)
        else:
            check_positions(len(prompt) + new_tokens, self._max_positions)

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

    def _whole_prompt(self, asked: Any, picture: Shown, config: GenerationConfig) -> list[int]:
        return asked(self.arrangement(picture))

    def _encode_prompt(self, prompt: str, system: str, raw: bool, shown: Arrangement) -> list[int]:
        how = self.prompt_format
        for rows, columns in shown.grids:
            if how.tiles is not None and rows:
                last = how.tiles.cell.format(row=rows, column=columns)
                if self.tokenizer.special_ids.isdisjoint(self.tokenizer.encode_special([last])[0]):
                    raise OptionError(
                        f"a picture of {rows} x {columns} tiles: the tokenizer has no {last}; give "
                        "a smaller `image_size`"
                    )
        if shown.times is None:
            pairs = zip(shown.places, shown.grids, strict=True)
            texts = [how.picture_text(places, grid) for places, grid in pairs]
        else:
            texts = [how.video_text(shown.places, shown.times, shown.duration)]
        if raw:
            text = how.start + "".join(texts) + prompt
        else:
            text = how.text(prompt or None, pictures=texts, system=system or None)
        return self.tokenizer.encode_special([text])[0]

    def _spoken(self, asked: Any) -> list[int]:
        return []  # the prompt is a question

    def inputs(self, pictures: Sequence[Any], rows: int) -> UInt8[np.ndarray, "rows views h w 3"]:
        shown = [[view for one in pictures_of(each) for view in one.views] for each in pictures]
        several = any(isinstance(each, Group) for each in pictures)
        most = max(map(len, shown))
        count = (
            padded_views(most) if several else next((size for size in VIEWS if size >= most), most)
        )
        views = np.zeros((rows, count, *self.processor.size, 3), np.uint8)
        for row, found in enumerate(shown):
            views[row, : len(found)] = found
        return views

    def encode(self, model: Any, inputs: Any) -> Features:
        scale, offset = self.processor.factors
        return model.encode(jnp.asarray(inputs, jnp.float32) * scale + offset)

    def _save_processor(self, folder: Path) -> None:
        super()._save_processor(folder)
        if self.prompt_format.tiles is not None:
            contents = json.dumps({PLACES: self.model.config.places}, indent=2)
            (folder / PROCESSOR).write_text(contents + "\n")


def pictures_of(picture: Shown) -> tuple[Prepared, ...]:
    """The pictures that were prepared together, or the one."""
    return picture.pictures if isinstance(picture, Group) else (picture,)


def padded_views(count: int) -> int:
    """The number of views that several pictures of so many are filled up to."""
    if count <= VIEWS_STEP:
        return 1 << (count - 1).bit_length()
    return -(-count // VIEWS_STEP) * VIEWS_STEP


def check_places(directory: Path, places: int) -> None:
    """Raise `CheckpointError` if a checkpoint says that a view takes another number of tokens."""
    path = directory / PROCESSOR
    said = read_json(path).get(PLACES) if path.is_file() else None
    if said is not None and said != places:
        raise CheckpointError(
            f"{path}: {PLACES}={quoted(said)}, and the model of {CONFIG} makes {places} tokens of "
            "a view; the files are of different checkpoints, so download them again"
        )
