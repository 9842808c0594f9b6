import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from captax.text import TextError, Tokenizer, train_word_tokenizer

CAPTIONS = ["a dog runs", "a dog sleeps", "a cat sleeps"]


def byte_level(**roles: str | None) -> Tokenizer:
    """A tokenizer like GPT-2's: one token for both ends, no pad, no unk, no template."""
    return Tokenizer(byte_level_backend(), **{"start": "<|endoftext|>", **roles})


def byte_level_backend() -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(alphabet)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel()
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>"])
    return backend


def bert_backend() -> tokenizers.Tokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "do", "##g"]
    vocabulary = {word: index for index, word in enumerate(words)}
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.add_special_tokens(words[:4])
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return backend


def write(directory: Path, **contents: object) -> None:
    for name, content in contents.items():
        (directory / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def test_saved_and_loaded_gives_equal_ids(tmp_path: Path) -> None:
    tokenizer = train_word_tokenizer(CAPTIONS, min_count=1)
    tokenizer.save(tmp_path / "new" / "directory")
    loaded = Tokenizer.load(tmp_path / "new" / "directory")
    texts = [*CAPTIONS, "a zebra", ""]
    assert loaded.encode(texts) == tokenizer.encode(texts)
    for name in ("vocab_size", "start_id", "eos_id", "pad_id", "unk_id"):
        assert getattr(loaded, name) == getattr(tokenizer, name)
    assert not list(tmp_path.rglob("*.partial"))


def test_the_library_alone_reads_the_saved_file(tmp_path: Path) -> None:
    tokenizer = train_word_tokenizer(CAPTIONS, min_count=1)
    tokenizer.save(tmp_path)
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [*CAPTIONS, "A DOG, running!", "", "don\u2019t"]
    assert [encoding.ids for encoding in plain.encode_batch(texts)] == tokenizer.encode(texts)
    ids = tokenizer.encode(["a cat runs"])[0]
    assert plain.decode(ids) == tokenizer.decode(ids) == "a cat runs"


def test_decode_stops_at_the_first_eos() -> None:
    tokenizer = train_word_tokenizer(CAPTIONS, min_count=1)
    [dog], [cat] = (tokenizer.encode([word])[0][1:-1] for word in ("dog", "cat"))
    end, pad = tokenizer.eos_id, tokenizer.pad_id
    assert tokenizer.decode([tokenizer.start_id, dog, end, cat, end]) == "dog"
    assert tokenizer.decode([dog, cat, end, pad, pad]) == "dog cat"
    assert tokenizer.decode([dog, tokenizer.unk_id, cat]) == "dog cat"
    assert tokenizer.decode([end, dog]) == tokenizer.decode([]) == ""


@pytest.mark.parametrize("text", ["a dog <eos> runs", "<start> a <pad> dog", "<unk>"])
def test_a_special_tokens_name_in_a_caption_is_only_text(text: str) -> None:
    tokenizer = train_word_tokenizer(CAPTIONS, min_count=1)
    inside = tokenizer.encode([text])[0][1:-1]
    assert not {tokenizer.start_id, tokenizer.eos_id, tokenizer.pad_id} & set(inside)


def test_one_token_for_both_ends() -> None:
    tokenizer = byte_level(eos="<|endoftext|>", pad=None)
    assert tokenizer.start_id == tokenizer.eos_id == tokenizer.pad_id
    assert tokenizer.unk_id is None
    text = "Two dogs, naïve 🐕 <|endoftext|> end"
    ids = tokenizer.encode([text])[0]
    assert ids.count(tokenizer.eos_id) == 2
    assert tokenizer.decode(ids) == tokenizer.decode(ids[1:]) == text


@pytest.mark.parametrize("bare", [True, False])
def test_reads_a_checkpoint_that_names_cls_and_sep(tmp_path: Path, bare: bool) -> None:
    backend = bert_backend()
    backend.enable_padding(length=12)
    backend.enable_truncation(3)
    backend.save(str(tmp_path / "tokenizer.json"))
    if not bare:
        roles = {"cls_token": "[CLS]", "sep_token": {"content": "[SEP]"}, "pad_token": "[PAD]"}
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(roles))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode(["a dog a dog"]) == [[2, 4, 5, 6, 4, 5, 6, 3]]
    assert tokenizer.decode([2, 4, 5, 6, 3]) == "a dog"
    assert (tokenizer.pad_id, tokenizer.unk_id) == (0, 1)


def test_reads_gpt2_which_names_nothing(tmp_path: Path) -> None:
    byte_level_backend().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.token(tokenizer.start_id) == tokenizer.token(tokenizer.pad_id)
    assert tokenizer.token(tokenizer.eos_id) == "<|endoftext|>"


def test_the_older_map_counts_where_the_config_lists_no_added_tokens(tmp_path: Path) -> None:
    """transformers' order, in `_from_pretrained`."""
    train_word_tokenizer(CAPTIONS, min_count=1).save(tmp_path)
    roles = {"bos_token": {"content": "dog", "lstrip": True}, "eos_token": "cat"}
    write(tmp_path, special_tokens_map=roles)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.token(tokenizer.start_id) == "dog"
    assert tokenizer.token(tokenizer.eos_id) == "cat"
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    write(tmp_path, tokenizer_config={**config, "added_tokens_decoder": {}})
    assert Tokenizer.load(tmp_path).start_id == 1
    (tmp_path / "tokenizer_config.json").unlink()
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.pad_id == tokenizer.eos_id


def test_token_names_the_range_it_refuses() -> None:
    tokenizer = train_word_tokenizer(CAPTIONS, min_count=1)
    assert tokenizer.token(0) == "<pad>"
    for index in (-1, tokenizer.vocab_size):
        with pytest.raises(TextError, match=f"no token {index}: ids run from 0 to 8"):
            tokenizer.token(index)


def test_load_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(
        TextError, match=r"tokenizer\.json: no such file, and no vocab.json or merges"
    ):
        Tokenizer.load(tmp_path)

    train_word_tokenizer(CAPTIONS, min_count=1).save(tmp_path)
    whole = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(TextError, match=r"tokenizer\.json: not a readable tokenizer"):
        Tokenizer.load(tmp_path)

    (tmp_path / "tokenizer.json").write_text(whole)
    for content, fault in (("{", "not JSON"), ("[]", "expected a JSON object")):
        (tmp_path / "tokenizer_config.json").write_text(content)
        with pytest.raises(TextError, match=rf"tokenizer_config\.json: {fault}"):
            Tokenizer.load(tmp_path)

    roles = {"bos_token": "<begin>", "eos_token": "<eos>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(roles))
    with pytest.raises(TextError, match=r"tokenizer\.json: .* has no '<begin>', its start token"):
        Tokenizer.load(tmp_path)
