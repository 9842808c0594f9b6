"""What is told of a text while its tokens come is never taken back."""

from collections.abc import Callable

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from captax.generation.loops import COPIES, LEAST, LONGEST, first_copy_end, settled
from captax.text import Tokenizer, train_word_tokenizer
from captax.text.growing import Growing, steady, told
from tokenizer_kinds import byte_level, llama


def word_pieces() -> Tokenizer:
    """As BERT has it: what was written is cleaned up, across tokens."""
    words = ["[UNK]", *"abcdn.,!?'", "##t", "do", "n't", "'s", "'", "##'", "##.", "[PAD]", "[SEP]"]
    numbers = {word: index for index, word in enumerate(dict.fromkeys(words))}
    backend = tokenizers.Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece(cleanup=False)
    settings = {"clean_up_tokenization_spaces": True, "tokenizer_class": "BertTokenizer"}
    return Tokenizer(backend, start=None, eos="[SEP]", pad="[PAD]", settings=settings)


def clip() -> Tokenizer:
    numbers = {"a": 0, "b</w>": 1, "ab</w>": 2, ".</w>": 3, "'</w>": 4, "s</w>": 5, "<e>": 6}
    backend = tokenizers.Tokenizer(models.BPE(numbers, [], end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    settings = {"tokenizer_class": "CLIPTokenizer", "clean_up_tokenization_spaces": True}
    return Tokenizer(backend, start=None, eos="<e>", pad="<e>", settings=settings)


def words() -> Tokenizer:
    return train_word_tokenizer(["a red dog's ball, runs in the-house"], min_count=1)


KINDS = {kind.__name__: kind() for kind in (byte_level, llama, word_pieces, clip, words)}
STOPS = [(), ("dog", "\n"), ("aab", "ab a"), ("犬", " a"), ("a b", "'s")]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100)
@given(data=st.data())
def test_what_was_told_is_the_beginning_of_the_text(kind: str, data: st.DataObject) -> None:
    tokenizer = KINDS[kind]
    token = st.integers(0, tokenizer.vocab_size - 1)
    spelt = st.text("do gab\n.'é犬🐕", max_size=9)
    tokens: list[int] = []
    for part in data.draw(st.lists(st.lists(token, max_size=4) | spelt, max_size=5)):
        tokens += tokenizer.encode_plain([part])[0] if isinstance(part, str) else part
    tokens = [each for each in tokens if each != tokenizer.eos_id]
    stops = data.draw(st.sampled_from(STOPS))

    def written(count: int) -> str:
        text = tokenizer.decode(tokens[:count]).strip()
        found = [place for stop in stops if (place := text.find(stop)) >= 0]
        return text[: min(found)].rstrip() if found else text

    growing, parts = Growing(), []
    for count in range(1, len(tokens) + 1):
        so_far = written(steady(tokenizer, tokens[:count]))
        parts.append(growing.more(told(tokenizer, so_far, stops)))
    whole = written(len(tokens))
    parts.append(growing.rest(whole))
    assert "".join(parts) == whole
    assert "\N{REPLACEMENT CHARACTER}" in whole or not any(
        "\N{REPLACEMENT CHARACTER}" in part for part in parts
    )


@pytest.mark.parametrize("kind", [byte_level, llama])
def test_characters_come_whole_and_early(kind: Callable[[], Tokenizer]) -> None:
    tokenizer = KINDS[kind.__name__]
    [tokens] = tokenizer.encode_plain(["a 🐕 b"])
    growing, parts = Growing(), []
    for count in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[: steady(tokenizer, tokens[:count])]).strip()
        parts.append(growing.more(told(tokenizer, text)))
    assert [part for part in parts if part][:2] == ["a", " 🐕"]


@settings(max_examples=100)
@given(
    st.lists(st.integers(0, 3), max_size=40),
    st.lists(st.integers(0, 3), min_size=1, max_size=LONGEST),
    st.integers(0, COPIES * LONGEST + 20),
)
def test_no_loop_is_cut_before_what_is_settled(
    begun: list[int], period: list[int], length: int
) -> None:
    text = begun + [period[i % len(period)] for i in range(length)]
    cut = first_copy_end(text)
    whole = len(text) if cut is None else cut
    known = [settled(text[:count]) for count in range(len(text) + 1)]
    assert max(known) <= whole
    assert cut is None or length < LEAST or known[-1] <= cut


def test_texts_without_repetition_are_settled_at_once() -> None:
    assert [settled([*range(count)]) for count in (0, 1, 5)] == [0, 1, 5]
    assert settled([1, 2, 3, 3]) == 3
