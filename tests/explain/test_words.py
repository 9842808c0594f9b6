"""Words of tokens, whatever the tokenizer."""

from collections.abc import Callable

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from captax.explain.words import merge_tokens, token_texts
from captax.text import Tokenizer, train_word_tokenizer


def of_words() -> Tokenizer:
    return train_word_tokenizer(["a dog runs on the grass"], min_count=1)


def byte_pairs() -> Tokenizer:
    """As GPT-2's, with next to no merges: every word is of many tokens."""
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(["a dog runs"], vocab_size=260, special_tokens=["<|endoftext|>"])
    backend = tokenizers.Tokenizer.from_str(bpe.to_str())
    return Tokenizer(backend, start="<|endoftext|>", eos="<|endoftext|>", pad=None)


def word_pieces() -> Tokenizer:
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog", "##gy", "run", "##s", "."]
    backend = tokenizers.Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(vocab)}, unk_token="[UNK]")
    )
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    settings = {"clean_up_tokenization_spaces": True}
    return Tokenizer(backend, start="[CLS]", eos="[SEP]", pad="[PAD]", settings=settings)


def merged(tokenizer: Tokenizer, text: str, prompt: str = "") -> list[tuple[str, tuple[int, ...]]]:
    [tokens] = tokenizer.encode_plain([text])
    begin = [tokenizer.start_id, *tokenizer.encode_plain([prompt])[0]]
    words = merge_tokens(tokenizer, begin, tokens, [-1.0 - i for i in range(len(tokens))])
    for word in words:
        assert word.logprob == sum(-1.0 - i for i in word.tokens)
    # Every token belongs to one word, in order.
    assert [i for word in words for i in word.tokens] == list(range(len(tokens)))
    return [(word.text, word.tokens) for word in words]


@pytest.mark.parametrize("make", [of_words, byte_pairs, word_pieces])
def test_words_are_those_between_spaces(make: Callable[[], Tokenizer]) -> None:
    assert [text for text, _ in merged(make(), "a dog runs")] == ["a", "dog", "runs"]
    assert merged(make(), "") == []


def test_a_word_of_words_is_a_token() -> None:
    assert merged(of_words(), "a dog") == [("a", (0,)), ("dog", (1,))]


def test_an_unknown_word_goes_by_its_own_name() -> None:
    assert [text for text, _ in merged(of_words(), "a zebra runs")] == ["a", "<unk>", "runs"]


def test_letters_of_several_tokens_stay_whole() -> None:
    """é is two bytes, the dog four: each a token, none of them text by itself."""
    found = merged(byte_pairs(), "café 🐕 runs")
    assert [text for text, _ in found] == ["café", "🐕", "runs"]
    assert len(found[0][1]) == 5 and len(found[1][1]) == 5  # a space and four bytes


def test_pieces_and_punctuation_join_their_word() -> None:
    """Clean-up takes the space before a full stop away."""
    found = merged(word_pieces(), "a doggy runs.")
    assert found == [("a", (0,)), ("doggy", (1, 2)), ("runs.", (3, 4, 5))]


def test_words_behind_a_prompt_are_those_that_were_added() -> None:
    assert [text for text, _ in merged(of_words(), "runs", "a dog")] == ["runs"]
    # What goes on with the prompt's last word is the rest of it.
    assert [text for text, _ in merged(byte_pairs(), "g runs", "a do")] == ["g", "runs"]


def test_tokens_have_texts() -> None:
    tokenizer = byte_pairs()
    assert token_texts(tokenizer, tokenizer.encode_plain([" d"])[0]) in ((" d",), (" ", "d"))
    # A model's vocabulary may be longer than the tokenizer's.
    assert token_texts(tokenizer, [tokenizer.eos_id, 10_000]) == ("<|endoftext|>", "<10000>")
