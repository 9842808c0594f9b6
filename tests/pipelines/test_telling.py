"""Captions that are told while they are written."""

from typing import Any

import numpy as np
import pytest

import captax
from captax.generation.programs import NotCompiled, compiling_elsewhere
from captax.pipelines.captioner import Captioner
from captax.text.growing import Growing
from vision_language_files import write

RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(3)]
EIGHT = {"min_new_tokens": 8, "max_new_tokens": 8}
SAMPLED = {"do_sample": True, "top_k": 0}


def told(captioner: Captioner, **options: Any) -> tuple[list[Any], list[list[str]]]:
    parts: list[list[str]] = [[] for _ in PICTURES]

    def listener(row: int) -> Any:
        growing = Growing()

        def listen(text: str) -> bool:
            parts[row].append(growing.rest(text))
            return True

        return listen

    listeners = [listener(row) for row in range(len(PICTURES))]
    return captioner.tell(PICTURES, listeners, batch_size=4, **options), parts


@pytest.mark.parametrize(
    "options",
    [{"num_beams": 1}, {**SAMPLED, "seed": 3}, {"num_beams": 3}, {**SAMPLED, "best_of": 2}],
    ids=["greedy", "sampled", "beams", "best of"],
)
def test_parts_are_the_caption(tiny_captioner: Captioner, options: dict[str, Any]) -> None:
    options = {**options, "max_new_tokens": 8, "min_new_tokens": 8}
    captions, parts = told(tiny_captioner, **options)
    whole = tiny_captioner.caption(PICTURES, batch_size=4, **options)
    for caption, want, text in zip(captions, whole, parts, strict=True):
        assert caption.text == want.text == "".join(text)
        assert caption.tokens == want.tokens
        assert caption.score == pytest.approx(want.score, abs=1e-5)
        spoken = [part for part in text if part]
        final = options.get("num_beams") == 3 or "best_of" in options
        assert len(spoken) == 1 if final else len(spoken) >= 4


def test_nothing_is_decoded_for_nobody(tiny_captioner: Captioner) -> None:
    heard: list[str] = []

    def listen(text: str) -> bool:
        heard.append(text)
        return len(heard) < 2

    tiny_captioner.tell(PICTURES[:1], [listen], num_beams=1, **EIGHT)
    assert len(heard) == 2


def test_a_row_that_nobody_hears_holds_up_no_other(tiny_captioner: Captioner) -> None:
    heard: list[str] = []
    listeners = [lambda text: False, lambda text: heard.append(text) is None]
    captions = tiny_captioner.tell(PICTURES[:2], listeners, num_beams=1, max_new_tokens=8)
    assert heard[-1] == captions[1].text


def test_nothing_is_told_before_all_programs_are_there(tiny_captioner: Captioner) -> None:
    heard: list[str] = []
    fresh = tiny_captioner.with_model(tiny_captioner.model)

    def tell() -> None:
        with compiling_elsewhere():
            listeners = [lambda text: heard.append(text) is None]
            fresh.tell(PICTURES[:1], listeners, batch_size=1, num_beams=1, **EIGHT)

    for _ in range(2):  # the program that begins, and the one that goes on
        with pytest.raises(NotCompiled) as missing:
            tell()
        missing.value.compile()
        assert heard == []
    tell()
    assert heard[-1].startswith(heard[2])


def test_stops_and_prompts(tiny_captioner: Captioner) -> None:
    options = {"num_beams": 1, **EIGHT, "stop_strings": "the red"}
    captions, parts = told(tiny_captioner, **options)
    want = tiny_captioner.caption(PICTURES, batch_size=4, **options)
    assert [each.text for each in captions[1:]] == ["red red red", "red red red red"]
    assert ["".join(text) for text in parts] == [each.text for each in want]
    captions, parts = told(tiny_captioner, num_beams=1, max_new_tokens=6, prompt="a red")
    assert ["".join(text) for text in parts] == [each.text for each in captions]
    assert all(each.text.startswith("a red") for each in captions)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smolvlm", "qwen3-vl", "florence2"])
def test_vision_language_models(name: str, tmp_path: Any) -> None:
    captioner = captax.load(write(name, tmp_path))
    options = {"prompt": "look red", "min_new_tokens": 4, "max_new_tokens": 6, "num_beams": 1}
    captions, parts = told(captioner, **options)
    want = captioner.caption(PICTURES, batch_size=4, **options)
    assert [each.text for each in captions] == [each.text for each in want]
    assert ["".join(text) for text in parts] == [each.text for each in want]
    shown = captioner.prepare(PICTURES[0])
    length = captioner.prompt_length(shown, prompt="look red")
    assert length > captioner.places(shown)
    assert captioner.prompt_length(shown, prompt="look red blue") == length + 1
