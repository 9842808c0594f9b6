"""Tokenizers of Hugging Face directories; values are transformers 5.23's on these files."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Tokenizers
from tokenizers import decoders, models, pre_tokenizers

from captax.text import TextError, Tokenizer

BERT_WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "dog",
    "##s",
    "cafe",
    "s",
    "'",
    ".",
    "犬",
]


def write(directory: Path, **contents: object) -> Path:
    for name, content in contents.items():
        (directory / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return directory


def bert(directory: Path, **contents: object) -> Path:
    (directory / "vocab.txt").write_text("\n".join(BERT_WORDS) + "\n", encoding="utf-8")
    return write(directory, **contents)


def bpe(directory: Path, *merges: str, suffix: str = "", **contents: object) -> Path:
    """Bytes, their word-final forms where there are such, what the merges make, and the ends."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = [letter + suffix for letter in alphabet] if suffix else []
    made = [merge.replace(" ", "") for merge in merges]
    tokens = [*alphabet, *ends, *made, "<|startoftext|>", "<|endoftext|>"]
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    return write(directory, vocab={token: n for n, token in enumerate(tokens)}, **contents)


def names(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.token(index) for index in tokenizer.encode_plain([text])[0]]


def test_bert_of_a_vocab_txt(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(bert(tmp_path))
    ids = tokenizer.encode(["  A dogs' CAF\u00c9.犬 zebra"])[0]
    assert ids == [2, 5, 6, 7, 10, 8, 11, 12, 1, 3]
    assert tokenizer.decode(ids) == "a dogs ' cafe. 犬"
    assert (tokenizer.start_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id) == (
        2,
        3,
        0,
        1,
    )


def test_bert_as_its_config_says(tmp_path: Path) -> None:
    config = {"tokenizer_class": "BertTokenizerFast", "do_lower_case": False}
    bert(tmp_path, tokenizer_config=config)
    assert Tokenizer.load(tmp_path).encode_plain(["A dog cafe\u0301"]) == [[1, 6, 1]]
    config |= {"strip_accents": True, "clean_up_tokenization_spaces": True}
    write(tmp_path, tokenizer_config=config)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode_plain(["A dog cafe\u0301"]) == [[1, 6, 8]]
    assert tokenizer.decode(tokenizer.encode(["a dog ' s"])[0]) == "a dog's"


def test_a_template_outlives_truncation(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(bert(tmp_path))
    text = ["a dog a dog", "dog", ""]
    whole = [[2, 5, 6, 5, 6, 3], [2, 6, 3], [2, 3]]
    assert tokenizer.encode_template(text) == tokenizer.encode_template(text, max_length=6) == whole
    assert tokenizer.encode_template(text, max_length=4) == [[2, 5, 6, 3], *whole[1:]]
    assert tokenizer.encode_plain(text) == [[5, 6, 5, 6], [6], []]
    with pytest.raises(TextError, match="max_length 2 leaves no room"):
        tokenizer.encode_template(text, max_length=2)


@pytest.mark.parametrize("named", [True, False])
def test_blips_added_tokens(tmp_path: Path, named: bool) -> None:
    enc, dec = len(BERT_WORDS) + 1, len(BERT_WORDS)
    added = {"[ENC]": enc, "[DEC]": dec}
    listed = {str(index): {"content": token, "special": True} for token, index in added.items()}
    config = {"added_tokens_decoder": listed, "bos_token": "[DEC]"}
    if named:
        bert(tmp_path, tokenizer_config={**config, "tokenizer_class": "BertTokenizer"})
    else:
        bert(tmp_path, added_tokens=added, config={"model_type": "blip"})
        special = {"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]}
        write(tmp_path, special_tokens_map=special)
    Tokenizer.load(tmp_path).save(tmp_path / "saved")
    for directory in (tmp_path, tmp_path / "saved"):
        tokenizer = Tokenizer.load(directory)
        assert (tokenizer.start_id, tokenizer.eos_id, tokenizer.vocab_size) == (dec, 3, enc + 1)
        assert tokenizer.token(enc) == "[ENC]"
        assert tokenizer.decode([6, dec, 6]) == "dog dog"


def test_gpt2_of_a_vocab_json_and_merges(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(bpe(tmp_path, "d o", "do g", "Ġ dog"))
    assert names(tokenizer, "dog dog  do's é") == [
        "dog",
        "Ġdog",
        "Ġ",
        "Ġ",
        "do",
        "'",
        "s",
        "Ġ",
        "Ã",
        "©",
    ]
    assert tokenizer.decode(tokenizer.encode(["  dog .é🐕 "])[0]) == "  dog .é🐕 "
    assert tokenizer.token(tokenizer.start_id) == "<|endoftext|>"
    assert tokenizer.start_id == tokenizer.eos_id == tokenizer.pad_id
    assert tokenizer.encode_template(["dog"]) == tokenizer.encode_plain(["dog"])
    write(tmp_path, tokenizer_config={"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True})
    assert names(Tokenizer.load(tmp_path), "dog") == ["Ġdog"]


def test_clip(tmp_path: Path) -> None:
    bpe(tmp_path, "d o", "do g</w>", "do g", suffix="</w>")
    tokenizer = Tokenizer.load(tmp_path)
    assert names(tokenizer, " DOG  dogs's 12") == [
        *("dog</w>", "dog", "s</w>", "'", "s</w>", "1</w>", "2</w>"),
    ]
    [ids] = tokenizer.encode_template(["Dog a"], max_length=4)
    assert [tokenizer.token(index) for index in ids] == [
        *("<|startoftext|>", "dog</w>", "a</w>", "<|endoftext|>"),
    ]
    assert tokenizer.decode(ids) == "dog a"
    assert tokenizer.pad_id == tokenizer.eos_id == tokenizer.start_id + 1
    tokenizer.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").decode(ids) == "dog a"


def siglip(directory: Path, **contents: object) -> Path:
    """Pieces of words with scores, in the order of SentencePiece's own file."""
    special = ["<pad>", "</s>", "<unk>"]
    pieces = [*special, "\u2581a", "\u2581dog", "s", "\u2581", *"abcdgo.!'A"]
    scores = [(piece, 0.0 if piece in special else -len(special)) for piece in pieces]
    backend = Tokenizers(models.Unigram(scores, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(special)
    backend.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "SiglipTokenizer", "model_max_length": 64}
    return write(directory, **{"tokenizer_config": config, **contents})


def test_siglip_reads_texts_without_capitals_and_punctuation(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(siglip(tmp_path))
    assert names(tokenizer, "  A  dog's,\n(DOG)! ") == [
        *("\u2581a", "\u2581dog", "s", "\u2581dog"),
    ]
    assert (tokenizer.eos_id, tokenizer.pad_id) == (1, 1)
    with pytest.raises(TextError, match="names no start token"):
        tokenizer.encode(["a dog"])
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    assert names(again, "A dog's!") == ["\u2581a", "\u2581dog", "s"]
    again.save(tmp_path / "again")  # what is done to texts is written once
    files = [tmp_path / name / "tokenizer.json" for name in ("saved", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_siglip_keeps_capitals_where_its_config_says_so(tmp_path: Path) -> None:
    config = {"tokenizer_class": "SiglipTokenizer", "do_lower_case": False}
    tokenizer = Tokenizer.load(siglip(tmp_path, tokenizer_config=config))
    assert names(tokenizer, "A dog.") == ["\u2581", "A", "\u2581dog"]


def test_siglip_needs_a_tokenizer_json(tmp_path: Path) -> None:
    write(tmp_path, tokenizer_config={"tokenizer_class": "SiglipTokenizer"})
    (tmp_path / "spiece.model").write_bytes(b"pieces")
    with pytest.raises(TextError, match=r"SiglipTokenizer can only be read from a tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_what_the_config_says_beside_roles_is_kept(tmp_path: Path) -> None:
    config = {
        "model_max_length": 77,
        "padding_side": "left",
        "tokenizer_class": "BertTokenizerFast",
    }
    paths = {"name_or_path": "/a/b", "special_tokens_map_file": "/a/b/c.json"}
    bert(tmp_path, tokenizer_config={**config, **paths, "do_lower_case": False})
    Tokenizer.load(tmp_path).save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert saved.items() >= {**config, "tokenizer_class": "BertTokenizer"}.items()
    assert (saved["cls_token"], saved["sep_token"], saved["do_lower_case"]) == (
        "[CLS]",
        "[SEP]",
        False,
    )
    assert not {"bos_token", "eos_token", *paths} & set(saved)
    assert names(Tokenizer.load(tmp_path / "saved"), "A dog") == ["[UNK]", "dog"]


def test_a_tokenizer_without_ends_encodes_text_but_no_captions(tmp_path: Path) -> None:
    Tokenizer.load(bert(tmp_path)).save(tmp_path)
    whole = json.loads((tmp_path / "tokenizer.json").read_text())
    del whole["model"]["vocab"]["[CLS]"], whole["post_processor"]
    whole["added_tokens"] = []
    write(tmp_path, tokenizer=whole, tokenizer_config={})
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode_plain(["a dog"]) == tokenizer.encode_template(["a dog"]) == [[5, 6]]
    assert tokenizer.decode([5, 6]) == "a dog"
    for caption in (lambda: tokenizer.encode(["a dog"]), lambda: tokenizer.pad_id):
        with pytest.raises(
            TextError, match=r"tokenizer\.json: .* names no (start|pad) token: name its special "
        ):
            caption()


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(TextError, match=match) as caught:
            Tokenizer.load(tmp_path)
        assert "\n" not in str(caught.value)

    write(tmp_path, tokenizer_config={"tokenizer_class": "BertTokenizer"})
    refused(r"tokenizer\.json: no such file, and no vocab\.txt beside it")
    write(tmp_path, tokenizer_config={"tokenizer_class": "T5Tokenizer"})
    refused(r"T5Tokenizer can only be read from a tokenizer\.json")
    bpe(tmp_path, "d o", tokenizer_config={})
    (tmp_path / "vocab.json").rename(tmp_path / "kept.json")
    refused(r"merges\.txt: cannot be used without vocab\.json")
    (tmp_path / "vocab.json").write_text("{")
    refused(r"vocab\.json: not JSON")
    (tmp_path / "kept.json").rename(tmp_path / "vocab.json")
    (tmp_path / "merges.txt").write_text("#version: 0.2\nd\n")
    refused(r"merges\.txt: not a readable tokenizer")
    (tmp_path / "merges.txt").write_text("#version: 0.2\nd zz\n")
    refused(r"merges\.txt: not a readable tokenizer .*zz")
    (tmp_path / "merges.txt").unlink()
    refused(r"vocab\.json: cannot be used without merges\.txt")
    (tmp_path / "vocab.json").unlink()

    bert(tmp_path, tokenizer_config={"bos_token": "[DEC]"})
    refused(r"vocab\.txt: the tokenizer has no '\[DEC\]', its start token")
    write(tmp_path, added_tokens={"[DEC]": 99})
    refused(r"added_tokens\.json: '\[DEC\]' should be token 99, but the vocabulary makes it 13")
    write(tmp_path, added_tokens={"[DEC]": "x"})
    refused(r"added_tokens\.json: its list of added tokens is malformed")
    write(tmp_path, tokenizer_config={"added_tokens_decoder": ["[DEC]"]})
    refused(r"tokenizer_config\.json: its list of added tokens is malformed")
    write(tmp_path, tokenizer_config={"extra_special_tokens": 1.5})
    refused(r"tokenizer_config\.json: extra_special_tokens=1.5 must be a list")
    (tmp_path / "added_tokens.json").unlink()
    write(tmp_path, tokenizer_config={"cls_token": "", "added_tokens_decoder": {}})
    refused(r"vocab\.txt: .*")
    write(tmp_path, tokenizer_config={"cls_token": "[BEGIN]"})
    refused(r"vocab\.txt: the vocabulary lacks '\[BEGIN\]', which is to begin or end a text")
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe[PAD]\n")
    refused(r"vocab\.txt: not a readable tokenizer")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.txt", "a\n" * 600_001),
        ("merges.txt", "#version: 0.2\n" + "a b\n" * 600_001),
        ("vocab.json", json.dumps({str(n): n for n in range(600_001)})),
        ("merges.txt", "a" * (64 * 2**20 + 1)),
    ],
    ids=["words", "merges", "tokens", "bytes"],
)
def test_a_vocabulary_that_takes_minutes_is_refused(
    tmp_path: Path, name: str, content: str
) -> None:
    if name != "vocab.txt":
        (tmp_path / "vocab.json").write_text('{"<|endoftext|>": 0}')
        (tmp_path / "merges.txt").write_text("")
    (tmp_path / name).write_text(content)
    with pytest.raises(TextError, match=rf"{name}: has more than 600,000 entries or 67,108,864 by"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("index", [2**63, 2**32, -1, 1.5, "1", 0, None])
def test_odd_numbers_of_tokens_are_read_or_refused_in_one_line(
    tmp_path: Path, index: object
) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"<|endoftext|>": 0, "a\0": index}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    try:
        tokenizer = Tokenizer.load(tmp_path)
    except TextError as error:
        assert str(tmp_path) in str(error) and "\n" not in str(error)
    else:
        assert tokenizer.vocab_size <= 2


@pytest.mark.parametrize(
    ("name", "added"),
    [
        ("added_tokens.json", {"x" * 10**7: 1}),
        ("added_tokens.json", {f"x{n}": n for n in range(1, 100_000)}),
        ("tokenizer_config.json", {"extra_special_tokens": [f"x{n}" for n in range(100_000)]}),
    ],
    ids=["long", "many", "special"],
)
def test_added_tokens_that_take_minutes_are_refused(
    tmp_path: Path, name: str, added: dict[str, object]
) -> None:
    (tmp_path / "vocab.json").write_text('{"<|endoftext|>": 0}')
    (tmp_path / "merges.txt").write_text("")
    (tmp_path / name).write_text(json.dumps(added))
    with pytest.raises(TextError, match="adds tokens of more than 100,000 characters"):
        Tokenizer.load(tmp_path)
