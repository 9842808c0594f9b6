"""Rules for whole texts hold, whatever the tokenizer and the model."""

import functools
import json
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jsonschema
import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from captax.generation import GenerationError
from captax.generation.automaton import Automaton, avoiding, of_schema, of_words, until
from captax.pipelines.captioner import Captioner
from captax.pipelines.text_generator import TextGenerator
from captax.text import TextError, Tokenizer, train_word_tokenizer
from captax.text import schema as schema_table
from captax.text.preambles import BEGINNINGS
from tokenizer_kinds import SPECIAL, TEXTS, byte_level, llama

kinds = pytest.mark.parametrize("kind", [byte_level, llama])


@kinds
def test_a_text_is_its_pieces_in_a_row(kind: Callable[[], Tokenizer]) -> None:
    tokenizer = kind()
    for text, ids in zip(TEXTS, tokenizer.encode_plain(TEXTS), strict=True):
        said = b"".join(tokenizer.pieces[index] for index in ids)
        assert said.removeprefix(b" ") == text.encode()


@functools.cache
def words() -> Tokenizer:
    return train_word_tokenizer(
        ["a dog and a cat", "this image shows a photo of a dog"], min_count=1
    )


@functools.cache
def wordpiece() -> Tokenizer:
    """As BERT has it: what continues a word is marked, and no space stands before a point."""
    vocabulary = ["[UNK]", "a", "dog", "##s", "##gy", "cat", ".", ",", "'", "photo", "of", "the"]
    numbers = {piece: index for index, piece in enumerate(vocabulary)}
    backend = tokenizers.Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    backend.add_special_tokens(["[UNK]", *SPECIAL])
    return Tokenizer(backend, settings={"clean_up_tokenization_spaces": True})


every_kind = pytest.mark.parametrize("kind", [byte_level, llama, words, wordpiece])


def test_words_have_no_pieces() -> None:
    with pytest.raises(TextError, match="joins words by rules"):
        _ = train_word_tokenizer(["a dog"], min_count=1).pieces


@jax.jit
def apply(automaton: Automaton, scores: Any, tokens: Any, position: Any, limit: Any) -> Any:
    return automaton(scores, tokens, position, prompt=2, limit=limit)


STOPS = ("dog", "do", '",'), ("\n",), ("aab", "ab a"), ("犬",)


@functools.cache
def ending(kind: Callable[[], Tokenizer], stops: tuple[str, ...]) -> Automaton:
    tokenizer = kind()
    return until(stops, tokenizer.pieces, tokenizer.vocab_size + 5, [tokenizer.eos_id])


@kinds
@pytest.mark.parametrize("stops", STOPS, ids=repr)
@settings(max_examples=40)
@given(data=st.data())
def test_only_eos_follows_a_stop(
    kind: Callable[[], Tokenizer], stops: tuple[str, ...], data: st.DataObject
) -> None:
    tokenizer = kind()
    vocab, eos = tokenizer.vocab_size + 5, tokenizer.eos_id
    letters = st.sampled_from([*'dogab \n",', "犬", "dog park"])
    text = data.draw(st.lists(letters, max_size=12).map("".join))
    said: list[int] = []
    over = False
    for token in tokenizer.encode_plain([text])[0][:30]:
        if not over:
            said.append(token)
            written = b"".join(tokenizer.pieces[index] for index in said)
            over = any(stop.encode() in written for stop in stops)
    # What the prompt says does not count.
    row = tokenizer.encode_plain(["dog"])[0][:2]
    tokens = np.zeros((2, 40), np.int32)
    tokens[:, :2] = np.resize(row, 2)
    tokens[:, 2 : 2 + len(said)] = said
    found = np.asarray(
        apply(ending(kind, stops), jnp.ones((2, vocab)), tokens, jnp.int32(2 + len(said)), 99)
    )
    allowed = np.flatnonzero(np.isfinite(found[0])).tolist()
    assert allowed == ([eos] if over else [*range(vocab)])
    np.testing.assert_array_equal(found[0], found[1])


def counting(kind: Callable[[], Tokenizer], most: int) -> Automaton:
    tokenizer = kind()
    counting = of_words(tokenizer.written, tokenizer.vocab_size + 5, [tokenizer.eos_id])
    return counting.with_words(most)


@every_kind
@pytest.mark.parametrize("most", [1, 2, 5])
def test_no_text_has_more_words(kind: Callable[[], Tokenizer], most: int) -> None:
    tokenizer, automaton = kind(), counting(kind, most)
    vocab, rows, limit = tokenizer.vocab_size, 32, 40
    rng = np.random.default_rng(most)
    # What makes words and ends them comes more often than single bytes.
    likely = [tokenizer.encode_plain([text])[0] for text in (" cat", " a", "a dog", " ", ".", "\n")]
    favourite = np.zeros(vocab + 5)
    favourite[[token for ids in likely for token in ids if token != tokenizer.unk_id]] = 4
    favourite[vocab:] = -99
    tokens = np.full((rows, 160), tokenizer.pad_id, np.int32)
    tokens[:, :2] = tokenizer.start_id
    ended = np.zeros(rows, bool)
    for position in range(2, limit):
        scores = (rng.gumbel(size=(rows, vocab + 5)) + favourite).astype(np.float32)
        scores[:, tokenizer.eos_id] -= 5
        found = np.asarray(apply(automaton, scores, tokens, jnp.int32(position), limit))
        assert np.isfinite(found[:, tokenizer.eos_id]).all()
        best = found.argmax(-1)
        tokens[:, position] = np.where(ended, tokenizer.pad_id, best)
        ended |= best == tokenizer.eos_id
    counts = [len(tokenizer.decode(row[2:limit].tolist()).split()) for row in tokens]
    assert max(counts) == most and min(counts) > 0


SPACED = (
    "cd",
    "dog",
    " ",
    "  ",
    "\n",
    ".",
    "é",
    "犬",
    "\u3000",
    "\xa0",
    "\u2003",
    "\u2027",
    "dog park",
)


@pytest.mark.parametrize("kind", [byte_level, llama])
@settings(max_examples=40)
@given(text=st.lists(st.sampled_from(SPACED), max_size=9).map("".join))
def test_words_are_counted_as_they_are_written(kind: Callable[[], Tokenizer], text: str) -> None:
    """A text of so many words may be written, and one word more may not."""
    tokenizer = kind()
    ids = tokenizer.encode_plain([text + " dog"])[0][:60]
    count = len(tokenizer.decode(ids).split())
    tokens = np.full((1, 70), tokenizer.pad_id, np.int32)
    tokens[:, :2], tokens[:, 2 : 2 + len(ids)] = tokenizer.start_id, ids

    def refused(most: int) -> bool:
        automaton, scores = counting(kind, most), np.zeros((1, tokenizer.vocab_size + 5))
        positions = range(2, 2 + len(ids))
        return any(
            np.isneginf(apply(automaton, scores, tokens, jnp.int32(place), 99)[0, tokens[0, place]])
            for place in positions
        )

    assert not refused(count)
    assert count < 2 or refused(count - 1)


def test_the_last_word_is_not_gone_on_with_for_want_of_another() -> None:
    tokenizer, automaton = byte_level(), counting(byte_level, 2)
    said = tokenizer.encode_plain(["a dog"])[0]
    [letter], [point], [comma] = tokenizer.encode_plain(["s", ".", ","])
    another = tokenizer.written.index(b" en")
    tokens = np.zeros((1, 40), np.int32)
    tokens[:, 2 : 2 + len(said)] = said
    position = jnp.int32(2 + len(said))
    for score, allowed in ((2.0, True), (0.5, False)):
        scores = np.full((1, tokenizer.vocab_size + 5), -5.0, np.float32)
        scores[0, [another, letter]] = 1.0, score
        [found] = np.asarray(apply(automaton, scores, tokens, position, 99))
        assert np.isneginf(found[another])
        assert np.isfinite(found[[letter, comma]]).tolist() == [allowed, allowed]
        assert np.isfinite(found[[point, tokenizer.eos_id]]).all()


@every_kind
def test_the_last_word_asks_for_no_other(kind: Callable[[], Tokenizer]) -> None:
    tokenizer = kind()
    tokens = np.zeros((1, 40), np.int32)
    scores = np.zeros((1, tokenizer.vocab_size + 5), np.float32)
    article, dog = (tokenizer.encode_plain([text])[0][-1] for text in ("a", "dog"))
    for most, allowed in ((1, False), (2, True)):
        [found] = np.asarray(apply(counting(kind, most), scores, tokens, jnp.int32(2), 99))
        assert np.isfinite(found[article]) == allowed and np.isfinite(found[dog])


@every_kind
@pytest.mark.parametrize(
    "text", ["This image shows a dog", ' "A photo of a dog', "In this  picture", "a photo of a dog"]
)
def test_no_text_begins_with_a_preamble(kind: Callable[[], Tokenizer], text: str) -> None:
    tokenizer = kind()
    vocab = tokenizer.vocab_size + 5
    automaton = avoiding(BEGINNINGS, tokenizer.written, vocab, [tokenizer.eos_id])
    for begin, whole in (("", False), ("the ", True), ("a dog ", True)):
        ids = tokenizer.encode_plain([begin + text])[0]
        if tokenizer.unk_id in ids:
            continue
        tokens = np.zeros((1, 80), np.int32)
        tokens[:, 2 : 2 + len(ids)] = ids
        scores = np.zeros((1, vocab), np.float32)
        allowed = [
            np.asarray(apply(automaton, scores, tokens, jnp.int32(2 + i), 99))[0]
            for i in range(len(ids))
        ]
        assert (
            all(np.isfinite(each[token]) for each, token in zip(allowed, ids, strict=True)) == whole
        )
        assert all(np.isfinite(each[tokenizer.eos_id]) for each in allowed)


@pytest.mark.parametrize("text", ["A photographer of birds", "Surely a dog", "The images of it"])
def test_other_words_may_begin_a_text(text: str) -> None:
    tokenizer = byte_level()
    vocab = tokenizer.vocab_size
    automaton = avoiding(["a photo of", "sure!", "the image of"], tokenizer.written, vocab, [])
    ids = tokenizer.encode_plain([text])[0]
    tokens = np.zeros((1, 80), np.int32)
    tokens[:, 2 : 2 + len(ids)] = ids
    for i, token in enumerate(ids):
        scores = np.zeros((1, vocab), np.float32)
        found = apply(automaton, scores, tokens, jnp.int32(2 + i), 99)
        assert np.isfinite(found[0, token])


SCHEMAS: dict[str, dict[str, Any]] = {
    "flat": {
        "type": "object",
        "properties": {"caption": {"type": "string"}, "people": {"type": "integer"}},
        "required": ["caption", "people"],
    },
    "tags": {
        "type": "object",
        "properties": {
            "kind": {"enum": ["photo", "drawing"]},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 9}, "maxItems": 3},
        },
        "required": ["kind", "tags"],
    },
    "yes": {"type": "boolean"},
}


@functools.cache
def described(kind: Callable[[], Tokenizer], name: str) -> Automaton:
    tokenizer = kind()
    plain = [b"" if i in tokenizer.special_ids else p for i, p in enumerate(tokenizer.pieces)]
    vocab = tokenizer.vocab_size + 5
    return of_schema(json.dumps(SCHEMAS[name]), plain, vocab, [tokenizer.eos_id])


@kinds
@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("spare", [0, 1, 30])
def test_every_text_is_what_the_schema_says(
    kind: Callable[[], Tokenizer], name: str, spare: int
) -> None:
    tokenizer, automaton = kind(), described(kind, name)
    rows, limit = 16, 2 + automaton.shortest + spare
    rng = np.random.default_rng(spare)
    tokens = np.full((rows, 160), tokenizer.pad_id, np.int32)
    tokens[:, :2] = tokenizer.start_id
    ended = np.zeros(rows, bool)
    for position in range(2, limit):
        scores = rng.gumbel(size=(rows, tokenizer.vocab_size + 5)).astype(np.float32)
        found = np.asarray(apply(automaton, scores, tokens, jnp.int32(position), limit))
        assert np.isfinite(found.max(-1)[~ended]).all()
        best = found.argmax(-1)
        tokens[:, position] = np.where(ended, tokenizer.pad_id, best)
        ended |= best == tokenizer.eos_id
    assert ended.all()
    texts = [tokenizer.decode(row[2:limit].tolist()) for row in tokens]
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMAS[name])
    assert spare < 30 or len(set(texts)) > 1


@pytest.fixture(scope="module")
def generator(make_model: Callable[..., Any]) -> TextGenerator:
    tokenizer = byte_level()
    config = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}
    return TextGenerator(make_model({**config, "vocab_size": 310}), tokenizer)


@pytest.mark.parametrize("how", [{"num_beams": 1}, {"num_beams": 3}, {"do_sample": True}])
def test_what_is_generated_parses(generator: TextGenerator, how: dict[str, Any]) -> None:
    schema = SCHEMAS["tags"]
    found = generator.generate(["a dog", "ab"], max_new_tokens=60, json_schema=schema, **how)
    for text, said in zip(["a dog", "ab"], found, strict=True):
        jsonschema.validate(json.loads(said.text.removeprefix(text)), schema)


def test_options_of_a_checkpoint_do_not_break_a_schema(generator: TextGenerator) -> None:
    """As BART's and Florence-2's checkpoints have them: a first token, and no trigram twice."""
    own = {"forced_bos_token_id": 7, "no_repeat_ngram_size": 2, "min_length": 30}
    made = TextGenerator(
        generator.model, byte_level(), generator.generation.replace(**own, suppress_tokens=[5])
    )
    for how in ({"num_beams": 1}, {"num_beams": 3}):
        [said] = made.generate("a", max_new_tokens=60, json_schema=SCHEMAS["tags"], **how)
        assert said.tokens[0] == 7
        text = byte_level().decode(said.tokens[1:])
        jsonschema.validate(json.loads(text), SCHEMAS["tags"])


def test_a_text_ends_before_the_stop(generator: TextGenerator) -> None:
    options: dict[str, Any] = {"num_beams": 1, "max_new_tokens": 40}
    [whole] = generator.generate("ab", **options)
    written = whole.text[2:]
    found = re.search("[ -~]{2}", written[3:])
    assert found
    stop, place = found[0], written.index(found[0])
    [ended] = generator.generate("ab", stop_strings=[stop, "never"], **options)
    assert ended.text == "ab" + written[:place].rstrip()
    assert len(ended.tokens) < len(whole.tokens) and ended.tokens[-1] == byte_level().eos_id
    [free] = generator.generate("ab", stop_strings="never said", **options)
    assert free == whole


def test_words_are_cut_where_they_cannot_be_ended(
    tiny_captioner: Captioner,
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    [whole] = tiny_captioner.caption(picture)
    first, second, *_ = whole.text.split()
    [found] = tiny_captioner.caption(picture, stop_strings=[f" {second}"])
    assert found.text == first
    with pytest.raises(GenerationError, match="joins words by rules"):
        tiny_captioner.caption(picture, json_schema={"type": "boolean"})


WAYS: list[dict[str, Any]] = [
    {"num_beams": 1},
    {"num_beams": 3, "num_return_sequences": 3},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "num_return_sequences": 4},
    {"do_sample": True, "num_return_sequences": 3},
]


@pytest.mark.parametrize("how", WAYS, ids=["greedy", "beams", "groups", "sampling"])
def test_captions_have_few_words(tiny_captioner: Captioner, how: dict[str, Any]) -> None:
    """Even if the model is to write more tokens: here, words of a vocabulary."""
    pictures = list(np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8))
    options = {**how, "max_new_tokens": 8, "min_new_tokens": 7}
    free = tiny_captioner.caption(pictures, **options)
    assert tiny_captioner.caption(pictures, max_words=9, **options) == free
    for caption in tiny_captioner.caption(pictures, max_words=3, **options):
        for other in caption.alternatives:
            assert 0 < len(other.text.split()) <= 3 and np.isfinite(other.score)


def test_rules_hold_together(generator: TextGenerator) -> None:
    options: dict[str, Any] = {"do_sample": True, "num_return_sequences": 8, "temperature": 2.0}
    options |= {"max_new_tokens": 30, "min_new_tokens": 20, "preamble": False}
    [said] = generator.generate("a dog", max_words=2, stop_strings=["e", "o"], **options)
    for other in said.alternatives:
        written = other.text.removeprefix("a dog")
        assert len(written.split()) <= 2 and not {"e", "o"} & set(written)
        assert np.isfinite(other.score)
    assert max(len(other.text.split()) for other in said.alternatives) > 2


def test_what_is_removed_is_told(
    tiny_captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    [whole] = tiny_captioner.caption(picture)
    monkeypatch.setattr(
        tiny_captioner, "decode", lambda rows: [f"A photo of {row}" for row in rows]
    )
    [free] = tiny_captioner.caption(picture)
    assert free.text.startswith("A photo of [") and free.removed == ""
    monkeypatch.setattr(
        tiny_captioner,
        "decode",
        lambda rows: [f"A photo of a {len(row)}" for row in rows if row] or [""],
    )
    [found] = tiny_captioner.caption(picture, preamble=False)
    assert found.text.startswith("A ") and found.removed == "A photo of"
    assert found.text == found.alternatives[0].text and found.tokens == whole.tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_words": 0}, "`max_words` is 0; it must be 1 or more"),
        ({"max_words": 3, "force_words": ["a"]}, "`force_words` and `max_words` may contradict"),
        ({"max_words": 3, "json_schema": {}}, "`max_words` and `json_schema` may contradict"),
        ({"preamble": False, "json_schema": {}}, "`preamble` and `json_schema` may contradict"),
        ({"json_schema": SCHEMAS["flat"], "max_new_tokens": 5}, "needs .* tokens at least and"),
        ({"json_schema": "{"}, "is not JSON"),
        ({"json_schema": "3"}, "give a JSON object, a schema"),
        ({"json_schema": {"type": "no such"}}, "cannot be followed"),
        ({"json_schema": {}, "stop_strings": "a"}, "`stop_strings` and"),
        ({"json_schema": {}, "bad_words": ["a"]}, "`bad_words` and `json_schema` may contradict"),
        ({"json_schema": {}, "min_new_tokens": 3}, "`min_new_tokens` and"),
        ({"json_schema": "[" * 100_000}, "is not JSON"),
        ({"stop_strings": ["a", ""]}, "holds a text that is empty"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    generator: TextGenerator, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(GenerationError, match=message):
        generator.generate("ab", **options)


def test_a_strangers_schema_is_followed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_level()
    plain = [b"" if i in tokenizer.special_ids else p for i, p in enumerate(tokenizer.pieces)]
    given = plain, tokenizer.vocab_size, [tokenizer.eos_id]
    schema = json.dumps(SCHEMAS["tags"])
    here, apart = of_schema(schema, *given), of_schema(schema, *given, apart=True)
    assert here.shortest == apart.shortest
    with pytest.raises(GenerationError, match="cannot be followed"):
        of_schema('{"type": "nonsense"}', *given, apart=True)
    monkeypatch.setattr(schema_table, "SECONDS", 5)
    greedy = {"type": "string", "minLength": 10**5, "maxLength": 10**6}
    with pytest.raises(GenerationError, match="write a simpler one"):
        of_schema(json.dumps(greedy), *given, apart=True)
