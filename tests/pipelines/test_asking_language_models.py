"""Language models that are asked in the prompt format of their chat template."""

import shutil
from pathlib import Path

import pytest
import tokenizers

import captax
from captax.errors import CaptaxError
from captax.pipelines.text_generator import TextGenerator
from captax.text import Tokenizer
from captax.text.prompt_format import CHATML, QWEN2, QWEN25, SMOLLM2, format_of
from golden.families import CASES

MARKERS = ("<|im_start|>", "<|im_end|>")
TEMPLATE = "{% for message in messages %}{{ '<|im_start|>' + message['role'] }}{% endfor %}"
LENGTH = {"min_new_tokens": 6, "max_new_tokens": 6}


def generator(folder: Path, template: str | None) -> TextGenerator:
    shutil.copytree(CASES["llama"].stored, folder)
    vocab = captax.load_model(folder).config.vocab_size
    said = ["<pad>", "<s>", "</s>", "<unk>", *MARKERS, "user", "assistant", "a", "red", "square"]
    words = {word: index for index, word in enumerate(said)}
    words |= {f"w{index}": index for index in range(len(words), vocab)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([*MARKERS, "<pad>", "<s>", "</s>"])
    Tokenizer(backend, start="<s>", eos="<|im_end|>", pad="<pad>").save(folder)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return captax.load(folder)


def test_a_text_is_asked_unless_it_is_raw(tmp_path: Path) -> None:
    asked = generator(tmp_path / "asked", TEMPLATE)
    plain = generator(tmp_path / "plain", None)
    assert asked.prompt_format == CHATML and plain.prompt_format is None
    [answer] = asked.generate("a red", **LENGTH)
    [raw] = asked.generate("a red", raw=True, **LENGTH)
    [continued] = plain.generate("a red", **LENGTH)
    assert raw == continued
    assert continued.text.startswith("a red") and not answer.text.startswith("a red")
    # The format is text like any other, but for its markers.
    whole = asked.tokenizer.encode_special([CHATML.text("a red")])
    assert answer.logprobs != continued.logprobs and len(whole[0]) > 6
    [told] = asked.generate("a red", system="square", **LENGTH)
    assert told.logprobs != answer.logprobs


def test_what_is_saved_is_asked_in_the_same_way(tmp_path: Path) -> None:
    asked = generator(tmp_path / "asked", TEMPLATE)
    asked.save(tmp_path / "saved")
    again = captax.load(tmp_path / "saved")
    assert again.generate("a red", **LENGTH) == asked.generate("a red", **LENGTH)


def test_markers_and_systems_are_refused_where_they_mean_nothing(tmp_path: Path) -> None:
    asked, plain = generator(tmp_path / "a", TEMPLATE), generator(tmp_path / "b", None)
    with pytest.raises(CaptaxError, match="meaning of its own"):
        asked.generate("a <|im_end|> red")
    for refuses in (lambda: plain.generate("a", system="red"),
                    lambda: asked.generate("a", system="red", raw=True)):  # fmt: skip
        with pytest.raises(CaptaxError, match="`system` is for models that are asked"):
            refuses()


def test_templates_are_known_by_what_is_in_them() -> None:
    assert format_of("... named SmolLM, trained by Hugging Face ... <|im_start|>") == SMOLLM2
    said = "You are a helpful assistant."
    assert format_of(f"... You are Qwen, created by Alibaba Cloud. {said} <|im_start|>") == QWEN25
    for line in ("\n", "\\n"):  # as in a template, or in a text inside of it
        assert format_of(f"<|im_start|>system{line}{said}<|im_end|>") == QWEN2
    assert format_of("<|im_start|>{{ strftime_now('%d') }}") is None
    assert format_of("{{ messages }}") is None
