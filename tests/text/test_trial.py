"""Tokenizers of strangers are tried in a process of their own, where they may crash or hang."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from captax.text import TextError, Tokenizer, train_word_tokenizer, trial

ASSETS = Path(trial.__file__).parents[1] / "assets"


@pytest.fixture
def changed(tmp_path: Path) -> Any:
    """Writes a tokenizer with some parts in the place of its own, and gives its folder."""
    train_word_tokenizer(["a dog"], min_count=1).save(tmp_path)
    path = tmp_path / "tokenizer.json"
    whole = json.loads(path.read_text())

    def write(**parts: Any) -> Path:
        path.write_text(json.dumps(whole | parts))
        return tmp_path

    return write


def test_known_tokenizers_need_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_tried", None)
    [path] = ASSETS.glob("*/tokenizer.json")
    assert trial.passes(path)
    levels = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = levels
    assert trial.is_harmless(json.loads(backend.to_str()))


def doubling(times: int) -> dict[str, Any]:
    replace = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    return {"type": "Sequence", "normalizers": [replace] * times}


def splitting(pattern: str) -> dict[str, Any]:
    regex = {"Regex": pattern}
    return {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}


@pytest.mark.slow
def test_a_tokenizer_that_takes_all_memory_is_refused(
    changed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "MEMORY", 2**30)
    with pytest.raises(TextError, match=r"tokenizer\.json: the tokenizer crashed, or took too"):
        Tokenizer.load(changed(normalizer=doubling(50)))


def test_a_tokenizer_that_takes_too_long_is_refused(
    changed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "SECONDS", 0.01)
    with pytest.raises(TextError, match="took too long"):
        Tokenizer.load(changed(pre_tokenizer=splitting("(a|a)*b")))


def test_an_unknown_pattern_that_does_its_work_is_accepted(changed: Any) -> None:
    tokenizer = Tokenizer.load(changed(pre_tokenizer=splitting("[ ]")))
    assert tokenizer.decode(tokenizer.encode_plain(["dog"])[0]) == "dog"


def test_a_panic_of_the_library_is_an_error_in_one_line() -> None:
    class Panic(BaseException):
        pass

    def panics(*_: Any, **__: Any) -> None:
        raise Panic("index out of bounds")

    tokenizer = train_word_tokenizer(["a dog"], min_count=1)
    tokenizer._backend = type(
        "Broken", (), dict.fromkeys(("decode_batch", "encode_batch"), panics)
    )()
    for call in (lambda: tokenizer.decode([7]), lambda: tokenizer.encode_plain(["a"])):
        with pytest.raises(TextError, match=r"cannot do its work .index out of bounds."):
            call()
