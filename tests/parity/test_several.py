"""Several pictures in one prompt, and frames of videos, against transformers, token for token."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captax
from captax.images import Video
from captax.text.prompt_format import FORMATS, SMOLVLM, in_words
from vision_language_files import NATIVE, answer_of_theirs, write

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

NAMES = ("smolvlm", "gemma3-vision", *NATIVE)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_and_videos_are_answered_as_the_reference_answers_each(
    name: str, tmp_path: Path
) -> None:
    """In one batch: a picture, two and three together, and videos of even and odd numbers."""
    folder = write(name, tmp_path / "model")
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for value in theirs.parameters():
            value.add_(0.3 * torch.randn_like(value))
    theirs.save_pretrained(folder)
    ours = captax.load(folder)
    noise = np.random.default_rng(0)

    def picture(height: int, width: int) -> np.ndarray:
        return noise.integers(0, 256, (height, width, 3), np.uint8)

    def video(count: int) -> Video:
        frames = tuple(Image.fromarray(picture(40, 64)) for _ in range(count))
        return Video(frames, tuple(0.5 + 1.5 * index for index in range(count)), 1.5 * count)

    sources = [
        [picture(50, 90), picture(96, 40)],
        picture(64, 64),
        video(4),
        [picture(40, 40), picture(33, 60), picture(90, 50)],
        video(3),
    ]
    options: dict[str, Any] = {"max_new_tokens": 8}
    found = ours.caption(sources, prompt="look red", **options)
    assert len({each.logprobs for each in found}) == len(sources)
    for source, got in zip(sources, found, strict=True):
        shown = ours.prepare(source)
        [asked] = ours._asked(["look red"], "", False)
        tokens = torch.tensor([list(ours._whole_prompt(asked, shown, ours.generation))])
        want = answer_of_theirs(theirs, name, ours, shown, tokens, **options)
        assert list(got.tokens) == want.sequences[0, tokens.shape[1] :].tolist()
        logprobs = [torch.log_softmax(each[0], -1) for each in want.logits]
        expected = [float(row[token]) for row, token in zip(logprobs, got.tokens, strict=True)]
        np.testing.assert_allclose(got.logprobs, expected, atol=1e-4)


@pytest.mark.parametrize(("count", "words"), [(1, "one"), (8, "eight"), (21, "twenty-one")])
def test_smolvlm_is_told_of_a_video_as_its_processor_tells_it(count: int, words: str) -> None:
    from transformers.models.smolvlm import processing_smolvlm as module

    if module.num2words is not None:
        assert module.num2words(count) == words
    assert in_words(count) == words
    times = [71.5 + 2.5 * index for index in range(count)]
    metadata = SimpleNamespace(fps=2.0, timestamps=times, duration=3700.9)
    markers = SimpleNamespace(
        fake_image_token="<fake_token_around_image>",
        image_token="<image>",
        global_image_token="<global-img>",
        image_seq_len=5,
    )
    shape = SimpleNamespace(shape=(1, count))
    inputs = {"pixel_values": shape, "video_metadata": [metadata]}
    known, module.num2words = module.num2words, in_words
    try:
        want = module.SmolVLMProcessor.replace_video_token(markers, inputs, 0)
    finally:
        module.num2words = known
    assert SMOLVLM.video_text([5] * count, times, 3700.9) == f" {want}"


def test_numbers_in_words() -> None:
    assert [in_words(each) for each in (0, 13, 40, 99, 100, 115, 256)] == [
        *("zero", "thirteen", "forty", "ninety-nine", "one hundred"),
        *("one hundred and fifteen", "two hundred and fifty-six"),
    ]


@pytest.mark.parametrize("count", [4, 5])
def test_qwen3_is_told_of_a_video_as_its_processor_tells_it(count: int) -> None:
    from transformers import Qwen3VLProcessor

    this = object.__new__(Qwen3VLProcessor)
    this.video_token, this.vision_start_token = "<|video_pad|>", "<|vision_start|>"
    this.vision_end_token = "<|vision_end|>"
    this.video_processor = SimpleNamespace(merge_size=2, temporal_patch_size=2)
    indices = [3 + 6 * index for index in range(count)]
    metadata = SimpleNamespace(fps=4.0, frames_indices=list(indices))
    pairs = -(-count // 2)
    inputs = {
        "video_grid_thw": torch.tensor([[pairs, 4, 6]]),
        "video_metadata": [metadata],
    }
    want = this.replace_video_token(inputs, 0)
    times = [index / 4 for index in [*indices, indices[-1]]]
    middle = [(times[2 * i] + times[2 * i + 1]) / 2 for i in range(pairs)]
    [format] = FORMATS["qwen3_vl"]
    assert format.video_text([6] * pairs, middle, 30.0) == want
