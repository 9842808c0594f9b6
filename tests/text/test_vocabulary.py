import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captax.text import TextError, Tokenizer, train_word_tokenizer


def words(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.token(index) for index in range(tokenizer.vocab_size)]


def test_special_tokens_then_words_by_count_then_alphabetically() -> None:
    tokenizer = train_word_tokenizer(["b a c", "c b", "d c"], min_count=1)
    assert words(tokenizer) == ["<pad>", "<start>", "<eos>", "<unk>", "c", "b", "a", "d"]
    ids = (tokenizer.pad_id, tokenizer.start_id, tokenizer.eos_id, tokenizer.unk_id)
    assert ids == (0, 1, 2, 3)


def test_rarer_words_are_unknown() -> None:
    captions = ["dog dog cat", "dog cat", "bird"]
    tokenizer = train_word_tokenizer(captions, min_count=2)
    assert words(tokenizer)[4:] == ["dog", "cat"]
    assert tokenizer.encode(["cat bird dog"]) == [[1, 5, 3, 4, 2]]


def test_the_order_of_the_captions_does_not_matter(tmp_path: Path) -> None:
    captions = [f"w{n} w{n % 7} w{n % 3}" for n in range(50)]
    train_word_tokenizer(captions, min_count=1).save(tmp_path / "a")
    train_word_tokenizer(iter(reversed(captions)), min_count=1).save(tmp_path / "b")
    a, b = ((tmp_path / name / "tokenizer.json").read_bytes() for name in "ab")
    assert a == b


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man's tri-colored dog .", ["a", "man's", "tri-colored", "dog"]),
        ("'quoted' -- dash- -dash rock-'n'-roll", ["quoted", "dash", "dash", "rock", "n", "roll"]),
        ("don\u2019t", ["don't"]),
        ('Number 2, "two"; (2)!snake_case', ["number", "2", "two", "2", "snake", "case"]),
        ("CAFÉ cafe\u0301 İZMİR Straße", ["café", "café", "i\u0307zmi\u0307r", "straße"]),
        ("собака बिल्ली 犬が走る", ["собака", "बिल्ली", "犬が走る"]),
        ("dog 🐕 runs\n\tfast", ["dog", "runs", "fast"]),
        ("", []),
        (" ... !", []),
    ],
)
def test_what_a_word_is(caption: str, expected: list[str]) -> None:
    tokenizer = train_word_tokenizer([caption, "filler"], min_count=1)
    ids = tokenizer.encode([caption])[0]
    assert [tokenizer.token(index) for index in ids] == ["<start>", *expected, "<eos>"]
    assert tokenizer.decode(ids) == " ".join(expected)


@given(st.lists(st.text(alphabet="aAbB1é'- .,<>eos", max_size=20), min_size=1))
def test_agrees_with_counting_words(captions: list[str]) -> None:
    found = [re.findall(r"\w+(?:['-]\w+)*", caption.lower()) for caption in captions]
    counts = Counter(word for caption in found for word in caption)
    expected = sorted(counts, key=lambda word: (-counts[word], word))
    if not expected:
        with pytest.raises(TextError):
            train_word_tokenizer(captions, min_count=1)
        return
    tokenizer = train_word_tokenizer(captions, min_count=1)
    assert words(tokenizer)[4:] == expected
    for caption, its_words in zip(captions, found, strict=True):
        ids = tokenizer.encode([caption])[0]
        assert tokenizer.decode(ids) == " ".join(its_words)
        # What it writes, it reads back as the same tokens.
        assert tokenizer.encode([tokenizer.decode(ids)])[0] == ids


def test_refuses_what_leaves_no_words() -> None:
    with pytest.raises(TextError, match="no word occurs 5 times"):
        train_word_tokenizer(["a dog"])
    with pytest.raises(TextError, match="no word occurs 1 times"):
        train_word_tokenizer([], min_count=1)
    with pytest.raises(TextError, match="min_count is 0"):
        train_word_tokenizer(["a dog"], min_count=0)


def test_refuses_a_single_string() -> None:
    with pytest.raises(TextError, match="give a list"):
        train_word_tokenizer("a dog runs", min_count=1)


@pytest.mark.data
def test_flickr8k(shared_data: Path) -> None:
    lines = (shared_data / "flickr8k/text/Flickr8k.token.txt").read_text().splitlines()
    captions = [line.partition("\t")[2] for line in lines]
    tokenizer = train_word_tokenizer(captions)
    counts = Counter(
        word
        for caption in captions
        for word in re.findall(r"[^\W_]+(?:['-][^\W_]+)*", caption.lower())
    )
    frequent = [word for word in counts if counts[word] >= 5]
    expected = sorted(frequent, key=lambda word: (-counts[word], word))
    assert words(tokenizer)[4:] == expected
    known = set(frequent)
    for caption, ids in zip(captions, tokenizer.encode(captions), strict=True):
        its_words = re.findall(r"[^\W_]+(?:['-][^\W_]+)*", caption.lower())
        assert tokenizer.decode(ids).split() == [word for word in its_words if word in known]
