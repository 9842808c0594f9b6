"""Required words are words of their own in what the tokenizer decodes, whatever its kind."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from captax.generation.constraints import Constraints, shortest_spelling
from captax.text import Tokenizer, train_word_tokenizer

TIME, ROWS = 16, 24
SPECIAL = ["<start>", "<eos>", "<pad>"]
PHRASES = (("cat",), ("cat", "cats"), ("b cat", "cat"), ("cats b", "b"))


def words() -> Tokenizer:
    return train_word_tokenizer(["a b bb cat cats tomcat fish catfish", "cat's"], min_count=1)


def byte_level() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [*"abcfhimost.,'", "\u0120", *(alphabet[0:6])]
    merges = [("c", "a"), ("ca", "t"), ("\u0120", "cat"), ("\u0120", "b"), ("cat", "s")]
    vocabulary = dict.fromkeys([*letters, *("".join(pair) for pair in merges)])
    backend = tokenizers.Tokenizer(models.BPE({t: i for i, t in enumerate(vocabulary)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    return Tokenizer(backend)


def word_piece() -> Tokenizer:
    pieces = ["<unk>", "a", "b", "cat", "cats", "##cat", "##b", "##s", "tom", "fish", "##fish"]
    pieces += [".", ",", "'", "s", "n", "t", "_"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(["<unk>", *SPECIAL])
    return Tokenizer(backend, settings={"clean_up_tokenization_spaces": True})


def pieces() -> Tokenizer:
    vocabulary = ["<unk>", "\u2581", "\u2581cat", "cat", "\u2581b", "b", "s", "\u2581cats"]
    vocabulary += ["a", "c", "t", "f", "i", "h", "o", "m", ".", ",", "'", "\u2581fish"]
    scored = [(piece, -float(index > 3)) for index, piece in enumerate(vocabulary)]
    backend = tokenizers.Tokenizer(models.Unigram(scored, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<unk>", *SPECIAL])
    return Tokenizer(backend)


kinds = pytest.mark.parametrize("kind", [words, byte_level, word_piece, pieces])


@functools.cache
def made(kind: Callable[[], Tokenizer]) -> Tokenizer:
    return kind()


@functools.cache
def required(kind: Callable[[], Tokenizer], phrases: tuple[str, ...]) -> Any:
    """The phrases as a captioner spells them, and a program of their rules."""
    tokenizer = made(kind)
    spelt = tuple(
        tuple(dict.fromkeys(map(tuple, tokenizer.encode_plain([each, f" {each}"]))))
        for each in phrases
    )
    eos = (tokenizer.eos_id,)
    vocab = tokenizer.vocab_size + 3  # models have more tokens
    rules = Constraints(force_words_ids=spelt).rules(vocab, eos, tokenizer.borders)

    return spelt, functools.partial(apply, rules)


@jax.jit
def apply(rules: Any, scores: Any, tokens: Any, position: Any, limit: Any) -> Any:
    """One program for each number of tokens."""
    return rules(scores, tokens, position, prompt=1, limit=limit)


def has(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text.replace("\ufffd", "x")) is not None


@kinds
@pytest.mark.parametrize("phrases", PHRASES, ids="+".join)
@pytest.mark.parametrize("spare", [0, 1, 5])
def test_every_text_has_every_word(
    kind: Callable[[], Tokenizer], phrases: tuple[str, ...], spare: int
) -> None:
    tokenizer = made(kind)
    spelt, run = required(kind, phrases)
    limit = 1 + spare + sum(shortest_spelling(each, tokenizer.borders) for each in spelt)
    rng = np.random.default_rng(spare)
    tokens = np.full((ROWS, TIME), tokenizer.pad_id, np.int32)
    tokens[:, 0] = tokenizer.start_id
    ended = np.zeros(ROWS, bool)
    for position in range(1, limit):
        scores = rng.standard_normal((ROWS, tokenizer.vocab_size + 3)).astype(np.float32)
        # Tokens of the words come often, as does what makes them longer.
        scores[:, [token for each in spelt for way in each for token in way]] += 1
        scores[:, tokenizer.borders.joins.nonzero()[0]] += 0.5
        found = np.asarray(run(scores, tokens, jnp.int32(position), jnp.int32(limit)))
        best = found.argmax(-1)
        assert np.isfinite(found.max(-1)[~ended]).all()
        tokens[:, position] = np.where(ended, tokenizer.pad_id, best)
        ended |= best == tokenizer.eos_id
    for row in tokens:
        text = tokenizer.decode(row[:limit].tolist())
        for word in phrases:
            assert has(text, word), (text, [tokenizer.token(int(i)) for i in row[:limit]])


def may_end(kind: Callable[[], Tokenizer], said: list[int]) -> bool:
    """Whether a text of these tokens may end, if it needs a cat."""
    tokenizer = made(kind)
    tokens = np.full((ROWS, TIME), tokenizer.pad_id, np.int32)
    tokens[:, : 1 + len(said)] = [tokenizer.start_id, *said]
    scores = np.zeros((ROWS, tokenizer.vocab_size + 3), np.float32)
    _, run = required(kind, ("cat",))
    found = run(scores, tokens, jnp.int32(1 + len(said)), jnp.int32(99))
    return bool(np.isfinite(found[0, tokenizer.eos_id]))


@kinds
@settings(max_examples=60)
@given(data=st.data())
def test_no_text_ends_without_the_word(kind: Callable[[], Tokenizer], data: st.DataObject) -> None:
    tokenizer = made(kind)
    spelt, _ = required(kind, ("cat",))
    cats = st.sampled_from([way for each in spelt for way in each])
    some = st.integers(0, tokenizer.vocab_size - 1).filter(lambda i: i != tokenizer.eos_id)
    parts = data.draw(st.lists(cats | some.map(lambda i: (i,)), max_size=4))
    said = [token for part in parts for token in part]
    if may_end(kind, said):
        assert has(tokenizer.decode([tokenizer.start_id, *said]), "cat")


@kinds
@settings(max_examples=60)
@given(
    text=st.lists(st.sampled_from(["a", "b", "bb", "cat", "cats", "tomcat", "catfish"]), max_size=4)
)
def test_a_text_with_the_word_may_end(kind: Callable[[], Tokenizer], text: list[str]) -> None:
    """As the tokenizer itself writes the text."""
    [said] = made(kind).encode_plain([" ".join(text)])
    assert may_end(kind, said[: TIME - 1]) == ("cat" in made(kind).decode(said[: TIME - 1]).split())


def test_marks_end_words_and_accents_do_not() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"x": 0}))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(SPECIAL)
    backend.add_tokens([",", " y", "_", "\u0301", "\u732b", "7", "-", "y "])
    borders = Tokenizer(backend).borders
    ids = {backend.id_to_token(i): i for i in range(backend.get_vocab_size())}
    assert {t for t, i in ids.items() if borders.joins[i]} == {"x", "_", "\u0301", "7", "y "}
    assert {t for t, i in ids.items() if borders.ends_inside[i]} == {"x", " y", "_", "\u0301", "7"}
    assert {t for t, i in ids.items() if borders.silent[i]} == set(SPECIAL)
