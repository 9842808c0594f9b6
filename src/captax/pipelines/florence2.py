"""Florence-2: a captioner that was taught tasks, some of whose answers are regions."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from captax.errors import nearest, plural, quoted
from captax.generation import GenerationConfig, GenerationError, Sequences
from captax.generation.programs import Begun
from captax.images import ImageProcessor, Prepared
from captax.models.florence2 import Florence2
from captax.pipelines.captioner import Caption
from captax.pipelines.vision_language import VisionLanguageCaptioner
from captax.text import Tokenizer
from captax.text.prompt_format import PromptFormat
from captax.text.regions import Region
from captax.text.tasks import FLORENCE2_TOKENS

_LOCATION = re.compile(r"<loc_\d{1,3}>")


class Florence2Captioner(VisionLanguageCaptioner):
    """Writes captions of pictures, or does another of its tasks.

    A prompt that begins with the token of a task, such as `<OD>`, asks for that task; what follows
    is the text or the region that it is about. `Caption.regions` are what it found. Any other
    prompt is asked as it is.
    """

    model: Florence2

    def __init__(
        self,
        model: Florence2,
        processor: ImageProcessor,
        tokenizer: Tokenizer,
        prompt_format: PromptFormat,
        generation: GenerationConfig | None = None,
    ):
        if tokenizer.vocab_size + len(FLORENCE2_TOKENS) <= model.config.text_config.vocab_size:
            tokenizer = tokenizer.with_special(FLORENCE2_TOKENS)
        super().__init__(model, processor, tokenizer, prompt_format, generation)

    def prompt_for(self, task: str, prompt: str = "") -> str:
        tasks = {each.name: each for each in self.prompt_format.tasks}
        if task not in tasks:
            raise GenerationError(f"unknown task {quoted(task)}{nearest(task, list(tasks))}")
        tasks[task].asked(prompt)
        return f"{tasks[task].token}{prompt}"

    def places(self, picture: Prepared) -> int:  # type: ignore[override]
        return self.model.config.places_of(picture.pixels.shape[:2])

    def _asked(self, prompts: Sequence[str], system: str, raw: bool) -> list[Any]:
        # A prompt may name places in the picture.
        self._refuse_special([_LOCATION.sub("", prompt) for prompt in (*prompts, system)])
        for prompt in prompts:
            self._question(prompt, system, raw)
        return [(prompt, system, raw) for prompt in prompts]

    def asking(self, prompt: str = "") -> Callable[..., list[int]]:
        [asked] = self._asked([prompt], system="", raw=False)
        begun = self._begun(asked, self.processor.size)
        return lambda shown: begun  # pictures have one size

    def _question(self, prompt: str, system: str, raw: bool) -> str:
        if raw:
            return prompt
        task, text = self.prompt_format.task_of(prompt)
        question = text or None if task is None else task.asked(text)
        return self.prompt_format.text(question, system=system or None)

    def _whole_prompt(  # type: ignore[override]
        self, asked: Any, picture: Prepared, config: GenerationConfig
    ) -> list[int]:
        return self._begun(asked, picture.pixels.shape[:2])

    def _begun(self, asked: Any, size: tuple[int, int]) -> Begun:
        question = self._encoded(*asked, size)
        start = self._start(self.generation)
        return Begun([start], question, self.model.text_encoder.max_positions)

    def _encode_prompt(  # type: ignore[override]
        self, prompt: str, system: str, raw: bool, size: tuple[int, int]
    ) -> list[int]:
        [text] = self.tokenizer.encode_special([self._question(prompt, system, raw)])
        config = self.model.config
        return [config.image_token_id] * config.places_of(size) + text

    def _is_told(self, asked: Any, config: GenerationConfig) -> bool:
        prompt, _, raw = asked
        task = None if raw else self.prompt_format.task_of(prompt)[0]
        rewritten = task is not None and task.reading is not None
        return not rewritten and super()._is_told(asked, config)

    def _caption(self, asked: Any, found: Sequences, config: GenerationConfig) -> Caption:
        caption = super()._caption(asked, found, config)
        prompt, _, raw = asked
        task, _ = (None, "") if raw else self.prompt_format.task_of(prompt)
        if task is None or task.reading is None:
            return caption
        answers = [
            task.reading(self.tokenizer.decode_special(said.tokens))
            for said in self._said_best_first(found, config)
        ]
        others = tuple(
            dataclasses.replace(other, text=_told(regions))
            for regions, other in zip(answers, caption.alternatives, strict=True)
        )
        return dataclasses.replace(
            caption, text=others[0].text, alternatives=others, regions=tuple(answers[0])
        )


def _told(regions: Sequence[Region]) -> str:
    """Regions as a text: their labels, each once, or how many there are."""
    labels = dict.fromkeys(region.label for region in regions if region.label)
    if labels:
        return ", ".join(labels)
    return plural(len(regions), "region") if regions else "no regions"
