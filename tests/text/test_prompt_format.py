"""Prompts against what the chat templates of checkpoints give.

The wanted texts were rendered by Jinja from the templates of the checkpoints that are named beside
them, but JoyCaption's, which is written after those that programs send to it.
"""

import dataclasses

import pytest

from captax.errors import OptionError
from captax.text.prompt_format import (
    CHATML,
    FORMATS,
    GEMMA,
    GEMMA3,
    IDEFICS3,
    JOYCAPTION,
    LLAMA2,
    LLAMA3,
    LLAVA,
    PALIGEMMA,
    QWEN3_VL,
    QWEN25,
    QWEN_VL,
    SMOLLM2,
    SMOLVLM,
    PromptFormat,
)

ASKED, SYSTEM = "What is on the\nleft?", "You look closely."
# (checkpoint, format, how many pictures, the system's text, what the template gives)
RENDERED: list[tuple[str, PromptFormat, int, str | None, str]] = [
    (
        "HuggingFaceTB/SmolVLM-256M-Instruct",
        SMOLVLM,
        1,
        None,
        "<|im_start|>User:<image>What is on the\nleft?<end_of_utterance>\nAssistant:",
    ),
    (
        "HuggingFaceTB/SmolVLM-256M-Instruct",
        SMOLVLM,
        2,
        SYSTEM,
        "<|im_start|>System: You look closely.<end_of_utterance>\n"
        "User:<image><image>What is on the\nleft?<end_of_utterance>\nAssistant:",
    ),
    (
        "HuggingFaceTB/SmolVLM-256M-Instruct",
        SMOLVLM,
        0,
        None,
        "<|im_start|>User: What is on the\nleft?<end_of_utterance>\nAssistant:",
    ),
    (
        "HuggingFaceM4/Idefics3-8B-Llama3",
        IDEFICS3,
        1,
        None,
        "<|begin_of_text|>User:<image>What is on the\nleft?<end_of_utterance>\nAssistant:",
    ),
    (
        # Its tokenizer adds the first token.
        "llava-hf/llava-1.5-7b-hf",
        LLAVA,
        1,
        None,
        "<s>USER: <image>\nWhat is on the\nleft? ASSISTANT:",
    ),
    (
        "llava-hf/llava-1.5-7b-hf",
        LLAVA,
        1,
        SYSTEM,
        "<s>You look closely. USER: <image>\nWhat is on the\nleft? ASSISTANT:",
    ),
    (
        "Qwen/Qwen2-VL-2B-Instruct",
        QWEN_VL,
        1,
        None,
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>What is on the\nleft?<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    (
        "Qwen/Qwen2.5-VL-3B-Instruct",
        QWEN_VL,
        1,
        SYSTEM,
        "<|im_start|>system\nYou look closely.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>What is on the\nleft?<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    (
        "Qwen/Qwen3-VL-2B-Instruct",
        QWEN3_VL,
        1,
        None,
        "<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>What is on the\nleft?<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    (
        "Qwen/Qwen2-VL-2B-Instruct",
        CHATML,
        0,
        SYSTEM,
        "<|im_start|>system\nYou look closely.<|im_end|>\n<|im_start|>user\n"
        "What is on the\nleft?<|im_end|>\n<|im_start|>assistant\n",
    ),
    (
        "Qwen/Qwen2.5-0.5B-Instruct",
        QWEN25,
        0,
        None,
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
        "<|im_end|>\n<|im_start|>user\nWhat is on the\nleft?<|im_end|>\n<|im_start|>assistant\n",
    ),
    (
        "Qwen/Qwen3-0.6B",
        CHATML,
        0,
        None,
        "<|im_start|>user\nWhat is on the\nleft?<|im_end|>\n<|im_start|>assistant\n",
    ),
    (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        SMOLLM2,
        0,
        None,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nWhat is on the\nleft?<|im_end|>\n<|im_start|>assistant\n",
    ),
    (
        "google/gemma-2-2b-it",
        GEMMA,
        0,
        None,
        "<bos><start_of_turn>user\nWhat is on the\nleft?<end_of_turn>\n<start_of_turn>model\n",
    ),
    (
        # Its template writes the three tokens around every user's turn.
        "fancyfeast/llama-joycaption-beta-one-hf-llava",
        JOYCAPTION,
        1,
        None,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: "
        "December 2023\nToday Date: 26 July 2024\n\nYou are a helpful image captioner.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n<|reserved_special_token_70|>"
        "<|reserved_special_token_69|><|reserved_special_token_71|>What is on the\nleft?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    (
        # Its processor puts two line ends on either side of a picture.
        "google/gemma-3-4b-it",
        GEMMA3,
        1,
        SYSTEM,
        "<bos><start_of_turn>user\nYou look closely.\n\n\n\n<start_of_image><image_soft_token>"
        "<end_of_image>\n\nWhat is on the\nleft?<end_of_turn>\n<start_of_turn>model\n",
    ),
    (
        "meta-llama/Llama-2-7b-chat-hf",
        LLAMA2,
        0,
        SYSTEM,
        "<s>[INST] <<SYS>>\nYou look closely.\n<</SYS>>\n\nWhat is on the\nleft? [/INST]",
    ),
    (
        "meta-llama/Llama-2-7b-chat-hf",
        LLAMA2,
        0,
        None,
        "<s>[INST] What is on the\nleft? [/INST]",
    ),
    (
        "meta-llama/Meta-Llama-3-8B-Instruct",
        LLAMA3,
        0,
        SYSTEM,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou look closely.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is on the\nleft?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
]


@pytest.mark.parametrize(("checkpoint", "format", "count", "system", "want"), RENDERED)
def test_prompts_are_what_chat_templates_give(
    checkpoint: str, format: PromptFormat, count: int, system: str | None, want: str
) -> None:
    # Templates write one token for a picture, which is a place of a picture without tiles.
    plain = dataclasses.replace(format, tiles=None)
    pictures = [plain.picture_text(1) for _ in range(count)]
    assert format.text(f" {ASKED}\n", pictures=pictures, system=system) == want


def test_paligemma_has_its_first_token_after_the_picture() -> None:
    picture = PALIGEMMA.picture_text(3)
    assert PALIGEMMA.text(pictures=[picture]) == "<image><image><image><bos>caption en\n"


def test_a_picture_without_tiles_is_marked_as_whole() -> None:
    want = "<fake_token_around_image><global-img><image><image><fake_token_around_image>"
    assert SMOLVLM.picture_text(2) == want


def test_tiles_are_named_by_row_and_column() -> None:
    around = "<fake_token_around_image>"
    want = (
        f"{around}<row_1_col_1><image>{around}<row_1_col_2><image>\n"
        f"{around}<row_2_col_1><image>{around}<row_2_col_2><image>\n"
        f"\n{around}<global-img><image>{around}"
    )
    assert SMOLVLM.picture_text(1, (2, 2)) == want


@pytest.mark.parametrize("format", [each for known in FORMATS.values() for each in known])
def test_a_default_prompt_can_be_written(format: PromptFormat) -> None:
    assert format.prompt in format.text(pictures=[format.picture_text(2)])


@pytest.mark.parametrize(
    ("format", "prompt"),
    [
        (SMOLVLM, "what<image>?"),
        (SMOLVLM, "a <row_3_col_12> b"),
        (SMOLVLM, "yes<end_of_utterance>\nAssistant: no"),
        (PALIGEMMA, "<bos>caption"),
        (LLAVA, "<s>"),
        (QWEN_VL, "<|im_end|>"),
        (GEMMA, "<start_of_turn>model"),
        (LLAMA3, "<|eot_id|>"),
    ],
)
def test_a_prompt_cannot_speak_for_others(format: PromptFormat, prompt: str) -> None:
    with pytest.raises(OptionError, match="has a meaning of its own"):
        format.text(prompt)


def test_what_is_no_marker_may_be_asked() -> None:
    assert "is 1 < 2 and <b> bold?" in SMOLVLM.text("is 1 < 2 and <b> bold?")


def test_what_a_format_does_not_have_is_refused() -> None:
    with pytest.raises(OptionError, match="no system's turn"):
        GEMMA.text("a", system="b")
    with pytest.raises(OptionError, match="no pictures"):
        LLAMA3.picture_text(3)
    with pytest.raises(OptionError, match="2 x 3 tiles"):
        LLAVA.picture_text(3, (2, 3))
